"""Hearing a stream several times in ways that shouldn't matter, and averaging what is heard."""

from __future__ import annotations

import numpy as np

from rtmtass.config import PASSES, ModelConfig
from rtmtass.errors import UsageError
from rtmtass.runtime.protocols import CHUNK, Floats, Runtime


def extra_delay(passes: int, hop: int) -> int:
    """Return how many samples later stems come for being heard `passes` times.

    Raises:
        UsageError: there is no such number of passes.
    """
    if passes not in PASSES:
        raise UsageError(f"no {passes} passes: there are {', '.join(map(str, PASSES))}")
    return hop // 2 if passes > 2 else 0


class TtaStream:
    """A stream that is heard upside down, too, and with frames half a hop later.

    Neither changes what is said in it, but a network doesn't know; its errors
    differ from pass to pass and partly cancel. The stems of each pass sum to what
    it was given, so their mean does.

    Args:
        config: the model's.
        runtime: what runs it.
        channels, chunk: as `Runtime.stream`.
        passes: 2, or 4 for which the stems come `extra_delay` later.
    """

    def __init__(
        self, config: ModelConfig, runtime: Runtime, channels: int, chunk: int, passes: int
    ) -> None:
        self.hop = config.stft.hop
        self.later, self._weight = extra_delay(passes, self.hop), np.float32(1 / passes)
        n_stems, capacity = len(config.stems), CHUNK * self.hop
        self._streams = [runtime.stream(channels, chunk) for _ in range(passes)]
        self._turned = np.zeros((capacity, channels), np.float32)
        self._stems = np.zeros((n_stems, capacity, channels), np.float32)
        self._highband_weights = np.zeros((n_stems, capacity), np.float32)
        room = capacity + self.later
        self._late = np.zeros((room, channels), np.float32)
        self._early_stems = np.zeros((n_stems, room, channels), np.float32)
        self._early_highband_weights = np.zeros((n_stems, room), np.float32)
        self.reset()

    def run(self, samples: Floats, out: Floats, highband_weights: Floats, hops: int) -> None:
        """Separate whole hops; see `base.Stream.run`."""
        n, later = hops * self.hop, self.later
        out, highband_weights = out[:, :n], highband_weights[:, :n]
        if not later:
            self._both_ways(0, samples, out, highband_weights, hops)
        else:
            early, early_shares = self._early_stems, self._early_highband_weights
            self._both_ways(0, samples, early[:, later:], early_shares[:, later:], hops)
            self._late[later : later + n] = samples[:n]
            self._both_ways(2, self._late, out, highband_weights, hops)
            self._late[:later] = self._late[n : n + later]
            _add(out, early[:, :n])
            _add(highband_weights, early_shares[:, :n])
            early[:, :later] = early[:, n : n + later]
            early_shares[:, :later] = early_shares[:, n : n + later]
        for total in (out, highband_weights):
            for stem in total:
                stem *= self._weight

    def _both_ways(
        self, first: int, samples: Floats, out: Floats, highband_weights: Floats, hops: int
    ) -> None:
        """Put the sums of a pass and its twin, who hears `samples` upside down, into `out`."""
        n = hops * self.hop
        np.negative(samples[:n], out=self._turned[:n])
        self._streams[first + 1].run(self._turned, self._stems, self._highband_weights, hops)
        for turned, stem in zip(out, self._stems, strict=True):
            np.negative(stem[:n], out=turned[:n])
        highband_weights[:, :n] = self._highband_weights[:, :n]
        self._streams[first].run(samples, self._stems, self._highband_weights, hops)
        _add(out[:, :n], self._stems[:, :n])
        _add(highband_weights[:, :n], self._highband_weights[:, :n])

    def reset(self) -> None:
        """Forget everything heard."""
        for stream in self._streams:
            stream.reset()
        self._late[:] = 0
        self._early_stems[:] = 0
        self._early_highband_weights[:] = 2 / len(self._early_highband_weights)


def _add(total: Floats, imag_offset: Floats) -> None:
    """Add stem by stem: for arrays with gaps between their stems numpy asks for buffers."""
    for one, other in zip(total, imag_offset, strict=True):
        one += other
