"""Progress of a job as lines in a log, for a stderr that is no terminal."""

from __future__ import annotations

import sys
import time
from typing import Protocol

_INTERVAL_S = 30.0


class Progress(Protocol):
    """Shows how far a job is; `cli.console.SeriesProgress` is one."""

    def progressed(self, done: float, of: float) -> None:
        """Called with the bytes of all recordings that have ended, and of how many."""

    def ended(self, line: str) -> None:
        """Called when a recording has ended, with a line about it."""


class NullProgress:
    """A `Progress` that does nothing."""

    def progressed(self, done: float, of: float) -> None:
        """See `Progress`."""

    def ended(self, line: str) -> None:
        """See `Progress`."""


class LogProgress:
    """A `Progress` that prints a line every 30 s."""

    def __init__(self, n_files: int) -> None:
        self._n_files, self._n_ended = n_files, 0
        self._started_s = self._printed_s = time.monotonic()

    def progressed(self, done: float, of: float) -> None:
        """See `Progress`."""
        now_s = time.monotonic()
        if now_s - self._printed_s < _INTERVAL_S or not done:
            return
        self._printed_s = now_s
        left_s = (now_s - self._started_s) * (of - done) / done
        print(
            f"rtmtass: {self._n_ended} of {self._n_files} recordings, {done / of:.0%};"
            f" {clock(left_s)} left",
            file=sys.stderr,
            flush=True,
        )

    def ended(self, line: str) -> None:
        """See `Progress`."""
        self._n_ended += 1


def clock(seconds: float) -> str:
    """Return a duration as h:mm:ss."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
