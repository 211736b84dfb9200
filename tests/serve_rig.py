"""A service on a free loopback port in the test's own process, and clients that talk to it."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any, TypeVar

import aiohttp
import numpy as np
from numpy.typing import NDArray

from rtmtass.serve.opening import open_served
from rtmtass.serve.options import Options
from rtmtass.serve.server import Server
from rtmtass.serve.service import Served, Service

Floats = NDArray[np.float32]
T = TypeVar("T")
SLOTS = 12
TIMEOUT_S = 240
UPGRADE = (
    b"GET /stream HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
"""The request of a client that is about to speak WebSocket."""
DTYPES = {"pcm16": "<i2", "f32": "<f4"}


@lru_cache(maxsize=1)
def served() -> Served:
    """The released model; one service at a time uses it."""
    return open_served(options=Options(max_streams=SLOTS, limit=math.inf))


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a test's coroutine; a hang is a failure."""

    async def bounded() -> T:
        async with asyncio.timeout(TIMEOUT_S):
            return await coroutine

    return asyncio.run(bounded())


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[tuple[Server, Service]]:
    """Serve; the load of the test machine refuses nobody unless `limit` is set.

    Times are long: a slow machine must not end a connection that a test doesn't want ended.
    """
    options = dataclasses.replace(
        Options(port=0, limit=math.inf, linger_s=60.0, hello_s=600.0, drain_s=0.0, idle_s=600.0),
        **settings,
    )
    service = Service(served(), options)
    server = Server(service)
    service.start()
    await server.start()
    waiting = asyncio.create_task(service.wait())
    try:
        yield server, service
    finally:
        service.drain()
        service.drain()
        await waiting
        await server.stop()


@dataclasses.dataclass
class Reply:
    """All that a client received.

    Attributes:
        greeting: the answer to the hello.
        samples: (n, R, C), R stems or 1.
        texts: further text messages.
        code, reason: of the close frame.
    """

    greeting: dict[str, Any]
    samples: Floats
    texts: list[dict[str, Any]]
    code: int
    reason: str


class Client:
    """A WebSocket client of the protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, hello: dict[str, Any]) -> None:
        self.socket, self.hello = socket, hello
        self.greeting: dict[str, Any] = {}
        self.texts: list[dict[str, Any]] = []
        self.parts: list[bytes] = []
        self.code, self.reason = 0, ""

    async def greet(self) -> None:
        await self.socket.send_str(json.dumps(self.hello))
        await self.read_one()

    async def read_one(self) -> bool:
        """Read a message; return whether the connection goes on."""
        message = await self.socket.receive()
        if message.type is aiohttp.WSMsgType.BINARY:
            self.parts.append(message.data)
        elif message.type is aiohttp.WSMsgType.TEXT:
            found = json.loads(message.data)
            if found["kind"] == "ready":
                self.greeting = found
            else:
                self.texts.append(found)
        else:
            self.code = int(self.socket.close_code or 0)
            self.reason = str(message.extra or "")
            return False
        return True

    async def read_all(self) -> Reply:
        while await self.read_one():
            pass
        return self.reply()

    def reply(self) -> Reply:
        kind = self.hello.get("format", "pcm16")
        rows = len(self.greeting.get("stems", [0])) if self.hello.get("output") != "mix" else 1
        samples = np.frombuffer(b"".join(self.parts), DTYPES[kind])
        frames = samples.reshape(-1, rows, self.hello.get("channels", 1))
        return Reply(self.greeting, frames, self.texts, self.code, self.reason)

    async def write(self, sound: Floats, chunk: int) -> None:
        """Send (n, C) sound in messages of `chunk` frames."""
        for start in range(0, len(sound), chunk):
            await self.socket.send_bytes(as_bytes(sound[start : start + chunk], self.hello))

    async def end(self) -> None:
        await self.socket.send_str('{"do": "end"}')


def as_bytes(sound: Floats, hello: dict[str, Any]) -> bytes:
    if hello.get("format", "pcm16") == "f32":
        return sound.astype("<f4").tobytes()
    return np.rint(sound * 32768).astype("<i2").tobytes()


@asynccontextmanager
async def client(server: Server, **hello: Any) -> AsyncIterator[Client]:
    """Connect; `url` is appended by the tests that need another."""
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(server.url, max_msg_size=1 << 24) as socket,
    ):
        yield Client(socket, hello)


async def separate(
    server: Server, sound: Floats, *, chunk: int = 256, pause_s: float = 0.0, **hello: Any
) -> Reply:
    """Stream a whole sound, (n, C), reading and writing at the same time."""
    async with client(server, **hello) as stream:
        await stream.greet()
        if not stream.greeting:  # refused
            return stream.reply()
        reading = asyncio.create_task(stream.read_all())
        for start in range(0, len(sound), chunk):
            await stream.write(sound[start : start + chunk], chunk)
            await asyncio.sleep(pause_s)
        await stream.end()
        return await reading


class RawClient:
    """A client that does what no library does: it stops reading, or sends half a frame."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, server: Server, receive_bytes: int = 1 << 16) -> RawClient:
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        plain.setblocking(False)
        await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", server.port))
        return cls(*await asyncio.open_connection(sock=plain, limit=4096))

    async def upgrade(self) -> None:
        self.writer.write(UPGRADE)
        assert b" 101 " in await self.reader.readuntil(b"\r\n\r\n")

    async def send(self, opcode: int, payload: bytes) -> None:
        """Send a whole frame, masked with zeros."""
        n = len(payload)
        length = bytes([0x80 | n]) if n < 126 else bytes([0x80 | 126]) + n.to_bytes(2, "big")
        self.writer.write(bytes([0x80 | opcode]) + length + bytes(4) + payload)
        await self.writer.drain()

    async def read_frame(self) -> tuple[int, bytes]:
        first, length = await self.reader.readexactly(2)
        n = length & 127
        if n > 125:
            n = int.from_bytes(await self.reader.readexactly(2 if n == 126 else 8), "big")
        return first & 15, await self.reader.readexactly(n)

    async def read_close(self) -> tuple[int, str]:
        """Read until the close frame; return its code and reason."""
        while True:
            opcode, payload = await self.read_frame()
            if opcode == 8:
                return int.from_bytes(payload[:2], "big"), payload[2:].decode()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; `run` bounds the time."""
    while not condition():
        await asyncio.sleep(0.005)
