"""SIGINT and SIGTERM as exceptions, deferred while files are being closed."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM: handled like Ctrl-C, with another exit code."""


class Interrupted(KeyboardInterrupt):
    """A job was interrupted by Ctrl-C or SIGTERM.

    Attributes:
        parts: unfinished output files, valid under their .part names.
        finished: number of recordings completed before.
        cause: the exception of the signal.
    """

    def __init__(self, parts: Sequence[Path], cause: KeyboardInterrupt) -> None:
        super().__init__()
        self.parts = tuple(parts)
        self.finished = 0
        self.cause = cause


class _Deferred:
    """Nesting of `defer_signals`, and the signal that arrived within it."""

    depth = 0
    pending: KeyboardInterrupt | None = None


def exit_code(stop: KeyboardInterrupt) -> int:
    """Return the conventional exit code: 128 + the signal's number."""
    return 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)


@contextmanager
def catch_stops() -> Iterator[None]:
    """Within this context, SIGINT raises KeyboardInterrupt and SIGTERM Terminated."""
    previous = {s: signal.signal(s, on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def defer_signals() -> Iterator[None]:
    """Defer SIGINT and SIGTERM to the end of this context; keep it short."""
    _Deferred.depth += 1
    try:
        yield
    finally:
        _Deferred.depth -= 1
        if not _Deferred.depth and (stop := _Deferred.pending):
            _Deferred.pending = None
            raise stop


def deferral_depth() -> int:
    """Return how many `defer_signals` are active."""
    return _Deferred.depth


def on_signal(number: int, _frame: FrameType | None) -> None:
    """Raise the signal as an exception, now or at the end of `defer_signals`."""
    stop = Terminated() if number == signal.SIGTERM else KeyboardInterrupt()
    if not _Deferred.depth:
        raise stop
    _Deferred.pending = stop
