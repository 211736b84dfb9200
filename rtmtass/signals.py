"""Ctrl-C and SIGTERM arrive as exceptions, but never in the middle of closing a file."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM: to be treated as Ctrl-C is, with another exit code."""


class _Stops:
    """What arrived while nobody was allowed to be disturbed."""

    depth = 0
    waiting: KeyboardInterrupt | None = None


def exit_code(stop: KeyboardInterrupt) -> int:
    """Return the shell's number for it: 128 + the signal's."""
    return 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)


@contextmanager
def catch_stops() -> Iterator[None]:
    """Within it, SIGINT and SIGTERM raise KeyboardInterrupt and Terminated in the main thread."""
    before = {s: signal.signal(s, _on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def defer_signals() -> Iterator[None]:
    """Put a stop off until the end of the block, which must be short."""
    _Stops.depth += 1
    try:
        yield
    finally:
        _Stops.depth -= 1
        if not _Stops.depth and (stop := _Stops.waiting):
            _Stops.waiting = None
            raise stop


def _on_signal(number: int, _frame: FrameType | None) -> None:
    stop = Terminated() if number == signal.SIGTERM else KeyboardInterrupt()
    if not _Stops.depth:
        raise stop
    _Stops.waiting = stop
