"""A source that wraps another one and is read at the pace of real time."""

from __future__ import annotations

import time

from rtmtass.io.protocols import Source
from rtmtass.live.stats import DeviceStats
from rtmtass.types import Floats


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
