"""Audio in memory: a source that reads an array, and a sink that collects blocks."""

from __future__ import annotations

import numpy as np

from rtmtass.types import Samples


class ArraySource:
    """A `Source` that reads an array, (n, channels) or (n,)."""

    def __init__(self, samples: Samples, sample_rate: int) -> None:
        self._samples = samples[:, None] if samples.ndim == 1 else samples
        self._position = 0
        self.sample_rate = sample_rate
        self.channels = self._samples.shape[1]

    def read(self, out: Samples) -> int:
        """See `Source`."""
        block = self._samples[self._position : self._position + len(out)]
        out[: len(block)] = block
        self._position += len(block)
        return len(block)

    def close(self) -> None:
        """Do nothing; see `Source`."""


class ArraySink:
    """A `Sink` that keeps all blocks in memory."""

    def __init__(self) -> None:
        self._blocks: list[Samples] = []
        self.is_closed = False

    def write(self, stems: Samples) -> None:
        """See `Sink`."""
        self._blocks.append(stems.copy())

    def close(self) -> None:
        """See `Sink`."""
        self.is_closed = True

    def samples(self) -> Samples:
        """Return all blocks written, joined: (S, N, channels)."""
        return np.concatenate(self._blocks, axis=1)
