"""Ties an input and an output device to the engine: rings, rates, two clocks, and reconnecting."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rtmtass.dsp.callback import DeviceCallback, device_ring
from rtmtass.errors import DeviceError, RtmtassError, UsageError
from rtmtass.dsp.convert import Converter
from rtmtass.live.clocks import DriftControl
from rtmtass.live.devices import (
    Device,
    DeviceStream,
    find_device,
    list_devices,
    quiet_libraries,
    restart_portaudio,
    share_a_clock,
    takes_rate,
)
from rtmtass.live.stats import DeviceStats, Latency
from rtmtass.live.worker import LiveSeparator

Floats = NDArray[np.float32]

MARGIN_S = (0.0015, 0.004)
"""By how much stems must be earlier than the device asks for them, at least and at most: for
waking up and copying. A quarter of a block between these."""
BUDGET_S = 0.008
"""What a step may take; shorter device blocks get so much slack."""
JITTER_S = 0.004
"""Between two clocks, what waits beyond the need."""
_POLL_S = 0.0005
_RING_S = 0.5
_SILENT_S = 1.0
_BACK_OFF_S = (0.25, 0.5, 1.0, 2.0, 4.0)
_DRAIN_S = 0.5
_FADE_MS = 5.0
_CATCH_UP = 0.05
_OPENING_HOPS = 12


@dataclass(frozen=True)
class LinkWishes:
    """What is asked of the devices; None chooses.

    Attributes:
        input, output: number or part of a name, None for the default.
        input_channels: which to use, from 1; empty: the first, or the first two
            if the separator has two channels.
        sample_rate: of the devices, in Hz; None: the model's if they take it.
        block: samples a device hands over at once.
        slack_ms: waits in the output besides what must.
    """

    input: str | None = None
    output: str | None = None
    input_channels: tuple[int, ...] = ()
    sample_rate: int | None = None
    block: int | None = None
    slack_ms: float | None = None


@dataclass(frozen=True)
class LinkShape:
    """What the streams will be, worked out from wishes and devices.

    Attributes:
        fill: samples of silence in the output at the beginning: what keeps it fed,
            and what the buffers add to the latency, at the output's rate.
    """

    given: Device
    wanted: Device
    is_duplex: bool
    rates: tuple[int, int]
    blocks: tuple[int, int]
    picked: tuple[int, ...]
    out_channels: int
    fill: int


def smallest_fill(block: int, hop: int, given: Converter | None, wanted: Converter | None) -> int:
    """Return how many samples must wait in the output of one clock so that it never runs dry.

    Before call k + 1 of the device, all that calls 1 … k made possible has been
    written. So it is the most by which the output can be behind, found by counting.

    Args:
        block: samples a call.
        hop: of the separator, at its rate.
        given, wanted: converters before and after it, None where rates are equal.
    """
    behind = 0
    for call in range(1 + 4 * 44100 // block):
        there = call * block
        model = given.ready_after(there) - 1 if given else there
        made = max(0, model) // hop * hop
        written = wanted.ready_after(made) - 1 if wanted and made else made
        behind = max(behind, (call + 1) * block - max(0, written))
    return behind


class DeviceLink:
    """An input and an output device as Source, Sink and Clocked of an engine.

    Where both share a clock, the output stays a fixed number of samples behind
    the input for ever: every sample has a place, what is too late for it is
    dropped. Where they don't, the output's rate follows how full its ring is.

    Args:
        wishes: which devices, and how.
        separator: that the engine will use.
        n_rows: what `write` gets: 1 mix, or S stems side by side.
        on_message: told in a line what happened; called from the engine's thread.

    Raises:
        DeviceError, UsageError: the wishes can't be met.
    """

    def __init__(
        self,
        wishes: LinkWishes,
        separator: LiveSeparator,
        *,
        n_rows: int = 1,
        on_message: Callable[[str], None] | None = None,
    ) -> None:
        self.wishes, self.sample_rate, self.hop = wishes, separator.sample_rate, separator.hop
        self._algorithm, self._separated = separator.algorithmic_latency, separator.channels
        self._n_rows = n_rows
        self._guard = threading.Lock()
        self._tell = on_message or (lambda _line: None)
        self.gaps = self._reopened = 0
        self._overruns = self._underruns = self._xruns = 0
        self._state, self._message = "new", ""
        self._is_closed = False
        self._streams: list[DeviceStream] = []
        self.shape = self._shaped(list_devices())
        self.channels = len(self.shape.picked)
        self._build()

    # --- opening

    def _shaped(self, devices: Sequence[Device]) -> LinkShape:
        """Find the devices and work out rates, blocks and channels."""
        wishes = self.wishes
        given = find_device(wishes.input, "input", devices)
        wanted = find_device(wishes.output, "output", devices)
        is_duplex = share_a_clock(given, wanted)
        rates = self._rate(given, wanted, is_duplex)
        picked = wishes.input_channels or tuple(range(1, 1 + min(self._separated, given.inputs)))
        if min(picked) < 1 or max(picked) > given.inputs:
            raise UsageError(
                f"input channel {max(picked) if min(picked) > 0 else min(picked)} was asked for,"
                f" but {given} has 1 to {given.inputs}"
            )
        needed = self._n_rows * self._separated
        if self._n_rows > 1 and wanted.outputs < needed:
            raise DeviceError(
                f"stems need {needed} output channels, but {wanted} has {wanted.outputs};"
                " choose another --output, or leave out --stems-out"
            )
        out_channels = needed if self._n_rows > 1 else min(max(2, needed), wanted.outputs)
        blocks = self._block(rates[0]), self._block(rates[1])
        return LinkShape(
            given, wanted, is_duplex, rates, blocks, tuple(c - 1 for c in picked), out_channels, 0
        )

    def _rate(self, given: Device, wanted: Device, is_duplex: bool) -> tuple[int, int]:
        asked = self.wishes.sample_rate
        if asked:
            return asked, asked
        model = self.sample_rate
        rates = tuple(
            model if takes_rate(device, kind, model) else device.sample_rate
            for device, kind in ((given, "input"), (wanted, "output"))
        )
        if is_duplex and rates[0] != rates[1]:
            return given.sample_rate, given.sample_rate
        return rates[0], rates[1]

    def _block(self, rate: int) -> int:
        if self.wishes.block:
            return self.wishes.block
        # At its own rate a hop fits a block exactly; else small blocks cost the least latency.
        return self.hop if rate == self.sample_rate else 64 * max(1, round(rate / 12000))

    def _build(self) -> None:
        """Make rings, converters and streams for `shape`; nothing runs yet."""
        shape, model, hop = self.shape, self.sample_rate, self.hop
        in_rate, out_rate = shape.rates
        in_block, out_block = shape.blocks
        in_channels = max(shape.picked) + 1
        self._in = device_ring(max(round(_RING_S * in_rate), 8 * in_block), in_channels)
        self._out = device_ring(max(round(_RING_S * out_rate), 8 * out_block), shape.out_channels)
        self._captured = np.zeros((max(in_block, hop), in_channels), np.float32)
        self._picked = np.zeros((len(self._captured), self.channels), np.float32)
        self._to_model = self._to_device = None
        if in_rate != model:
            self._to_model = Converter(in_rate, model, self.channels, len(self._picked))
            self._ready = np.zeros((self._to_model.room, self.channels), np.float32)
        if out_rate != model or not shape.is_duplex:
            self._to_device = Converter(model, out_rate, shape.out_channels, hop)
            self._played = np.zeros((self._to_device.room, shape.out_channels), np.float32)
        self._spread = np.zeros((hop, shape.out_channels), np.float32)
        self._fill, self._target = self._fills(shape)
        self._drift = DriftControl(self._target, out_rate)
        self._span = 0, 0
        self._taken = self._made = self._lost = 0
        self._seen_missing = self._seen_lost = 0
        self._calls, self._seen_s = [0, 0], [math.inf, math.inf]
        self._controlled_s = time.monotonic()
        self._is_catching_up, self._is_rising = False, True
        self._n_opening, self._n_excess = (0 if shape.is_duplex else _OPENING_HOPS), 0
        self._open_streams()

    def _fills(self, shape: LinkShape) -> tuple[int, int]:
        """Return the silence to begin with and, for two clocks, what should wait before a write."""
        (_, out_rate), (in_block, out_block) = shape.rates, shape.blocks
        wished = self.wishes.slack_ms
        if shape.is_duplex:
            slack_s = max(0.0, BUDGET_S - out_block / out_rate) if wished is None else wished / 1000
            least = smallest_fill(out_block, self.hop, self._to_model, self._to_device)
            return least + round(slack_s * out_rate), 0
        slack_s = JITTER_S + (0.0 if wished is None else wished / 1000)
        target = out_block + round(slack_s * out_rate)
        longest = max(in_block / shape.rates[0], self.hop / self.sample_rate)
        return target + round(longest * out_rate), target

    def _open_streams(self) -> None:
        shape = self.shape
        fade = [round(_FADE_MS * rate / 1000) for rate in shape.rates]
        channels = self._in.channels, self._out.channels
        if shape.is_duplex:
            self._callbacks = [DeviceCallback(self._in, self._out, fade[1])]
            ends: list[tuple[Device | None, Device | None, int]] = [(shape.given, shape.wanted, 1)]
        else:
            self._callbacks = [
                DeviceCallback(self._in, None, fade[0]), DeviceCallback(None, self._out, fade[1])
            ]  # fmt: skip
            ends = [(shape.given, None, 0), (None, shape.wanted, 1)]
        with quiet_libraries():
            for (given, wanted, side), callback in zip(ends, self._callbacks, strict=True):
                self._streams.append(
                    DeviceStream(
                        given, wanted, channels, shape.rates[side], shape.blocks[side], callback
                    )
                )

    def start(self) -> None:
        """Let the devices run; the first `read` does it if nobody did.

        Raises:
            DeviceError: one doesn't.
        """
        self._out.write(np.zeros((self._fill, self._out.channels), np.float32))
        for stream in self._streams:
            stream.start()
        now = time.monotonic()
        self._seen_s = [now, now]
        self._state = "running"

    # --- Source

    def read(self, out: Floats) -> int:
        """See Source; waits for a device, however long it takes to come back."""
        if self._state == "new":
            self.start()
        has_waited = False
        filled = 0
        while filled < len(out):
            if self._is_closed:
                return 0
            n = self._take(out[filled:])
            filled += n
            if not n:
                has_waited = True
                self._look()
                time.sleep(_POLL_S)
        self._look()
        if has_waited and not self.shape.is_duplex:
            self._follow_clock()
        return filled

    def _take(self, out: Floats) -> int:
        """Hand over what is there, at most `out`."""
        if self._in.overruns != self._seen_lost:
            self._start_over_behind_the_gap()
        start, end = self._span
        if start == end:
            wanted = len(out)
            if self._to_model:
                wanted = math.ceil(len(out) * self._to_model.in_rate / self.sample_rate)
            n = min(wanted, self._in.available, len(self._captured))
            if not n:
                return 0
            self._in.read(self._captured[:n])
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

    def _start_over_behind_the_gap(self) -> None:
        """Drop what was captured before samples were lost: it is too old to be heard."""
        self._seen_lost = self._in.overruns
        while waiting := min(self._in.available, len(self._captured)):
            self._in.read(self._captured[:waiting])
            self._lost += waiting
        self.gaps += 1

    # --- Sink

    def write(self, stems: Floats) -> None:
        """See Sink; never waits."""
        if self._is_closed or self._state != "running":
            return
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
            if not self.shape.is_duplex:
                block = self._opened(block)
        if self.shape.is_duplex:
            block = self._in_place(block)
        if len(block):
            self._out.write(block[: self._out.free])

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

    def _settle(self, waiting: float) -> None:
        """Bring what waits to its target at once; nobody hears it yet."""
        excess = round(waiting - self._target)
        self._n_excess = max(0, excess)
        self._out.write(np.zeros((max(0, -excess), self._out.channels), np.float32))
        self._seen_missing = self._out.underruns
        self._drift.reset()

    def _in_place(self, block: Floats) -> Floats:
        """Put a block of one clock where it belongs: drop what is too late, fill what is too early."""
        missing = self._out.underruns
        lost = self._in.overruns + self._lost
        place = self._taken + missing
        late = place - (self._made + lost)
        self._made += len(block)
        if late < 0:
            gap = min(-late, self._out.free)
            self._out.write(np.zeros((gap, self._out.channels), np.float32))
            self._taken += gap
            late = 0
        kept = block[min(late, len(block)) :]
        self._taken += len(kept)
        return kept

    def _follow_clock(self) -> None:
        """Keep what waits in the output at its target though the clocks differ.

        To be called before a write, when the devices have just been looked at.
        """
        assert self._to_device, "two clocks have a converter between them"
        now, (_, rate), (_, block) = time.monotonic(), self.shape.rates, self.shape.blocks
        fill = self._out.available
        waiting = fill - min((now - self._seen_s[1]) * rate, block)
        if self._n_opening:
            self._n_opening -= 1
            if not self._n_opening:
                self._settle(waiting)
        elif self._out.underruns != self._seen_missing:
            self._seen_missing = self._out.underruns
            short = max(0, self._target - fill)
            self._out.write(np.zeros((short, self._out.channels), np.float32))
        elif self._is_catching_up or fill > self._target + 2 * self._fill:
            # Only the device may take samples out. A moment of wrong pitch beats a click.
            self._is_catching_up = fill > self._target + block
            self._to_device.ratio = 1 - _CATCH_UP
        else:
            elapsed_s = min(now - self._controlled_s, 0.1)
            self._to_device.ratio = self._drift.update(waiting, elapsed_s)
        self._controlled_s = now

    # --- Clocked

    def _look(self) -> None:
        """Notice when the devices called last; reopen them when they don't any more."""
        now = time.monotonic()
        for side, callback in enumerate(self._callbacks):
            if callback.calls != self._calls[side]:
                self._calls[side] = callback.calls
                self._seen_s[side] = now
        if len(self._callbacks) == 1:
            self._seen_s[1] = self._seen_s[0]
        blocks_s = [b / r for b, r in zip(self.shape.blocks, self.shape.rates, strict=True)]
        patience_s = _SILENT_S + 4 * max(blocks_s)
        if any(now - seen > patience_s for seen in self._seen_s):
            self._reconnect("has fallen silent")
        elif not all(stream.is_active for stream in self._streams):
            self._reconnect("is gone")

    def deadline_s(self) -> float:
        """See Clocked: just before the call that would find too little in the output."""
        block, rate = self.shape.blocks[1], self.shape.rates[1]
        if self._seen_s[1] == math.inf:
            return math.inf
        calls = self._out.available // block + 1
        margin_s = min(max(MARGIN_S[0], block / rate / 4), MARGIN_S[1])
        return self._seen_s[1] + calls * block / rate - margin_s

    def _reconnect(self, why: str) -> None:
        """Close everything and open it again, with longer and longer pauses."""
        names = " and ".join(dict.fromkeys((self.shape.given.name, self.shape.wanted.name)))
        self._count_up()
        self._say("reconnecting", f"{names} {why}; trying to open it again")
        self._close_streams()
        pauses = iter(_BACK_OFF_S)
        pause_s = 0.0
        while not self._is_closed:
            pause_s = next(pauses, pause_s)
            until = time.monotonic() + pause_s
            while time.monotonic() < until and not self._is_closed:
                time.sleep(0.02)
            with contextlib.suppress(RtmtassError), self._guard:
                if not self._is_closed:
                    self._open_again()
                    return
            self._close_streams()

    def _open_again(self) -> None:
        """Look for the devices by name, as their numbers may have changed, and start them."""
        restart_portaudio()
        given, wanted = self.shape.given, self.shape.wanted
        self.wishes = replace(
            self.wishes,
            input=None if self.wishes.input is None else f"{given.name}, {given.host}",
            output=None if self.wishes.output is None else f"{wanted.name}, {wanted.host}",
            input_channels=tuple(channel + 1 for channel in self.shape.picked),
        )
        self.shape = self._shaped(list_devices())
        self._build()
        self.start()
        self._reopened += 1
        self.gaps += 1
        self._say("running", f"{self.shape.given.name} is back")

    def _say(self, state: str, message: str) -> None:
        self._state, self._message = state, message
        self._tell(message)

    def _count_up(self) -> None:
        """Remember the counts of rings that are about to be replaced."""
        self._overruns += self._in.overruns
        self._underruns += self._out.underruns
        self._xruns += sum(callback.xruns for callback in self._callbacks)

    def device_stats(self) -> DeviceStats:
        """See Clocked."""
        is_running = self._state == "running"  # else the counts are added up already
        return DeviceStats(
            overruns=self._overruns + is_running * self._in.overruns,
            underruns=self._underruns + is_running * self._out.underruns,
            xruns=self._xruns + is_running * sum(callback.xruns for callback in self._callbacks),
            drift_ppm=0.0 if self.shape.is_duplex else self._drift.drift_ppm,
            fill=self._out.available,
            reopened=self._reopened,
            state=self._state,
            message=self._message,
            latency=self.latency(),
        )

    @property
    def added_samples(self) -> int:
        """Samples, at the output's rate, that wait between the devices: on average, for two."""
        return self._fill

    def latency(self) -> Latency:
        """Return the parts of the latency."""
        claimed = [stream.latency_s for stream in self._streams] or [(0.0, 0.0)]
        hop_ms = 1000 * self.hop / self.sample_rate
        buffer_ms = 1000 * self.added_samples / self.shape.rates[1]
        # A hop of what waits is the algorithm's own: the first sample of a hop waits for its last.
        return Latency(
            device_in_ms=1000 * claimed[0][0],
            algorithm_ms=1000 * self._algorithm / self.sample_rate,
            buffer_ms=buffer_ms - hop_ms,
            device_out_ms=1000 * claimed[-1][1],
        )

    def close(self) -> None:
        """Let what is written be played, then let go of the devices; may be called twice."""
        if self._is_closed:
            return
        self._is_closed = True  # whoever reopens gives up now
        with self._guard:
            self._let_go()

    def _let_go(self) -> None:
        if self._state == "running":
            self._count_up()
            self._state = "closed"
            until = time.monotonic() + _DRAIN_S
            while self._out.available and time.monotonic() < until:
                time.sleep(0.005)
        self._close_streams()
        self._state = "closed"

    def _close_streams(self) -> None:
        with quiet_libraries():
            while self._streams:
                self._streams.pop().close()
