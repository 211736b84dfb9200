"""The interfaces of audio sources and sinks."""

from __future__ import annotations

from typing import Protocol

from rtmtass.types import Samples


class Source(Protocol):
    """Reads audio block by block.

    Attributes:
        sample_rate: in Hz.
        channels: number of channels.
    """

    sample_rate: int
    channels: int

    def read(self, out: Samples) -> int:
        """Fill the front of `out`, (n, channels).

        Returns:
            the number of frames read; 0 at the end.
        """

    def close(self) -> None:
        """Close the file or device; may be called twice."""


class Sink(Protocol):
    """Writes stems block by block."""

    def write(self, stems: Samples) -> None:
        """Write (S, n, channels)."""

    def close(self) -> None:
        """Complete the output and close it; may be called twice."""
