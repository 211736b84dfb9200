"""Sources that wrap another source: at another rate, or at the pace of real time."""

from __future__ import annotations

import math
import time

import numpy as np

from rtmtass.dsp.live_resample import Converter
from rtmtass.io.protocols import Source
from rtmtass.live.limits import check_rate
from rtmtass.live.stats import DeviceStats
from rtmtass.types import Floats


class ConvertedSource:
    """A source at another rate, converted with little delay.

    Args:
        source: at its own rate.
        sample_rate: to convert to, in Hz.
        hop: samples at `sample_rate` to read and convert at once.

    Raises:
        UsageError: the source's rate is out of range.
    """

    def __init__(self, source: Source, sample_rate: int, hop: int) -> None:
        check_rate(source.sample_rate, "a source")
        block = math.ceil(hop * source.sample_rate / sample_rate)
        self._source = source
        self.sample_rate, self.channels = sample_rate, source.channels
        self._input = np.zeros((block, source.channels), np.float32)
        self._converter = Converter(source.sample_rate, sample_rate, source.channels, block)
        self._ready = np.zeros((self._converter.room, source.channels), np.float32)
        self._ready_span = 0, 0
        self._n_tail = self._converter.wait

    def read(self, out: Floats) -> int:
        """See Source."""
        while self._ready_span[0] == self._ready_span[1]:
            n = self._source.read(self._input)
            if not n:  # flush the filter
                n = min(self._n_tail, len(self._input))
                self._n_tail -= n
                self._input[:n] = 0
            if not n:
                return 0
            self._ready_span = 0, self._converter.process(self._input[:n], self._ready)
        start, end = self._ready_span
        n = min(len(out), end - start)
        out[:n] = self._ready[start : start + n]
        self._ready_span = start + n, end
        return n

    def close(self) -> None:
        """See Source."""
        self._source.close()


class PacedSource:
    """A source read at the pace of real time, so that a file can stand in for a microphone.

    Args:
        source: never blocks, such as a file or an array.
        extra_buffer_s: how far beyond the next block's arrival stems may be late before the
            engine outputs the input instead.
    """

    def __init__(self, source: Source, *, extra_buffer_s: float = 0.0) -> None:
        self._source = source
        self.sample_rate, self.channels = source.sample_rate, source.channels
        self.discontinuities = 0
        self._extra_buffer_s = extra_buffer_s
        self._n_read = 0
        self._block = 0
        self._started: float | None = None

    def read(self, out: Floats) -> int:
        """See Source; blocks until the last sample returned is due."""
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
        """See RealtimeEndpoint: when the next block, as long as the longest yet, is due."""
        assert self._started is not None, "read first"
        return (
            self._started + (self._n_read + self._block) / self.sample_rate + self._extra_buffer_s
        )

    def device_stats(self) -> DeviceStats:
        """See RealtimeEndpoint."""
        return DeviceStats()

    def close(self) -> None:
        """See Source."""
        self._source.close()
