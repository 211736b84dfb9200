"""What an engine can be plugged into, besides the Source and Sink of `audio`."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rtmtass.live.stats import DeviceStats, RecordingStats

Floats = NDArray[np.float32]


@runtime_checkable
class RealtimeEndpoint(Protocol):
    """A source or sink that doesn't wait: a sound device, or a source at real-time pace."""

    discontinuities: int
    """How often the input broke off and went on elsewhere: what was before is no past."""

    def deadline_s(self) -> float:
        """Return by when, on time.monotonic, stems must be there to be heard."""

    def device_stats(self) -> DeviceStats:
        """Return what the device knows of itself."""


class Recorder(Protocol):
    """Takes what was heard and what it was split into, hop by hop, without waiting."""

    def add_mixture(self, number: int, mixture: Floats) -> None:
        """Take hop `number` of the mixture, (H, C), in time with the stems."""

    def add_stems(self, number: int, stems: Floats) -> None:
        """Take hop `number` of the stems, (S, H, C); numbers may be missing."""

    def stats(self) -> RecordingStats:
        """Return where it stands."""

    def close(self) -> None:
        """Finish the files."""
