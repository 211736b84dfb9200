"""Progress of work counted in steps: a bar where one can be drawn, lines elsewhere."""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

PAUSE_S = 5.0
"""How long nothing more is said after a line."""


class Steps(Protocol):
    """Called with what is being done, how much of it is, and of how much."""

    def __call__(self, name: str, done: float, of: float) -> None:
        """Show it."""


def open_steps(*, quiet: bool = False) -> AbstractContextManager[Steps]:
    """Return what shows progress on stderr while it is entered.

    It is a bar on a terminal, if rich is installed, and now and then a line otherwise.
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
    """A line on stderr when something begins, when it is done, and every few seconds between."""

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
