"""Sound that is in memory: a source over an array, and a sink that collects blocks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]
Floats = NDArray[np.float32]


class ArraySource:
    """A Source over an array that is already in memory, (n, channels) or (n,)."""

    def __init__(self, samples: Samples, sample_rate: int) -> None:
        self._samples = samples[:, None] if samples.ndim == 1 else samples
        self._position = 0
        self.sample_rate = sample_rate
        self.channels = self._samples.shape[1]

    def read(self, out: Samples) -> int:
        """See Source."""
        block = self._samples[self._position : self._position + len(out)]
        out[: len(block)] = block
        self._position += len(block)
        return len(block)

    def close(self) -> None:
        """Nothing is held."""


class ArraySink:
    """A sink that keeps everything; `samples()` is (R, N, C)."""

    def __init__(self) -> None:
        self._blocks: list[Floats] = []
        self.is_closed = False

    def write(self, stems: Floats) -> None:
        """See Sink."""
        self._blocks.append(stems.copy())

    def close(self) -> None:
        """See Sink."""
        self.is_closed = True

    def samples(self) -> Floats:
        """Return all that was written."""
        return np.concatenate(self._blocks, axis=1)
