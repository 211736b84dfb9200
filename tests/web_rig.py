"""The page's server for tests: in this process with a stand-in for the engine, or the command."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from rtmtass.config import ModelConfig
from rtmtass.live.controls import ControlState
from rtmtass.live.messages import Message
from rtmtass.live.page_controls import initial_state
from rtmtass.types import Bytes
from rtmtass.web.engine_process import Listener
from rtmtass.web.server import Server, Setup, listen

TIMEOUT_S = 60.0
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(Path(__file__).parent.parent),
    "OMP_NUM_THREADS": "1",
}


class FakeEngine:
    """An engine that notes its messages; the test lets it report, end and fail."""

    def __init__(
        self, input: str | None, output: str | None, controls: ControlState, listener: Listener
    ) -> None:
        self.devices, self.controls, self.listener = (input, output), controls, listener
        self.messages: list[Message] = []

    def send(self, message: Message) -> bool:
        self.messages.append(message)
        return True

    def stop(self) -> None:
        self.listener.ended("")


class Rig:
    """A server in this process, its engines so far, and requests to it.

    Attributes:
        engines: that have been started, the newest last.
    """

    def __init__(self, session: aiohttp.ClientSession, **changes: Any) -> None:
        self.session = session
        self.engines: list[FakeEngine] = []
        config = ModelConfig()
        options: dict[str, Any] = {"start": self._start, **changes}
        setup = Setup(
            "rtmtass-small", config, "auto", 1, initial_state(config.stems, {}), **options
        )
        self.server = Server(setup, listen(0))

    def _start(self, *arguments: Any) -> FakeEngine:
        self.engines.append(FakeEngine(*arguments))
        return self.engines[-1]

    @property
    def address(self) -> str:
        return self.server.address

    @property
    def origin(self) -> str:
        return origin_of(self.address)

    async def get(self, path: str, **options: Any) -> tuple[int, str]:
        async with self.session.get(self.address + path, **options) as response:
            return response.status, await response.text()

    @asynccontextmanager
    async def page(self) -> AsyncIterator[PageSocket]:
        """Connect as a page does."""
        async with connected(self.session, self.address) as page:
            yield page


@asynccontextmanager
async def connected(session: aiohttp.ClientSession, address: str) -> AsyncIterator[PageSocket]:
    async with session.ws_connect(f"{address}ws", origin=origin_of(address)) as socket:
        yield PageSocket(socket)


def origin_of(address: str) -> str:
    return address[: address.index("/", len("http://"))]


class PageSocket:
    """A page's WebSocket: sends messages, waits for states, problems and pictures."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.columns = 0
        self.newest: dict[str, Any] = {}

    async def send(self, do: str, **values: Any) -> None:
        await self.socket.send_str(json.dumps({"do": do, **values}))

    async def receive(self) -> dict[str, Any] | Bytes:
        """Return the next frame: an object, or a picture's (columns, rows, bands)."""
        message = await asyncio.wait_for(self.socket.receive(), TIMEOUT_S)
        if message.type == aiohttp.WSMsgType.BINARY:
            columns, rows, bands = struct.unpack("<HBB", message.data[:4])
            self.columns += columns
            return np.frombuffer(message.data[4:], np.uint8).reshape(columns, rows, bands)
        assert message.type == aiohttp.WSMsgType.TEXT, message
        values: dict[str, Any] = json.loads(message.data)
        if values["kind"] == "state":
            self.newest = values
        return values

    async def until(self, is_met: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Return the first state, or problem, that fits."""
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            frame = await self.receive()
            if isinstance(frame, dict) and is_met(frame):
                return frame
        raise AssertionError(f"not met; the newest state is {self.newest}")

    async def problem(self) -> str:
        """Return the text of the next problem."""
        return str((await self.until(lambda frame: frame["kind"] == "problem"))["text"])

    async def start(self) -> dict[str, Any]:
        """Start the engine and return its first state with figures."""
        await self.send("start", input=None, output=None)
        state = await self.until(
            lambda frame: frame.get("problem", "") != "" or bool(frame.get("stats"))
        )
        assert not state["problem"], state
        return state


def in_server(test: Callable[[Rig], Any], **changes: Any) -> None:
    """Run a test, a coroutine, with a server in this process."""

    async def run() -> None:
        async with aiohttp.ClientSession() as session:
            rig = Rig(session, **changes)
            await rig.server.start()
            try:
                await asyncio.wait_for(test(rig), TIMEOUT_S)
            finally:
                await rig.server.close()

    asyncio.run(run())


class Command:
    """A running `rtmtass` that serves a page."""

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self.process, self.address = process, address

    def finish(self, number: int = signal.SIGINT) -> str:
        """Send a signal; return stderr once the command has ended."""
        self.process.send_signal(number)
        _, stderr = self.process.communicate(timeout=TIMEOUT_S)
        return stderr


@contextmanager
def web(*words: str) -> Iterator[Command]:
    """Run `rtmtass web`; killed at the end unless it has ended."""
    command = [sys.executable, "-m", "rtmtass", "web", "--no-browser", "--json", *words]
    process = subprocess.Popen(
        command, text=True, env={**ENVIRONMENT, **os.environ},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout
    try:
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        yield Command(process, json.loads(line)["address"])
    finally:
        process.kill()
        with contextlib.suppress(ValueError):  # read to its end already
            process.communicate()


def children_of(pid: int) -> dict[int, list[str]]:
    """Return the running children of a process, and their command lines."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid and fields[0] != "Z":
                words = (folder / "cmdline").read_bytes().decode().split("\0")
                found[int(folder.name)] = words
    return found


def is_running(pid: int) -> bool:
    """Return whether a process, which may be nobody's child any more, is running."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def wait_for(condition: Callable[[], Any], timeout_s: float = TIMEOUT_S) -> Any:
    """Return the condition's first value that is true."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition wasn't met in time"
        time.sleep(0.02)
    return value
