"""Test-time augmentation: average passes over the inverted and the half-hop-shifted input."""

from __future__ import annotations

import numpy as np

from rtmtass.config import PASSES, ModelConfig
from rtmtass.errors import UsageError
from rtmtass.runtime.protocols import CHUNK, Runtime
from rtmtass.types import Floats


def extra_delay(passes: int, hop: int) -> int:
    """Return the samples of delay that `passes` passes add.

    Raises:
        UsageError: `passes` is not one of `config.PASSES`.
    """
    if passes not in PASSES:
        raise UsageError(f"passes must be one of {', '.join(map(str, PASSES))}, not {passes}")
    return hop // 2 if passes > 2 else 0


class TtaStream:
    """A stream with test-time augmentation.

    2 passes add polarity inversion; 4 add a half-hop shift of both. The stems of the
    passes should be the same, but the network's errors differ and partly cancel in the
    mean. The stems of each pass sum to its input, so their mean does too.

    Args:
        config: the model's.
        runtime: runs the passes.
        channels, chunk: as `Runtime.stream`.
        passes: 2 or 4; 4 adds `extra_delay`.
    """

    def __init__(
        self, config: ModelConfig, runtime: Runtime, channels: int, chunk: int, passes: int
    ) -> None:
        self.hop = config.stft.hop
        self.shift, self._weight = extra_delay(passes, self.hop), np.float32(1 / passes)
        n_stems, capacity = len(config.stems), CHUNK * self.hop
        self._streams = [runtime.stream(channels, chunk) for _ in range(passes)]
        self._inverted = np.zeros((capacity, channels), np.float32)
        self._stems = np.zeros((n_stems, capacity, channels), np.float32)
        self._highband_weights = np.zeros((n_stems, capacity), np.float32)
        shifted_size = capacity + self.shift
        self._shifted = np.zeros((shifted_size, channels), np.float32)
        self._early_stems = np.zeros((n_stems, shifted_size, channels), np.float32)
        self._early_highband_weights = np.zeros((n_stems, shifted_size), np.float32)
        self.reset()

    def run(self, samples: Floats, out: Floats, highband_weights: Floats, hops: int) -> None:
        """Separate whole hops; see `protocols.Stream.run`."""
        n, shift = hops * self.hop, self.shift
        out, highband_weights = out[:, :n], highband_weights[:, :n]
        if not shift:
            self._both_polarities(0, samples, out, highband_weights, hops)
        else:
            early, early_weights = self._early_stems, self._early_highband_weights
            self._both_polarities(0, samples, early[:, shift:], early_weights[:, shift:], hops)
            self._shifted[shift : shift + n] = samples[:n]
            self._both_polarities(2, self._shifted, out, highband_weights, hops)
            self._shifted[:shift] = self._shifted[n : n + shift]
            _add(out, early[:, :n])
            _add(highband_weights, early_weights[:, :n])
            early[:, :shift] = early[:, n : n + shift]
            early_weights[:, :shift] = early_weights[:, n : n + shift]
        for total in (out, highband_weights):
            for stem in total:
                stem *= self._weight

    def _both_polarities(
        self, first: int, samples: Floats, out: Floats, highband_weights: Floats, hops: int
    ) -> None:
        """Write the sum of a pass and its polarity-inverted twin into `out`."""
        n = hops * self.hop
        np.negative(samples[:n], out=self._inverted[:n])
        self._streams[first + 1].run(self._inverted, self._stems, self._highband_weights, hops)
        for inverted, stem in zip(out, self._stems, strict=True):
            np.negative(stem[:n], out=inverted[:n])
        highband_weights[:, :n] = self._highband_weights[:, :n]
        self._streams[first].run(samples, self._stems, self._highband_weights, hops)
        _add(out[:, :n], self._stems[:, :n])
        _add(highband_weights[:, :n], self._highband_weights[:, :n])

    def reset(self) -> None:
        """Return to silence before the stream."""
        for stream in self._streams:
            stream.reset()
        self._shifted[:] = 0
        self._early_stems[:] = 0
        self._early_highband_weights[:] = 2 / len(self._early_highband_weights)


def _add(total: Floats, addend: Floats) -> None:
    """Add stem by stem: numpy allocates buffers for arrays with gaps between their stems."""
    for stem, other in zip(total, addend, strict=True):
        stem += other
