"""Where live sound comes from and goes to besides devices: paced files, arrays, UDP."""

from __future__ import annotations

import math
import time

import numpy as np
from numpy.typing import NDArray

from rtmtass.dsp.live_resample import Converter
from rtmtass.io.protocols import Source
from rtmtass.live.stats import DeviceStats

Floats = NDArray[np.float32]


class ConvertedSource:
    """A source at another rate, converted with little delay.

    Args:
        source: at its own rate.
        sample_rate: to convert to, in Hz.
        hop: samples at `sample_rate` that the engine processes at once; as much is read at
            once.
    """

    def __init__(self, source: Source, sample_rate: int, hop: int) -> None:
        block = math.ceil(hop * source.sample_rate / sample_rate)
        self._source = source
        self.sample_rate, self.channels = sample_rate, source.channels
        self._given = np.zeros((block, source.channels), np.float32)
        self._converter = Converter(source.sample_rate, sample_rate, source.channels, block)
        self._ready = np.zeros((self._converter.room, source.channels), np.float32)
        self._span = 0, 0
        self._tail = self._converter.wait

    def read(self, out: Floats) -> int:
        """See Source."""
        while self._span[0] == self._span[1]:
            n = self._source.read(self._given)
            if not n:  # push the last samples through the filter
                n = min(self._tail, len(self._given))
                self._tail -= n
                self._given[:n] = 0
            if not n:
                return 0
            self._span = 0, self._converter.process(self._given[:n], self._ready)
        start, end = self._span
        n = min(len(out), end - start)
        out[:n] = self._ready[start : start + n]
        self._span = start + n, end
        return n

    def close(self) -> None:
        """See Source."""
        self._source.close()


class PacedSource:
    """A source handed over at the pace of real time, so that a file stands in for a microphone.

    Args:
        source: anything that is always ready.
        slack_s: by how much stems may be late before the input is heard instead.
    """

    def __init__(self, source: Source, *, slack_s: float = 0.0) -> None:
        self._source = source
        self.sample_rate, self.channels = source.sample_rate, source.channels
        self.discontinuities = 0
        self._slack_s = slack_s
        self._n_read = 0
        self._block = 0
        self._started: float | None = None

    def read(self, out: Floats) -> int:
        """See Source; waits until the last sample would have been heard."""
        if self._started is None:
            self._started = time.monotonic()
        n = self._source.read(out)
        self._n_read += n
        self._block = max(self._block, n)
        left_s = self._started + self._n_read / self.sample_rate - time.monotonic()
        if left_s > 0:
            time.sleep(left_s)
        return n

    def deadline_s(self) -> float:
        """See RealtimeEndpoint: when the next block, as long as those before, is due."""
        assert self._started is not None, "read first"
        return self._started + (self._n_read + self._block) / self.sample_rate + self._slack_s

    def device_stats(self) -> DeviceStats:
        """See RealtimeEndpoint."""
        return DeviceStats()

    def close(self) -> None:
        """See Source."""
        self._source.close()
