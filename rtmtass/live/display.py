"""Runs the display in a process of its own: sends it statistics, receives its key presses."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from types import TracebackType

from rtmtass.live.controls import Controls
from rtmtass.live.linked_process import DISPLAY, LinkedProcess
from rtmtass.live.snapshot import encode_snapshot
from rtmtass.live.stats import Stats

_MODULE = "rtmtass.cli.live_display"
_EXIT_TIMEOUT_S = 5.0


class Display:
    """The display process, as a context manager; it uses the terminal until the exit.

    Args:
        controls: receive the key presses.
        title: the first line, such as "microphone → speakers".

    Attributes:
        title: the same; may be changed.
    """

    def __init__(self, controls: Controls, title: str) -> None:
        self._controls, self.title = controls, title
        self._child = LinkedProcess([sys.executable, "-m", _MODULE], DISPLAY)

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
        self._child.close(_EXIT_TIMEOUT_S)

    @property
    def is_alive(self) -> bool:
        """Whether the process is running."""
        return self._child.is_alive

    def update(self, stats: Stats, messages: Sequence[str]) -> None:
        """Send a snapshot to show, and apply the keys pressed since the last call."""
        connection = self._child.connection
        if not connection:
            return
        snapshot = encode_snapshot(stats, self._controls, self.title, messages)
        with contextlib.suppress(OSError, EOFError):
            connection.send_bytes(snapshot)
            while connection.poll():
                self._controls.press(connection.recv_bytes().decode())
