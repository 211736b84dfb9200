"""Builds the server of the page and runs it until a signal, or until its engine has gone."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from aiohttp import web

import rtmtass
from rtmtass.config import ModelConfig
from rtmtass.errors import RtmtassError, UsageError
from rtmtass.live.controls import ControlState
from rtmtass.live.devices.listing import Kind
from rtmtass.web import files, static
from rtmtass.web.access import HOST, ROOT, add_headers, draw_token, guard, quiet_log
from rtmtass.web.list_devices import describe, read_devices
from rtmtass.web.stream import Start, Stream
from rtmtass.web.viewers import Viewers

DEFAULT_PORT = 8600
_SHUTDOWN_S = 0.5
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")


@dataclass(frozen=True)
class Setup:
    """What a server is for.

    Attributes:
        model: name or folder, for files.
        config: of the model.
        precision, passes: for files, see `rtmtass.load`.
        controls: settings of the live stream before its first start.
        start: starts an engine; None under `live --web`.
        has_inputs, has_outputs: whether there are devices to choose on either side.
        input, output: the default devices as named by the user; None for the system's.
        max_upload_bytes: of a file to separate.
    """

    model: str
    config: ModelConfig
    precision: str
    passes: int
    controls: ControlState
    start: Start | None
    has_inputs: bool = True
    has_outputs: bool = True
    input: str | None = None
    output: str | None = None
    max_upload_bytes: int = files.MAX_UPLOAD_BYTES


class Server:
    """The page's server; create and use it within a running event loop.

    Args:
        setup: what it is for.
        listening: a socket from `listen`.

    Attributes:
        address: of the page, with its token.
        stream: the live stream.
        viewers: the connected pages.
    """

    def __init__(self, setup: Setup, listening: socket.socket) -> None:
        self._setup, self._listening = setup, listening
        port, token = listening.getsockname()[1], draw_token()
        self.address = f"http://{HOST}:{port}/{token}/"
        self.stream = Stream(
            setup.controls, setup.start,
            on_state=lambda state: self.viewers.show_state(state),
            on_columns=lambda columns: self.viewers.show_columns(columns),
        )  # fmt: skip
        self.viewers = Viewers(setup.config.stems, self.stream.state, self.stream.handle)
        self._devices_lock = asyncio.Lock()
        app = web.Application(middlewares=[guard(token, port)])
        app.on_response_prepare.append(add_headers)
        app.router.add_get(f"{ROOT}/ws", self.viewers.serve)
        app.router.add_get(f"{ROOT}/api/about", self._send_about)
        app.router.add_get(f"{ROOT}/api/devices", self._send_devices)
        files.add_routes(
            app, model=setup.model, precision=setup.precision, passes=setup.passes,
            max_upload_bytes=setup.max_upload_bytes,
        )  # fmt: skip
        static.add_routes(app)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            logger=quiet_log(),
            handle_signals=False,
            shutdown_timeout=_SHUTDOWN_S,
        )

    async def start(self) -> None:
        """Begin to serve."""
        await self._runner.setup()
        await web.SockSite(self._runner, self._listening).start()

    async def close(self) -> None:
        """End the engine, say goodbye to the pages, and stop serving."""
        await asyncio.gather(self.stream.close(), self.viewers.close())
        await self._runner.cleanup()

    async def _send_about(self, _request: web.Request) -> web.StreamResponse:
        setup = self._setup
        return _json({
            "version": rtmtass.__version__,
            "model": setup.config.name,
            "stems": setup.config.stems,
            "sampleRate": setup.config.stft.sample_rate,
            "canChoose": setup.start is not None,
            "maxUploadBytes": setup.max_upload_bytes,
        })  # fmt: skip

    async def _send_devices(self, _request: web.Request) -> web.StreamResponse:
        setup = self._setup
        lists: dict[str, list[dict[str, Any]]] = {"inputs": [], "outputs": []}
        sides: list[tuple[str, Kind, bool, str | None]] = [
            ("inputs", "input", setup.has_inputs, setup.input),
            ("outputs", "output", setup.has_outputs, setup.output),
        ]
        sides = [side for side in sides if side[2] and setup.start]
        problems: list[str] = []
        try:
            async with self._devices_lock:
                devices = await read_devices() if sides else []
            for key, kind, _, chosen in sides:
                lists[key], problem = describe(devices, kind, chosen)
                problems.append(problem)
        except RtmtassError as error:
            problems = [str(error)]
        # Without a sound system both sides lack the same.
        return _json({**lists, "problem": " ".join(dict.fromkeys(filter(None, problems)))})


def listen(port: int | None) -> socket.socket:
    """Return a socket that listens on 127.0.0.1.

    Args:
        port: None for `DEFAULT_PORT`, or any that is free if it is taken.

    Raises:
        UsageError: the port that was asked for is taken.
    """
    for number in (DEFAULT_PORT, 0) if port is None else (port,):
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if os.name == "posix":  # elsewhere it would share the port with another server
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, number))
            listening.listen()
            return listening
        except OSError as error:
            listening.close()
            why = error.strerror
    raise UsageError(
        f"port {number} can't be used: {why}; give another with --port, or none for any"
    )


async def run(
    setup: Setup,
    *,
    port: int | None = None,
    opens_browser: bool = True,
    on_ready: Callable[[Server], None],
    until: asyncio.Event | None = None,
) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP, or until an event.

    Args:
        setup: what the server is for.
        port: see `listen`.
        opens_browser: open the page in the browser.
        on_ready: called once the server accepts connections.
        until: ends it too.

    Raises:
        UsageError: see `listen`.
    """
    server = Server(setup, listen(port))
    ending = until or asyncio.Event()
    with _signals_set(ending):
        await server.start()
        try:
            on_ready(server)
            if opens_browser:
                _open_browser(server.address)
            await ending.wait()
        finally:
            await server.close()


@contextlib.contextmanager
def _signals_set(ending: asyncio.Event) -> Iterator[None]:
    """Within this context the first signal sets an event; a second ends the process at once."""
    loop = asyncio.get_running_loop()
    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]

    def end(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        loop.call_soon_threadsafe(ending.set)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heeded = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, end) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _open_browser(address: str) -> None:
    """Open the browser from a thread, as it may take its time; never one in the terminal."""
    has_window = sys.platform in ("win32", "darwin") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    )
    if has_window:
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()


def _json(values: dict[str, Any]) -> web.Response:
    return web.Response(text=json.dumps(values), content_type="application/json")
