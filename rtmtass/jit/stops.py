"""Ctrl-C and SIGTERM while machine code is compiled or loaded: obeyed soon, never lost.

Numba calls LLVM, and LLVM calls Python back. An exception raised in such a callback is
printed and dropped; and no exception can be raised while LLVM works, which takes seconds.
So a signal waits for the end of the function that is being compiled or loaded and, within
the command line, ends the process if that is more than `_PATIENCE_S` away.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import AbstractContextManager
from typing import Any

from numba.core import event

from rtmtass import signals

_PATIENCE_S = 0.5


class _Guard:
    """Defers signals while the main thread is inside numba, in any depth."""

    def __init__(self) -> None:
        self._depth = 0
        self._deferral: AbstractContextManager[None] | None = None
        self._is_default = False
        self._watch: _Watch | None = None

    def enter(self) -> None:
        self._depth += 1
        if self._depth > 1:
            return
        self._is_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._is_default:  # a program that imports us
            signal.signal(signal.SIGINT, signals.on_signal)
        self._deferral = signals.defer_signals()
        self._deferral.__enter__()

    def leave(self) -> None:
        """Leave one level; at the last, raise the signal that arrived."""
        self._depth -= 1
        if self._depth or self._deferral is None:
            return
        deferral, self._deferral = self._deferral, None
        if self._is_default:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        deferral.__exit__(None, None, None)

    def start_watch(self) -> None:
        """Watch for signals while something compiles, if they end this process anyway."""
        if os.name == "nt":  # where Python can't write signals to a pipe
            return
        is_ours = signal.getsignal(signal.SIGINT) is signals.on_signal and not self._is_default
        if self._watch is None and is_ours and signals.deferral_depth() == 1:
            self._watch = _Watch()

    def stop_watch(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None


class _Watch:
    """A thread that ends the process soon after a signal, unless closed before."""

    def __init__(self) -> None:
        self._closed = threading.Event()
        # Python's own handler writes the signal's number here even while LLVM works.
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._run, daemon=True, name="rtmtass-stop")
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        signal.set_wakeup_fd(self._before)
        os.write(self._write, b"\0")
        self._thread.join()
        os.close(self._read)
        os.close(self._write)

    def _run(self) -> None:
        while not self._closed.is_set():
            number = os.read(self._read, 1)[0]
            if number in (signal.SIGINT, signal.SIGTERM) and not self._closed.wait(_PATIENCE_S):
                _end_process(number)


def _end_process(number: int) -> None:
    """Exit as the command line does after a signal, without waiting for LLVM."""
    try:
        sys.stdout.flush()
        shows_cursor = "\x1b[?25h" if sys.stderr.isatty() else ""
        os.write(2, f"{shows_cursor}rtmtass: stopped\n".encode())
    finally:
        os._exit(128 + number)


class _Listener(event.Listener):  # type: ignore[misc]
    """Calls the guard at numba's events, in the main thread alone: signals arrive there."""

    def __init__(self, guard: _Guard, compiles: bool) -> None:
        self._guard, self._compiles, self._depth = guard, compiles, 0

    def on_start(self, event: Any) -> None:
        """Enter."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._depth += 1
        if not self._compiles:
            self._guard.enter()
        elif self._depth == 1:
            self._guard.start_watch()

    def on_end(self, event: Any) -> None:
        """Leave."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._depth -= 1
        if not self._compiles:
            self._guard.leave()
        elif not self._depth:
            self._guard.stop_watch()


def install() -> None:
    """Guard all that numba compiles and loads from now on."""
    guard = _Guard()
    # Numba holds this lock while it compiles, and while it loads from its cache.
    event.register("numba:compiler_lock", _Listener(guard, compiles=False))
    event.register("numba:compile", _Listener(guard, compiles=True))
