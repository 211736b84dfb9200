"""One client's WebSocket: moves bytes between the socket and its stream, and ends it in time.

All of it runs in the event loop; the stream's arithmetic is the clock's.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections import deque
from typing import Protocol

from aiohttp import WSMessage, WSMsgType, web

from rtmtass.serve.clock import Member, Output
from rtmtass.serve.metrics import Metrics
from rtmtass.serve.options import Options
from rtmtass.serve.protocol import (
    LONGEST_MESSAGE,
    ClosingError,
    Code,
    Hello,
    parse_controls,
    parse_hello,
    parse_object,
)
from rtmtass.serve.sound import decode
from rtmtass.serve.stream import ServedStream
from rtmtass.serve.websocket import BROKEN, REASONS, StreamSocket

UNREAD_BYTES = 1 << 18
"""Output that may wait in a client's socket before its stream is held."""
_BURST, _RATE_HZ = 1000, 500
"""Messages that a client may send at once, and per second from then on. Without a limit one that
sends single samples would take the loop's whole time."""
_YIELD = 32
"""Messages after which other connections have their turn."""


class Desk(Protocol):
    """The part of the service that a connection uses."""

    options: Options
    metrics: Metrics
    stems: tuple[str, ...]

    async def open_stream(self, hello: Hello, connection: Connection) -> Member:
        """Admit a stream; raises ClosingError."""

    def close_stream(self, member: Member) -> None:
        """Free what the stream used."""

    def greeting(self, stream: ServedStream) -> dict[str, object]:
        """Return the answer to a hello."""


class Connection:
    """A client from its hello to its close frame.

    Args:
        request: that is upgraded.
        desk: the service.

    Attributes:
        member: its stream, as the clock knows it; None before the hello is answered.
    """

    def __init__(self, request: web.Request, desk: Desk) -> None:
        self._request, self._desk, self._options = request, desk, desk.options
        self.member: Member | None = None
        self.socket = StreamSocket(self._options.linger_s)
        self._loop = asyncio.get_running_loop()
        self._started_s = self._sound_s = self._loop.time()
        self._held_since_s: float | None = None
        self._unsent: deque[Output] = deque()
        self._room = asyncio.Event()
        self._room.set()
        self._has_hello = False
        self._task: asyncio.Task[None] | None = None
        self._verdict: ClosingError | None = None
        self._ending: ClosingError | None = None
        self._allowance, self._allowed_s = float(_BURST), self._started_s

    async def run(self) -> None:
        """Serve the client until its connection has ended."""
        try:
            await self.socket.prepare(self._request)
        except ConnectionError:  # gone before the answer
            self._desk.metrics.closes[BROKEN, "broken"] += 1
            return
        transport = self._request.transport
        if transport is None:  # gone meanwhile
            return
        self.socket.attach(transport)
        # Output is held back here, see `deliver`: sending must never wait, and the system must
        # not take megabytes for a client that doesn't read.
        transport.set_write_buffer_limits(high=1 << 30)
        if connected := transport.get_extra_info("socket"):
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNREAD_BYTES)
        self._task = task = asyncio.current_task()
        closing, code, label = None, BROKEN, "broken"
        try:
            code, label = self.socket.ending(await self._converse())
        except ClosingError as error:
            closing = error
        except asyncio.CancelledError:
            if self._verdict is None or task is None:
                raise
            task.uncancel()
            closing = self._verdict
        finally:
            self._task = None
            if self.member:
                self._desk.close_stream(self.member)
        if closing:
            code, label = int(closing.code), closing.label
        self._desk.metrics.closes[code, label] += 1
        if closing:
            await self._close(closing, transport)

    def conclude(self, closing: ClosingError) -> None:
        """End the connection now, from outside of `run`."""
        if self._verdict is None and self._task:
            self._verdict = closing
            self._task.cancel()

    def expire(self, closing: ClosingError) -> None:
        """Return what was received so far, then end the connection; later sound is dropped."""
        if self.member is None:
            self.conclude(closing)
        elif self._ending is None or self._ending.code is Code.DONE:
            self._ending = closing
            self.member.stream.end()

    def check(self, now_s: float) -> None:
        """End the connection if one of its times is over; called a few times a second."""
        options = self._options
        if self.member is None:
            if not self._has_hello and now_s - self._started_s > options.hello_s:
                self.conclude(ClosingError(Code.POLICY, "no_hello", f"no hello within"
                    f" {options.hello_s:g} s; send a text message with a JSON object first"
                    ))  # fmt: skip
            return
        held_s = self._held_since_s
        if held_s is not None and now_s - held_s > options.stall_s:
            self.conclude(ClosingError(Code.POLICY, "not_reading", "the output was not read for"
                f" {options.stall_s:g} s; read and write at the same time"))  # fmt: skip
        if self._ending is None and self._room.is_set() and now_s - self._sound_s > options.idle_s:
            self.expire(ClosingError(Code.POLICY, "idle", f"no sound for {options.idle_s:g} s"))
        if options.longest_s is not None and now_s - self._started_s > options.longest_s:
            self.expire(ClosingError(
                Code.POLICY, "too_long", f"a connection may last {options.longest_s:g} s"
            ))  # fmt: skip

    async def deliver(self, output: Output) -> None:
        """Send a stream's output, or keep it until its socket has room; never waits."""
        self._unsent.append(output)
        await self.send()

    async def send(self) -> None:
        """Send what is unsent, as far as there is room; never waits."""
        transport, member = self._request.transport, self.member
        if transport is None or member is None or self.socket.closed:
            self._drop_output()
            return
        while self._unsent:
            output = self._unsent[0]
            waiting = transport.get_write_buffer_size()
            if waiting and waiting + len(output.payload) > UNREAD_BYTES:
                break
            self._unsent.popleft()
            try:
                await self.socket.send_bytes(output.payload)
            except ConnectionError:
                self._drop_output()
                return
            self._desk.metrics.bytes_out += len(output.payload)
            if output.is_last:
                await self._finish(output)
        member.is_held = bool(self._unsent)
        if not member.is_held:
            self._held_since_s = None
        elif self._held_since_s is None:
            self._held_since_s = self._loop.time()
        if member.stream.ahead_s <= self._options.ahead_s:
            self._room.set()

    def _drop_output(self) -> None:
        """Let `run` find out that the client is gone, for whom nothing is kept."""
        self._unsent.clear()
        if self.member:
            self.member.is_held = False
        self._held_since_s = None
        self._room.set()

    async def _converse(self) -> WSMessage:
        """Receive the hello, then sound and controls; return the message that isn't either."""
        while True:
            message = await self.socket.receive()
            await self._pace()
            if message.type is WSMsgType.PING:
                self._check_unread()
                await self.socket.pong(message.data)
            elif message.type is WSMsgType.BINARY:
                await self._receive_sound(message.data)
            elif message.type is WSMsgType.TEXT:
                await self._receive_text(message.data)
            elif message.type is not WSMsgType.PONG:
                return message

    async def _pace(self) -> None:
        """Limit the rate of messages, and give other connections a turn between them."""
        now_s = self._loop.time()
        earned = _RATE_HZ * (now_s - self._allowed_s)
        self._allowance, self._allowed_s = min(_BURST, self._allowance + earned) - 1, now_s
        if self._allowance < 0:
            await asyncio.sleep(-self._allowance / _RATE_HZ)
        elif int(self._allowance) % _YIELD == 0:
            await asyncio.sleep(0)

    async def _receive_text(self, text: str) -> None:
        if self.member is None:
            hello = parse_hello(text, self._desk.stems)
            self._has_hello = True
            self.member = await self._desk.open_stream(hello, self)
            self._sound_s = self._loop.time()
            await self.socket.send_str(json.dumps(self._desk.greeting(self.member.stream)))
            return
        found = parse_object(text)
        problem = ""
        if found == {"do": "end"}:
            if self._ending is None:
                self._ending = ClosingError(Code.DONE, "done", "all samples were returned")
                self.member.stream.end()
        elif found.get("do") == "mix":
            try:
                self.member.stream.control(parse_controls(found, self._desk.stems))
            except ValueError as error:
                problem = str(error)
        else:
            problem = 'unknown message; send {"do": "mix", "gains_db": {}} or {"do": "end"}'
        if problem:
            self._check_unread()
            await self.socket.send_str(json.dumps({"kind": "problem", "text": problem}))

    def _check_unread(self) -> None:
        """End the connection if answers pile up in its socket."""
        transport = self._request.transport
        if transport and transport.get_write_buffer_size() > 2 * UNREAD_BYTES:
            raise ClosingError(Code.POLICY, "not_reading", "the answers are not read")

    async def _receive_sound(self, data: bytes) -> None:
        if len(data) > LONGEST_MESSAGE:
            raise ClosingError(Code.TOO_BIG, "too_big", REASONS[Code.TOO_BIG])
        if self.member is None:
            raise ClosingError(Code.WRONG_TYPE, "no_hello",
                "sound before the hello; send a text message with a JSON object first"
                )  # fmt: skip
        if self._ending is not None:
            if self._ending.code is Code.DONE:
                raise ClosingError(Code.BAD_DATA, "after_end", "sound after the end")
            return
        stream = self.member.stream
        stream.add(decode(data, stream.hello))
        self._sound_s = self._loop.time()
        self._desk.metrics.bytes_in += len(data)
        if stream.ahead_s > self._options.ahead_s:
            self._room.clear()
            await self._room.wait()
            self._sound_s = self._loop.time()

    async def _finish(self, output: Output) -> None:
        """End the connection after its last samples."""
        closing = self._ending or ClosingError(Code.BUG, "bug", "a bug in rtmtass")
        if output.error:
            closing = ClosingError(Code.BUG, "bug", "a bug in rtmtass: see the server's stderr")
        elif self.member:
            stream = self.member.stream
            done = {"kind": "done", "frames": stream.n_returned, "received": stream.n_received}
            await self.socket.send_str(json.dumps(done))
        self.conclude(closing)

    async def _close(self, closing: ClosingError, transport: asyncio.Transport) -> None:
        """Send a close frame; wait for its answer for a while, so that it isn't lost."""
        linger_s = self._options.linger_s
        try:
            async with asyncio.timeout(2 * linger_s):
                await self.socket.close(code=closing.code, message=closing.message, drain=False)
        except (TimeoutError, ConnectionError):
            pass
        finally:
            # A client that doesn't read keeps the rest of its output in the socket.
            self._loop.call_later(linger_s, transport.abort)
