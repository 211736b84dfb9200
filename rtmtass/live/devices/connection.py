"""One open connection from input to output device, from its opening until it breaks."""

from __future__ import annotations

import math
import time

import numpy as np
from numpy.typing import NDArray

from rtmtass.dsp.live_resample import Converter
from rtmtass.live.devices.callback import DeviceCallback, device_ring
from rtmtass.live.devices.drift import DriftControl
from rtmtass.live.devices.listing import Device
from rtmtass.live.devices.portaudio import quiet_libraries
from rtmtass.live.devices.portaudio_stream import DeviceStream
from rtmtass.live.devices.stream_config import StreamConfig, fills
from rtmtass.live.worker import LiveSeparator

Floats = NDArray[np.float32]

MARGIN_S = (0.0015, 0.004)
"""By how much stems must be earlier than the device asks for them, at least and at most: for
waking up and copying. A quarter of a block between these."""
_RING_S = 0.5
_SILENT_S, _FIRST_CALL_S = 1.0, 3.0
_FADE_MS = 5.0
_CATCH_UP = 0.05
_OPENING_HOPS = 12
"""For so long two clocks are listened to before anything is heard."""


class Connection:
    """Rings, converters and streams of a shape.

    Where both devices share a clock, every sample has its place, a fixed number
    of samples behind the input, and what is too late for it is dropped. Where
    they don't, the output's rate follows how full its ring is.

    Args:
        shape: of `stream_config_of`.
        separator: that is used.
        n_rows: 1 mix, or as many stems side by side.
        extra_buffer_ms: see StreamRequest.

    Attributes:
        given, wanted: the rings that the devices fill and empty.
        fill: samples that the buffers add to the latency, at the output's rate.
        discontinuities: how often input was lost and what was before it dropped.
        is_silent: no call has come for long, as of the last `poll`.

    Raises:
        DeviceError: a device can't be opened.
    """

    def __init__(
        self,
        shape: StreamConfig,
        separator: LiveSeparator,
        n_rows: int,
        extra_buffer_ms: float | None,
    ) -> None:
        self.shape = shape
        self._model, self._separated, self._n_rows = (
            separator.sample_rate,
            separator.channels,
            n_rows,
        )
        hop, (in_rate, out_rate) = separator.hop, shape.rates
        (in_block, out_block), n_picked = shape.blocks, len(shape.picked)
        in_channels = max(shape.picked) + 1
        self.capture = device_ring(max(round(_RING_S * in_rate), 8 * in_block), in_channels)
        self.playback = device_ring(
            max(round(_RING_S * out_rate), 8 * out_block), shape.out_channels
        )
        self._captured = np.zeros((max(in_block, hop), in_channels), np.float32)
        self._picked = np.zeros((len(self._captured), n_picked), np.float32)
        self._to_model = self._to_device = None
        if in_rate != self._model:
            self._to_model = Converter(in_rate, self._model, n_picked, len(self._picked))
            self._ready = np.zeros((self._to_model.room, n_picked), np.float32)
        if out_rate != self._model or not shape.is_duplex:
            self._to_device = Converter(self._model, out_rate, shape.out_channels, hop)
            self._played = np.zeros((self._to_device.room, shape.out_channels), np.float32)
        self._spread = np.zeros((hop, shape.out_channels), np.float32)
        self.fill, self._target = fills(
            shape, separator, extra_buffer_ms, self._to_model, self._to_device
        )
        self._span = 0, 0
        self._taken = self._made = self._dropped = self._seen_lost = self.discontinuities = 0
        self._drift = DriftControl(self._target, out_rate)
        self._seen_missing = self._n_excess = self._n_unheard = 0
        self._n_opening = 0 if shape.is_duplex else _OPENING_HOPS
        self._is_catching_up, self._is_rising = False, True
        self._calls, self._seen_s = [0, 0], [math.inf, math.inf]
        self._sides = (0, 1) if shape.has_input and not shape.is_duplex else (1,)
        self._followed_s = time.monotonic()
        self._streams: list[DeviceStream] = []
        self.is_silent = False
        self._open()

    def _open(self) -> None:
        shape = self.shape
        fade = [round(_FADE_MS * rate / 1000) for rate in shape.rates]
        ends: list[tuple[Device | None, Device | None, int]]
        if shape.is_duplex:
            self._callbacks = [DeviceCallback(self.capture, self.playback, fade[1])]
            ends = [(shape.capture, shape.playback, 1)]
        elif not shape.has_input:
            self._callbacks = [DeviceCallback(None, self.playback, fade[1])]
            ends = [(None, shape.playback, 1)]
        else:
            self._callbacks = [
                DeviceCallback(self.capture, None, fade[0]),
                DeviceCallback(None, self.playback, fade[1]),
            ]
            ends = [(shape.capture, None, 0), (None, shape.playback, 1)]
        channels = self.capture.channels, self.playback.channels
        with quiet_libraries():
            try:
                for (capture, playback, side), callback in zip(ends, self._callbacks, strict=True):
                    rate, block = shape.rates[side], shape.blocks[side]
                    self._streams.append(
                        DeviceStream(capture, playback, channels, rate, block, callback)
                    )
            except Exception:
                self.close()
                raise

    def start(self) -> None:
        """Let the devices run.

        Raises:
            DeviceError: one doesn't.
        """
        self.playback.write(np.zeros((self.fill, self.playback.channels), np.float32))
        # The input last: what it captures can't wait for an output that takes its time to start.
        for stream in reversed(self._streams):
            stream.start()
        now = time.monotonic()
        self._seen_s = [now, now]

    def close(self) -> None:
        """Let go of the devices at once; never raises."""
        with quiet_libraries():
            while self._streams:
                self._streams.pop().close(is_silent=self.is_silent)

    # --- the input

    def read(self, out: Floats) -> int:
        """Hand over what is there, at most `out` (n, channels), at the separator's rate."""
        if self.capture.overruns != self._seen_lost:
            self._drop_what_is_too_old()
        start, end = self._span
        if start == end:
            n = len(out)
            if self._to_model:
                n = math.ceil(n * self._to_model.in_rate / self._model)
            n = min(n, self.capture.available, len(self._captured))
            if not n:
                return 0
            self.capture.read(self._captured[:n])
            for place, channel in enumerate(self.shape.picked):
                self._picked[:n, place] = self._captured[:n, channel]
            if not self._to_model:
                out[:n] = self._picked[:n]
                return n
            start, end = 0, self._to_model.process(self._picked[:n], self._ready)
        n = min(len(out), end - start)
        out[:n] = self._ready[start : start + n]
        self._span = start + n, end
        return n

    def _drop_what_is_too_old(self) -> None:
        """Samples were lost behind those that wait, which are half a second old by now."""
        self._seen_lost = self.capture.overruns
        while waiting := min(self.capture.available, len(self._captured)):
            self.capture.read(self._captured[:waiting])
            self._dropped += waiting
        self.discontinuities += 1

    # --- the output

    def write(self, stems: Floats) -> None:
        """Take (rows, n, channels) at the separator's rate, n at most a hop; never waits."""
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
        block = self._in_place(block) if self.shape.is_duplex else self._opened(block)
        if len(block):
            self.playback.write(block[: self.playback.free])

    def _in_place(self, block: Floats) -> Floats:
        """Put a block of one clock where it belongs: drop what is late, fill what is early."""
        place = self._taken + self.playback.underruns
        late = place - (self._made + self.capture.overruns + self._dropped)
        self._made += len(block)
        if late < 0:
            gap = min(-late, self.playback.free)
            self.playback.write(np.zeros((gap, self.playback.channels), np.float32))
            self._taken += gap
        kept = block[min(max(late, 0), len(block)) :]
        self._taken += len(kept)
        return kept

    def _opened(self, block: Floats) -> Floats:
        """Stay silent until two clocks have found their distance, then fade in."""
        if self._n_opening:
            block[:] = 0
        n_dropped = min(self._n_excess, len(block))
        self._n_excess -= n_dropped
        block = block[n_dropped:]
        if self._is_rising and not self._n_opening and len(block):
            block *= np.linspace(0, 1, len(block), dtype=np.float32)[:, None]
            self._is_rising = False
        return block

    # --- the clocks

    def poll(self) -> str:
        """Notice when the devices called last; return what is broken about them, or nothing."""
        now = time.monotonic()
        for side, callback in zip(self._sides, self._callbacks, strict=True):
            if callback.calls != self._calls[side]:
                self._calls[side] = callback.calls
                self._seen_s[side] = now
        blocks_s = [b / r for b, r in zip(self.shape.blocks, self.shape.rates, strict=True)]
        patience_s = _SILENT_S + 4 * max(blocks_s)
        self.is_silent = any(
            now - self._seen_s[side] > patience_s + _FIRST_CALL_S * (not self._calls[side])
            for side in self._sides
        )
        if not all(stream.is_active for stream in self._streams):
            return "is gone"
        # A JACK server that stands still goes on with its clients, or takes its streams with it.
        is_jack = any(stream.is_jack for stream in self._streams)
        return "has fallen silent" if self.is_silent and not is_jack else ""

    def deadline_s(self) -> float:
        """Return by when to `write` the next block: before the call that would find too little."""
        block, rate = self.shape.blocks[1], self.shape.rates[1]
        calls = self.playback.available // block + 1
        margin_s = min(max(MARGIN_S[0], block / rate / 4), MARGIN_S[1])
        return self._seen_s[1] + calls * block / rate - margin_s

    def follow_clock(self) -> None:
        """Keep what waits in the output at its target though the clocks differ.

        To be called before a `write`, just after a `poll`, when the input has been waited for.
        """
        if self.shape.is_duplex:
            return
        assert self._to_device, "two clocks have a converter between them"
        now, rate, block = time.monotonic(), self.shape.rates[1], self.shape.blocks[1]
        fill = self.playback.available
        # What has been played of the last block is no longer there: this falls without steps.
        waiting = fill - min((now - self._seen_s[1]) * rate, block)
        if self._n_opening:
            self._n_opening -= 1
            if not self._n_opening:
                self._settle(waiting)
        elif self.playback.underruns != self._seen_missing:
            self._seen_missing = self.playback.underruns
            self._pad(self._target - fill)
        elif self._is_catching_up or fill > self._target + 2 * self.fill:
            # Only the device may take samples out. A moment of wrong pitch beats a click.
            self._is_catching_up = fill > self._target + block
            self._to_device.ratio = 1 - _CATCH_UP
        else:
            elapsed_s = min(now - self._followed_s, 0.1)
            self._to_device.ratio = self._drift.update(waiting, elapsed_s)
        self._followed_s = now

    def _settle(self, waiting: float) -> None:
        """Bring what waits to its target at once; nobody hears it yet."""
        excess = round(waiting - self._target)
        self._n_excess = max(0, excess)
        self._pad(-excess)
        self._seen_missing = self._n_unheard = self.playback.underruns
        self._drift.reset()

    def _pad(self, n: int) -> None:
        if n > 0:
            self.playback.write(np.zeros((n, self.playback.channels), np.float32))

    # --- what there is to know

    @property
    def is_audible(self) -> bool:
        """Whether what is `write` will be heard: two clocks are listened to first."""
        return not self._n_opening

    @property
    def underruns(self) -> int:
        """Samples missing from the output since there was something to hear."""
        return 0 if self._n_opening else self.playback.underruns - self._n_unheard

    @property
    def xruns(self) -> int:
        """How often the sound system itself reported one."""
        return sum(callback.xruns for callback in self._callbacks)

    @property
    def drift_ppm(self) -> float:
        """How much faster the output's clock runs than the input's; 0 if it is the same."""
        return 0.0 if self.shape.is_duplex else self._drift.drift_ppm

    @property
    def claimed_s(self) -> tuple[float, float]:
        """Latency of input and output as the system claims them."""
        if not self._streams:
            return 0.0, 0.0
        return self._streams[0].latency_s[0], self._streams[-1].latency_s[1]
