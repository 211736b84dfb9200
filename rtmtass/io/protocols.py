"""What every source and sink of sound looks like to those who use it."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]


class Source(Protocol):
    """Hands over a recording block by block."""

    sample_rate: int
    channels: int

    def read(self, out: Samples) -> int:
        """Fill the front of `out` (n, channels); return how many frames, 0 = ended."""

    def close(self) -> None:
        """Let go of file or device; may be called twice."""


class Sink(Protocol):
    """Takes stems block by block."""

    def write(self, stems: Samples) -> None:
        """Take (S, n, channels)."""

    def close(self) -> None:
        """Finish what was written; may be called twice."""
