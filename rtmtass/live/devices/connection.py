"""The open streams of an input and an output device, with their rings and converters."""

from __future__ import annotations

import math
import time
from collections import deque

import numpy as np

from rtmtass.dsp.live_resample import Converter
from rtmtass.live.devices.buffers import Buffers
from rtmtass.live.devices.callback import DeviceCallback, device_ring
from rtmtass.live.devices.drift import DriftControl
from rtmtass.live.devices.periods import LARGEST_PERIOD
from rtmtass.live.devices.portaudio import quiet_libraries
from rtmtass.live.devices.portaudio_stream import DeviceStream
from rtmtass.live.devices.stream_config import StreamConfig
from rtmtass.live.full_band import HopSchedule
from rtmtass.types import Floats

MARGIN_S = (0.0015, 0.004)
"""Margin between the deadline of a write and the callback that needs it, at least and at most:
time to wake up and copy. A quarter of a period between these."""
_RING_S = 0.5
_SILENT_S, _FIRST_CALL_S = 1.0, 3.0
_FADE_MS = 5.0
_CATCH_UP = 0.05
"""Pitch change to work off an excess of latency: at most a moment, and no click."""
_OPENING_HOPS = 12
"""Hops of silence between two clocks until the fill of the ring is known."""


def _capacity(rate: int, block: int) -> int:
    """Return the samples of a ring: half a second, and a few of the longest periods."""
    return max(round(_RING_S * rate), 8 * block, 5 * LARGEST_PERIOD // 2)


class Connection:
    """Rings, converters and open streams of a StreamConfig.

    With one clock, output sample n belongs to input sample n minus a fixed latency; samples
    that are late are dropped. With two, the output rate is adjusted to hold the fill of the
    playback ring. The fill follows the periods of the devices, and rises if losses recur.

    Args:
        config: see `stream_config_of`.
        schedule: of the engine.
        channels: of the separator.
        n_rows: 1 for a mix, S for the stems side by side.
        extra_buffer_ms: see StreamRequest.

    Attributes:
        capture, playback: the rings that the devices write to and read from.
        fill: latency of the buffers in samples at the output's rate; changes with the periods.
        notes: lines about what has changed, to be taken away by the caller.
        discontinuities: times input was lost and the ring emptied.
        is_silent: as of the last `poll`, a device has stopped calling back.

    Raises:
        DeviceError: a device can't be opened.
    """

    def __init__(
        self,
        config: StreamConfig,
        schedule: HopSchedule,
        channels: int,
        n_rows: int,
        extra_buffer_ms: float | None,
    ) -> None:
        self.config = config
        self._rate, self._separated, self._n_rows = schedule.sample_rate, channels, n_rows
        self._hop_s = schedule.hop / schedule.model_rate
        longest, (in_rate, out_rate) = schedule.longest, config.rates
        (in_block, out_block), n_picked = config.blocks, len(config.picked)
        in_channels = max(config.picked) + 1
        self.capture = device_ring(_capacity(in_rate, in_block), in_channels)
        self.playback = device_ring(_capacity(out_rate, out_block), config.out_channels)
        self._captured = np.zeros((max(in_block, longest), in_channels), np.float32)
        self._picked = np.zeros((len(self._captured), n_picked), np.float32)
        self._to_engine = self._to_device = None
        if config.capture and in_rate != self._rate:  # after a change of devices
            self._to_engine = Converter(in_rate, self._rate, n_picked, len(self._picked))
            self._ready = np.zeros((self._to_engine.room, n_picked), np.float32)
        if config.playback and (out_rate != self._rate or not config.is_duplex):
            self._to_device = Converter(self._rate, out_rate, config.out_channels, longest)
            self._played = np.zeros((self._to_device.room, config.out_channels), np.float32)
        self._spread = np.zeros((longest, config.out_channels), np.float32)
        self._last = np.zeros(config.out_channels, np.float32)
        self._extra_buffer_s = (extra_buffer_ms or 0.0) / 1000
        self._buffers = Buffers(config, schedule, extra_buffer_ms, self._to_engine, self._to_device)
        self._n_shift = self._opening_losses = 0
        self._is_opening, self._needs_blend = True, False
        self.notes: deque[str] = deque(maxlen=10)
        self._span = 0, 0
        self._n_written = self._n_received = self._n_dropped = 0
        self._overruns_seen = self.discontinuities = 0
        self._drift = DriftControl(self._buffers.target, out_rate)
        self._underruns_seen = self._n_excess = self._opening_underruns = 0
        self._n_opening = 0 if config.is_duplex or not config.playback else _OPENING_HOPS
        self._is_catching_up, self._needs_fade_in = False, True
        self._calls, self._called_s = [0, 0], [math.inf, math.inf]
        if config.is_duplex:
            self._sides: tuple[int, ...] = (1,)
        else:
            ends = (config.capture, config.playback)
            self._sides = tuple(side for side, device in enumerate(ends) if device)
        self._followed_s = time.monotonic()
        self._streams: list[DeviceStream] = []
        self._closed_latency_s = (0.0, 0.0)
        self.is_silent = False
        self._open()

    def _open(self) -> None:
        config = self.config
        fades = [round(_FADE_MS * rate / 1000) for rate in config.rates]
        self._callbacks: list[DeviceCallback] = []
        channels = self.capture.channels, self.playback.channels
        with quiet_libraries():
            try:
                for side in self._sides:
                    # A duplex stream is on side 1 and has both devices.
                    capture = config.capture if config.is_duplex or side == 0 else None
                    playback = config.playback if side == 1 else None
                    callback = DeviceCallback(
                        self.capture if capture else None,
                        self.playback if playback else None,
                        fades[side],
                    )
                    self._callbacks.append(callback)
                    rate, block = config.rates[side], config.blocks[side]
                    self._buffers.follow(side, callback)
                    block = 0 if config.has_host_blocks[side] else block
                    self._streams.append(
                        DeviceStream(capture, playback, channels, rate, block, callback)
                    )
            except Exception:
                self.close()
                raise

    def start(self) -> None:
        """Start the streams.

        Raises:
            DeviceError: a device doesn't start.
        """
        self._pad(self.fill)
        # The input last: its ring would overflow while a slow output starts.
        for stream in reversed(self._streams):
            stream.start()
        now = time.monotonic()
        self._called_s = [now, now]

    def close(self) -> None:
        """Close the streams at once; never raises."""
        if self._streams:  # the statistics after the end are those of the run
            self._closed_latency_s = self.reported_latency_s
        with quiet_libraries():
            while self._streams:
                self._streams.pop().close(is_silent=self.is_silent)

    # --- the input

    def read(self, out: Floats) -> int:
        """Fill the front of `out`, (n, channels) at the engine's rate; return how many."""
        if self.capture.overruns != self._overruns_seen:
            self._drop_stale_input()
        start, end = self._span
        if start == end:
            n = len(out)
            if self._to_engine:
                n = math.ceil(n * self._to_engine.in_rate / self._rate)
            n = min(n, self.capture.available, len(self._captured))
            if not n:
                return 0
            self.capture.read(self._captured[:n])
            for column, channel in enumerate(self.config.picked):
                self._picked[:n, column] = self._captured[:n, channel]
            if not self._to_engine:
                out[:n] = self._picked[:n]
                return n
            start, end = 0, self._to_engine.process(self._picked[:n], self._ready)
        n = min(len(out), end - start)
        out[:n] = self._ready[start : start + n]
        self._span = start + n, end
        return n

    def _drop_stale_input(self) -> None:
        """Empty the capture ring after an overrun: it holds half a second of old input."""
        self._overruns_seen = self.capture.overruns
        while available := min(self.capture.available, len(self._captured)):
            self.capture.read(self._captured[:available])
            self._n_dropped += available
        self.discontinuities += 1

    # --- the output

    def write(self, stems: Floats) -> None:
        """Write (rows, n, channels) at the engine's rate, n at most a hop; never blocks."""
        n = stems.shape[1]
        spread = self._spread[:n]
        if self._n_rows > 1:
            for row in range(self._n_rows):
                first = row * self._separated
                spread[:, first : first + self._separated] = stems[row]
        elif self._separated == 1:
            spread[:] = stems[0]
        else:
            spread[:, : self._separated] = stems[0, :, : spread.shape[1]]
        block = spread
        if self._to_device:
            block = self._played[: self._to_device.process(spread, self._played)]
        block = self._align(block) if self.config.is_duplex else self._fade_in(block)
        if len(block):
            self.playback.write(block[: self.playback.free])

    def _align(self, block: Floats) -> Floats:
        """Keep the latency of one clock: drop late samples, pad with silence before early ones."""
        position = self._n_written + self.playback.underruns - self._n_shift
        late = position - (self._n_received + self.capture.overruns + self._n_dropped)
        self._n_received += len(block)
        if late < 0:
            gap = min(-late, self.playback.free)
            self._pad(gap)
            self._n_written += gap
        on_time = block[min(max(late, 0), len(block)) :]
        self._n_written += len(on_time)
        if len(on_time):
            if self._needs_blend:
                self._blend(on_time)
            self._last[:] = on_time[-1]
        return on_time

    def _blend(self, block: Floats) -> None:
        """Fade from the last sample to a block, so that a change of latency doesn't click."""
        n = min(len(block), round(_FADE_MS * self.config.rates[1] / 1000))
        ramp = np.linspace(1, 0, n, dtype=np.float32)[:, None]
        block[:n] += ramp * (self._last - block[:n])
        self._needs_blend = False

    def _fade_in(self, block: Floats) -> Floats:
        """Write silence until the fill between two clocks is set, then fade in."""
        if self._n_opening:
            block[:] = 0
        n_dropped = min(self._n_excess, len(block))
        self._n_excess -= n_dropped
        block = block[n_dropped:]
        if self._needs_fade_in and not self._n_opening and len(block):
            block *= np.linspace(0, 1, len(block), dtype=np.float32)[:, None]
            self._needs_fade_in = False
        return block

    # --- the buffers

    @property
    def fill(self) -> int:
        """Latency of the buffers in samples at the output's rate; follows the devices' periods."""
        return self._buffers.fill

    @property
    def advice(self) -> str:
        """What to change while losses recur in spite of the buffer, or an empty string."""
        return self._buffers.advice

    def _follow_buffers(self) -> None:
        """Let the latency follow what the devices take at once, and what is lost."""
        more = self._buffers.update()
        if self._is_opening:
            self._opening_losses = sum(callback.losses for callback in self._callbacks)
            self._opening_underruns = self.playback.underruns
            self._is_opening = not self._buffers.is_known
        elif more:
            self._note(f"the device takes {self._buffers.period(1)} samples at once now", more)
        elif self.config.capture and (more := self._buffers.update_losses(self.underruns)):
            self._note("sound was lost again and again", more)
        if not more:
            return
        self._drift.target = self._buffers.target
        if self.config.is_duplex:
            self._n_shift += more
            self._needs_blend = True
        elif self.config.playback and not self._n_opening:
            self._pad(more)

    def _note(self, why: str, more: int) -> None:
        change_ms = 1000 * abs(more) / self.config.rates[1]
        change = "raised" if more > 0 else "lowered"
        self.notes.append(f"{why}: the buffer was {change} by {change_ms:.0f} ms")

    def _pad(self, n: int) -> None:
        """Write `n` samples of silence, after a fade from the last sample."""
        if n <= 0:
            return
        silence = np.zeros((min(n, self.playback.free), self.playback.channels), np.float32)
        n_fade = min(len(silence), round(_FADE_MS * self.config.rates[1] / 1000))
        silence[:n_fade] = np.linspace(1, 0, n_fade, dtype=np.float32)[:, None] * self._last
        self._last[:] = 0
        self.playback.write(silence)

    # --- the clocks

    def poll(self) -> str:
        """Check when the devices last called back; return what is wrong with them, or nothing."""
        now = time.monotonic()
        has_called = False
        for side, callback in zip(self._sides, self._callbacks, strict=True):
            if callback.calls != self._calls[side]:
                self._calls[side] = callback.calls
                self._called_s[side] = now
                has_called = True
        if has_called:
            self._follow_buffers()
        periods_s = [self._buffers.period(side) / self.config.rates[side] for side in (0, 1)]
        timeout_s = _SILENT_S + 4 * max(periods_s)
        self.is_silent = any(
            now - self._called_s[side] > timeout_s + _FIRST_CALL_S * (not self._calls[side])
            for side in self._sides
        )
        if not all(stream.is_active for stream in self._streams):
            return "is gone"
        # A stopped JACK server resumes with its clients, or ends and makes its streams inactive.
        is_jack = any(stream.is_jack for stream in self._streams)
        return "has fallen silent" if self.is_silent and not is_jack else ""

    def deadline_s(self) -> float:
        """Return by when to `write` the next block: before the callback that would underrun.

        Without a playback device, before another hop has been captured. On time.monotonic.
        """
        if not self.config.playback:
            period_s = self._buffers.period(0) / self.config.rates[0]
            return self._called_s[0] + max(self._hop_s, period_s) + self._extra_buffer_s
        period, rate = self._buffers.period(1), self.config.rates[1]
        periods = self.playback.available // period + 1
        margin_s = min(max(MARGIN_S[0], period / rate / 4), MARGIN_S[1])
        return self._called_s[1] + periods * period / rate - margin_s

    def follow_clock(self) -> None:
        """Hold the fill of the playback ring at its target while the clocks drift.

        Call it before a `write`, right after a `poll`, when `read` had to wait for input.
        """
        if self.config.is_duplex or not self.config.playback:
            return
        assert self._to_device, "two clocks have a converter between them"
        now, rate, period = time.monotonic(), self.config.rates[1], self._buffers.period(1)
        fill = self.playback.available
        # Less what has been played of the last period, so that it falls steadily, not in steps.
        smooth_fill = fill - min((now - self._called_s[1]) * rate, period)
        if self._n_opening:
            self._n_opening -= 1
            if not self._n_opening:
                self._settle(smooth_fill)
        elif self.playback.underruns != self._underruns_seen:
            self._underruns_seen = self.playback.underruns
            self._pad(self._buffers.target - fill)
        elif self._is_catching_up or fill > self._buffers.target + 2 * self.fill:
            # Only the device may remove samples from the ring: shrink the excess by pitch.
            self._is_catching_up = fill > self._buffers.target + period
            self._to_device.ratio = 1 - _CATCH_UP
        else:
            elapsed_s = min(now - self._followed_s, 0.1)
            self._to_device.ratio = self._drift.update(smooth_fill, elapsed_s)
        self._followed_s = now

    def _settle(self, smooth_fill: float) -> None:
        """Set the fill to its target at once, which is silent: the fade-in comes after."""
        excess = round(smooth_fill - self._buffers.target)
        self._n_excess = max(0, excess)
        self._pad(-excess)
        self._underruns_seen = self._opening_underruns = self.playback.underruns
        self._opening_losses = sum(callback.losses for callback in self._callbacks)
        self._drift.reset()

    # --- statistics

    @property
    def is_audible(self) -> bool:
        """Whether `write` is audible: between two clocks the first hops are silent."""
        return not self._n_opening

    @property
    def underruns(self) -> int:
        """Samples missing from the output since it became audible."""
        if self._n_opening or self._is_opening:
            return 0
        return self.playback.underruns - self._opening_underruns

    @property
    def xruns(self) -> int:
        """Callbacks that lost sound: reported by the sound system, or found by the rings."""
        reported = sum(callback.xruns for callback in self._callbacks)
        if self._n_opening or self._is_opening:
            return reported
        return reported + sum(each.losses for each in self._callbacks) - self._opening_losses

    @property
    def drift_ppm(self) -> float:
        """How much faster the output's clock runs than the input's; 0 if it is the same."""
        return 0.0 if self.config.is_duplex else self._drift.drift_ppm

    @property
    def reported_latency_s(self) -> tuple[float, float]:
        """Latency of input and output as the sound system reports it, or did before the end."""
        if not self._streams:
            return self._closed_latency_s
        first, last = self._streams[0].latency_s, self._streams[-1].latency_s
        return first[0] if self.config.capture else 0.0, last[1] if self.config.playback else 0.0
