"""Stops `rtmtass live` within a second of a signal, whatever the process is doing."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

_NUMBERS = [
    number
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
    if (number := getattr(signal, name, None)) is not None
]
_NOTICE_S, _END_S, _CLEAN_UP_S = 0.8, 3.0, 0.4
"""How long after a signal the stream may go on, may take to close, and a forced exit may take."""


class Stops:
    """Handles SIGINT, SIGTERM and SIGHUP as a context manager; a signal raises nothing.

    Before `begin` a signal ends the process at once: there is nothing to lose, and neither
    compiling, loading machine code nor opening a device can be interrupted otherwise. After it
    `is_requested` becomes true and the stream is to be closed; if that takes too long, because
    a device or a pipe blocks, the process ends all the same, after `on_exit` has been called.

    A thread does this, which the system's own handler wakes: Python's handlers have to wait
    for the main thread to return from C code.

    Attributes:
        on_exit: called before a forced exit, in order; each may return a line to print.
    """

    def __init__(self) -> None:
        self.on_exit: list[Callable[[], object]] = []
        self._number: int | None = None
        self._is_begun = False
        self._lock = threading.Lock()
        self._is_noticed, self._is_ended = threading.Event(), threading.Event()
        self._previous: dict[int, Any] = {}
        self._previous_fd, self._stderr = -1, -1
        self._sockets: tuple[socket.socket, socket.socket] | None = None
        self._thread = threading.Thread(target=self._run, name="rtmtass-stop", daemon=True)

    def __enter__(self) -> Stops:
        """Handle signals, if this is the main thread."""
        if threading.current_thread() is not threading.main_thread():
            return self
        with contextlib.suppress(OSError):
            self._stderr = os.dup(2)  # opening devices silences 2 for a while
        self._sockets = socket.socketpair()
        self._sockets[1].setblocking(False)
        self._previous_fd = signal.set_wakeup_fd(
            self._sockets[1].fileno(), warn_on_full_buffer=False
        )
        self._thread.start()
        for number in _NUMBERS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup sets SIGHUP
                self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Handle signals as before."""
        self._is_noticed.set()
        self._is_ended.set()
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._sockets:
            signal.set_wakeup_fd(self._previous_fd)
            self._sockets[1].close()
            self._thread.join()
            self._sockets[0].close()
        if self._stderr >= 0:
            os.close(self._stderr)

    @property
    def is_requested(self) -> bool:
        """Whether a signal has arrived."""
        return self._number is not None

    def request(self, number: int = signal.SIGTERM) -> None:
        """Request a stop, as a signal does after `begin`."""
        self._number = self._number or number

    def begin(self) -> None:
        """From now on signals close the stream instead of ending the process."""
        with self._lock:
            self._is_begun = True

    def notice(self) -> None:
        """Report that the stream is being closed."""
        self._is_noticed.set()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._number = self._number or number

    def _run(self) -> None:
        assert self._sockets
        number = 0
        while number not in _NUMBERS:
            arrived = self._sockets[0].recv(1)
            if not arrived:  # closed: the stream has ended
                return
            number = arrived[0]
        self.request(number)
        with self._lock:
            if not self._is_begun:
                self._exit(number, "stopped before the sound began")
        if not (self._is_noticed.wait(_NOTICE_S) and self._is_ended.wait(_END_S)):
            self._exit(number, "stopped, though something blocked")

    def _exit(self, number: int, message: str) -> None:
        """End the process, as after the signal itself."""
        lines = [f"rtmtass: {message}"]

        def clean_up() -> None:
            for action in self.on_exit:
                with contextlib.suppress(Exception):
                    lines.extend(line for line in [action()] if isinstance(line, str) and line)

        thread = threading.Thread(target=clean_up, daemon=True)
        thread.start()
        thread.join(_CLEAN_UP_S)
        with contextlib.suppress(OSError):
            os.write(self._stderr, "".join(f"{line}\n" for line in lines).encode(errors="replace"))
        os._exit(128 + number)
