"""Admission: a new stream is refused where the measured time of a step has no room for it."""

from __future__ import annotations

import math
import time
from collections import deque

import numpy as np

from rtmtass.serve.protocol import Hello
from rtmtass.serve.slots import Slots
from rtmtass.serve.stream import ServedStream
from rtmtass.types import SAMPLE_RATE

LIMIT = 0.8
"""Fraction of the interval that a tick may take."""
_WINDOW = 128
"""Ticks of which the 95th percentile counts: about two seconds."""
_ENOUGH = 8
"""Channels that a tick needs before its time says something about the next channel's."""
_FIRST_SCALE, _MOST_SCALE = 2.0, 8.0
"""A stream's bytes cost about as much as its hops; until that is measured, exactly as much."""
_MEMORY = 1 / 64
_SIZES, _TURNS = (1, 8), 40


class Budget:
    """Predicts how long a tick would take with another stream, from measured times.

    The cost of a channel is measured once, before the service begins, and is scaled by how long
    real ticks take, which includes moving the bytes and whatever else runs on the computer.

    Args:
        interval_s: between two ticks, in seconds.
        hops: that a tick processes of each channel.
        limit: fraction of the interval that a tick may take; infinity admits all.
        fixed_s, channel_s: time of a round, and of each channel in it; see `measure`.
    """

    def __init__(
        self, interval_s: float, hops: int, limit: float, fixed_s: float, channel_s: float
    ) -> None:
        self._interval_s, self._hops, self._limit = interval_s, hops, limit
        self._fixed_s, self.channel_s = fixed_s, channel_s
        self._scale = _FIRST_SCALE
        self._recent: deque[float] = deque(maxlen=_WINDOW)

    def observe(self, channels: int, seconds: float) -> None:
        """Note how long a tick took, from its due time until its output was delivered.

        Args:
            channels: hops that it processed.
            seconds: that it took.
        """
        self._recent.append(seconds)
        if channels >= _ENOUGH:
            scale = seconds / (self._hops * self._fixed_s + channels * self.channel_s)
            scale = min(max(scale, 1.0), _MOST_SCALE)
            self._scale += (scale - self._scale) * _MEMORY

    def forget(self) -> None:
        """Drop the recent times, as when no stream is left: they say nothing about the next."""
        self._recent.clear()

    @property
    def load(self) -> float:
        """The 95th percentile of recent ticks' times, as a fraction of the interval."""
        if not self._recent:
            return 0.0
        return float(np.quantile(list(self._recent), 0.95)) / self._interval_s

    @property
    def capacity(self) -> int:
        """Channels at the model's rate that are admitted, as far as is known now."""
        if self._limit == math.inf:
            return 1 << 30
        room_s = self._limit * self._interval_s - self._hops * self._fixed_s
        return max(0, int(room_s / (self._hops * self.channel_s * self._scale)))

    def refusal(self, weight: float, new: float) -> str:
        """Return why a stream isn't admitted, or "".

        Args:
            weight: sum of the `weigh` of all streams.
            new: that of the new one.
        """
        if weight and self.load > self._limit:
            return (
                f"the server is busy: a step takes {100 * self.load:.0f} % of its"
                f" {1000 * self._interval_s:.0f} ms"
            )
        if weight + new > self.capacity:
            return f"the server is full: {weight:.0f} of {self.capacity} channels are in use"
        return ""


def weigh(hello: Hello, model_rate: int = SAMPLE_RATE) -> float:
    """Return the cost of a stream in channels at the model's rate.

    Resampling down and up again costs up to as much as a hop of the network.
    """
    return hello.channels * (1.0 if hello.rate == model_rate else 2.0)


def measure(slots: Slots) -> tuple[float, float]:
    """Measure the time of a round of hops: its fixed part, and each channel's, in seconds.

    The shortest times count: what else runs on the computer now says little about later, when
    the budget follows the real ticks. The slots are left as at first.
    """
    hello = Hello(slots.sample_rate)
    times = []
    for n in _SIZES:
        streams = [ServedStream(hello, slots) for _ in range(min(n, slots.n))]
        for number, stream in enumerate(streams):
            stream.slots = [number]
        silence = np.zeros((slots.hop, 1), np.float32)
        elapsed = []
        for _ in range(_TURNS):
            for stream in streams:
                stream.add(silence)
            start = time.perf_counter()
            for stream in streams:
                stream.load(slots.inputs)
            slots.run(range(len(streams)), quantised=set(range(len(streams))))
            for stream in streams:
                stream.finish(slots)
            elapsed.append(time.perf_counter() - start)
        times.append((len(streams), min(elapsed)))
        for number in range(len(streams)):
            slots.reset(number)
    (small, small_s), (large, large_s) = times
    channel_s = max(large_s - small_s, 0.1 * small_s) / max(large - small, 1)
    return max(0.0, small_s - channel_s * small), channel_s
