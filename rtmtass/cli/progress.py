"""Progress of work counted in steps: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

PAUSE_S = 5.0
"""Least time between two lines about the same work."""
STEADY_S = 10.0
"""Time after which the speed so far says how long the rest takes."""


class Steps(Protocol):
    """Called with the name of the work, the steps done, and their total."""

    def __call__(self, name: str, done: float, of: float) -> None:
        """Show the progress."""


def open_steps(*, quiet: bool = False) -> AbstractContextManager[Steps]:
    """Return a context manager that shows progress on stderr.

    A bar on a terminal with rich installed, else a line every few seconds.
    """
    if quiet:
        return nullcontext(_show_nothing)
    if not sys.stderr.isatty():
        return nullcontext(Lines())
    try:
        from rtmtass.cli.console import Steps as Bar
    except ModuleNotFoundError:
        return nullcontext(Lines())
    return Bar()


class Lines:
    """A line on stderr at the start and the end of work, and every `PAUSE_S` between.

    After `STEADY_S` a line also says how long the rest will take at the speed so far. Work
    whose steps have names of their own, counted to one total, is one work.
    """

    def __init__(self) -> None:
        self._work: tuple[str, float, float] = ("", 0.0, 0.0)  # of the last call
        self._first, self._first_s, self._last_s = 0.0, 0.0, 0.0

    def __call__(self, name: str, done: float, of: float) -> None:
        """See Steps."""
        now_s = time.monotonic()
        last_name, last_done, last_of = self._work
        self._work = (name, done, of)
        if of != last_of or (name != last_name and done <= last_done):
            self._first, self._first_s = done, now_s
        elif done < of and now_s - self._last_s < PAUSE_S:
            return
        self._last_s = now_s
        print(f"{name}: {done:.0f}/{of:.0f}{self._left(done, of, now_s)}", file=sys.stderr,
              flush=True)  # fmt: skip

    def _left(self, done: float, of: float, now_s: float) -> str:
        took_s = now_s - self._first_s
        if took_s < STEADY_S or done <= self._first or done >= of:
            return ""
        minutes, seconds = divmod(round(took_s / (done - self._first) * (of - done)), 60)
        return f", {minutes // 60}:{minutes % 60:02d}:{seconds:02d} left"


def _show_nothing(name: str, done: float, of: float) -> None:
    pass
