"""How long the buffers of a stream must be: what its devices take at once, and what is lost."""

from __future__ import annotations

import bisect
import time

from rtmtass.dsp.live_resample import Converter
from rtmtass.live.devices.callback import DeviceCallback
from rtmtass.live.devices.periods import LossWatch, Period
from rtmtass.live.devices.stream_config import StreamConfig
from rtmtass.live.full_band import HopSchedule

BUDGET_S = 0.008
"""Processing time to allow for; shorter periods get the difference as extra buffer."""
JITTER_S = 0.004
"""Extra fill of the playback ring between two clocks, against jitter."""
_LEAST_ADDED_S, _MOST_ADDED_S = 0.0025, 0.1
"""Buffer added when losses recur: half a period, at least the first, all in all the second."""
_ADVICE_S = 10.0


class Buffers:
    """Sizes the buffers of a stream by the periods of its devices and by what is lost.

    Args:
        config: of the stream.
        schedule: of the engine.
        extra_buffer_ms: see StreamRequest.
        capture, playback: converters before and after the engine, None where rates are equal.

    Attributes:
        fill: initial fill of the playback ring in samples at the output's rate, and so the
            latency of the buffers: exactly for one clock, on average for two.
        target: for two clocks, the fill to control to.
        is_known: whether the periods are known; assumed to be the blocks before.
    """

    def __init__(
        self,
        config: StreamConfig,
        schedule: HopSchedule,
        extra_buffer_ms: float | None,
        capture: Converter | None,
        playback: Converter | None,
    ) -> None:
        self._config, self._schedule = config, schedule
        self._hop_s = schedule.hop / schedule.model_rate
        self._extra_buffer_ms, self._added_s = extra_buffer_ms, 0.0
        self._converters = capture, playback
        self._periods: dict[int, Period] = {}
        self._watch, self._advised_s = LossWatch(), -_ADVICE_S
        self.is_known = False
        self._resize()

    def follow(self, side: int, callback: DeviceCallback) -> None:
        """Follow the period of the device on a side from now on."""
        self._periods[side] = Period(callback, self._config.blocks[side])

    def period(self, side: int) -> int:
        """Return the samples that the device on a side takes at once."""
        period = self._periods.get(1 if self._config.is_duplex else side)
        return period.samples if period else self._config.blocks[side]

    def update(self) -> int:
        """Follow the periods; return by how much the fill has changed, in samples."""
        has_changed = [period.update() for period in self._periods.values()]
        self.is_known = all(period.is_known for period in self._periods.values())
        return self._resize() if any(has_changed) else 0

    def update_losses(self, underruns: int) -> int:
        """Add to the fill if underruns recur, or advise it where the user has fixed the buffer.

        Args:
            underruns: samples missing from the output so far.

        Returns:
            by how much the fill has changed, in samples.
        """
        now_s = time.monotonic()
        if not self._watch.recurs(underruns, now_s):
            return 0
        added_s = max(_LEAST_ADDED_S, self.period(1) / self._config.rates[1] / 2)
        if self._extra_buffer_ms is not None or self._added_s + added_s > _MOST_ADDED_S:
            self._advised_s = now_s
            return 0
        self._added_s += added_s
        return self._resize()

    @property
    def advice(self) -> str:
        """What to change while losses recur in spite of the buffer, or an empty string."""
        if time.monotonic() - self._advised_s >= _ADVICE_S:
            return ""
        extra_ms = self._extra_buffer_ms or 1000 * self._added_s
        return (
            "sound is lost again and again: close other programs, or add a longer buffer:"
            f" --extra-buffer {2 * extra_ms + 10:.0f}"
        )

    def _resize(self) -> int:
        before = getattr(self, "fill", 0)
        self.fill, self.target = self._fills()
        return self.fill - before

    def _fills(self) -> tuple[int, int]:
        config, rate = self._config, self._config.rates[1]
        if not config.playback:
            return 0, 0
        period, extra_ms = self.period(1), self._extra_buffer_ms
        if config.is_duplex:
            budget_s = max(0.0, BUDGET_S - period / rate)
            extra_s = budget_s if extra_ms is None else extra_ms / 1000
            grain = self._periods[1].grain if self._periods else period
            least = smallest_fill(period, self._schedule, *self._converters, grain=grain)
            return least + round((extra_s + self._added_s) * rate), 0
        extra_s = JITTER_S + (extra_ms or 0.0) / 1000 + self._added_s
        target = period + round(extra_s * rate)
        longest_s = max(self.period(0) / config.rates[0], self._hop_s)
        return target + round(longest_s * rate), target


def smallest_fill(
    period: int,
    schedule: HopSchedule,
    capture: Converter | None = None,
    playback: Converter | None = None,
    *,
    grain: int | None = None,
) -> int:
    """Return the smallest initial fill of a duplex stream's playback ring without underruns.

    When a device takes its next period, everything computed from what it captured before has
    been written. The result is the largest shortfall then, found by counting.

    Args:
        period: samples that the device takes at once, at most.
        schedule: of the engine.
        capture, playback: converters before and after it, None where rates are equal.
        grain: what the samples captured so far are a multiple of; None: of the period.
    """
    grain = grain or period

    def separated_after(n_grains: int) -> int:
        captured = n_grains * grain
        received = capture.ready_after(captured) - 1 if capture else captured
        return schedule.completed(max(0, received))

    behind, separated, n_grains = 0, 0, range(1 + 4 * 44100 // grain)
    while True:
        # Right before another hop is complete, the most has been captured and not separated.
        least = bisect.bisect_right(n_grains, separated, key=separated_after)
        if least == len(n_grains):
            return behind
        written = playback.ready_after(separated) - 1 if playback and separated else separated
        behind = max(behind, (least - 1) * grain + period - max(0, written))
        separated = separated_after(least)
