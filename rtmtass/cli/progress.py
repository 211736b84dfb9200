"""Progress of work counted in steps: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

PAUSE_S = 5.0
"""Least time between two lines about the same work."""


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
    """A line on stderr at the start and the end of work, and every `PAUSE_S` between."""

    def __init__(self) -> None:
        self._name, self._last_s = "", 0.0

    def __call__(self, name: str, done: float, of: float) -> None:
        """See Steps."""
        now_s = time.monotonic()
        if name == self._name and done < of and now_s - self._last_s < PAUSE_S:
            return
        self._name, self._last_s = name, now_s
        print(f"{name}: {done:.0f}/{of:.0f}", file=sys.stderr, flush=True)


def _show_nothing(name: str, done: float, of: float) -> None:
    pass
