"""Callbacks on the progress of a job."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Shows how far a job is; `cli.console.SeriesProgress` is one."""

    def note(self, text: str) -> None:
        """Called with what is done before the first recording, and a count after a comma."""

    def progressed(self, done: float, of: float) -> None:
        """Called with the bytes of all recordings that have ended, and of how many."""

    def ended(self, line: str) -> None:
        """Called when a recording has ended, with a line about it."""


class NullProgress:
    """A `Progress` that does nothing."""

    def note(self, text: str) -> None:
        """See `Progress`."""

    def progressed(self, done: float, of: float) -> None:
        """See `Progress`."""

    def ended(self, line: str) -> None:
        """See `Progress`."""
