"""Protocols of the engine beyond Source and Sink: real-time endpoints and recorders."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from rtmtass.live.stats import DeviceStats, RecordingStats
from rtmtass.types import Floats


@runtime_checkable
class RealtimeEndpoint(Protocol):
    """A source or sink that runs at the pace of real time, such as a sound device."""

    discontinuities: int
    """Number of gaps in the input so far; samples from before a gap must be discarded."""

    def deadline_s(self) -> float:
        """Return by when the stems of the hop last read must be written, on time.monotonic."""

    def device_stats(self) -> DeviceStats:
        """Return the device's counters and latency."""


class Recorder(Protocol):
    """Records mixture and stems hop by hop, without blocking."""

    def add_mixture(self, number: int, mixture: Floats) -> None:
        """Add hop `number` of the mixture, (n, C) at the stream's rate, aligned with the output."""

    def add_stems(self, number: int, stems: Floats, highband_weights: Floats) -> None:
        """Add hop `number` of the stems, (S, H, C) at the model's rate; numbers may have gaps.

        Args:
            number: of the hop; rises.
            stems: (S, H, C).
            highband_weights: (S, H), see Separator.
        """

    def stats(self) -> RecordingStats:
        """Return the state of the recording."""

    def close(self) -> None:
        """Finish the files."""


@runtime_checkable
class MixRecorder(Recorder, Protocol):
    """A recorder that also records the mix."""

    def add_mix(self, number: int, mix: Floats) -> None:
        """Add hop `number` of the output, (R, H, C): the mix, or stems that add up to it."""
