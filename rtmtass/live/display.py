"""Runs the display in a process of its own: sends it statistics, receives its key presses."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection, Listener
from types import TracebackType

from rtmtass.live.controls import Controls
from rtmtass.live.stats import Stats

_MODULE = "rtmtass.cli.live_display"
_ADDRESS, _KEY = "RTMTASS_DISPLAY_ADDRESS", "RTMTASS_DISPLAY_KEY"
_EXIT_TIMEOUT_S = 5.0


class Display:
    """The display process, as a context manager; it uses the terminal until the exit.

    Args:
        controls: receive the key presses.
        title: the first line, such as "microphone → speakers".
    """

    def __init__(self, controls: Controls, title: str) -> None:
        self._controls, self._title = controls, title
        self._connection: Connection | None = None
        key = secrets.token_bytes(16)
        self._listener = Listener(None, authkey=key)
        environment = {**os.environ, _ADDRESS: str(self._listener.address), _KEY: key.hex()}
        self._process = subprocess.Popen([sys.executable, "-m", _MODULE], env=environment)
        # accept() has no timeout: closing the listener ends it if the process never connects.
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError, EOFError):
            self._connection = self._listener.accept()

    def __enter__(self) -> Display:
        """Return the display; its process has been started already."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the process and restore the terminal."""
        if self._connection:
            self._connection.close()
        with contextlib.suppress(OSError):
            self._listener.close()
        try:
            self._process.wait(_EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def is_alive(self) -> bool:
        """Whether the process is running."""
        return self._process.poll() is None

    def update(self, stats: Stats, messages: Sequence[str]) -> None:
        """Send a snapshot to show, and apply the keys pressed since the last call."""
        if not self._connection:
            return
        state = {
            "stats": stats.to_dict(),
            "controls": dataclasses.asdict(self._controls.state()),
            "title": self._title,
            "messages": list(messages),
        }
        with contextlib.suppress(OSError, EOFError):
            self._connection.send_bytes(json.dumps(state).encode())
            while self._connection.poll():
                self._controls.press(self._connection.recv_bytes().decode())
