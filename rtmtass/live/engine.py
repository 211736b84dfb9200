"""Runs a live stream from a source through separator and mixer to a sink.

Two threads: the engine's moves samples, the worker's separates, one compiled call per hop.
The engine's thread waits for stems only until the sink would underrun; where they are late,
it outputs the input instead.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from rtmtass.amplitude import first_damaged
from rtmtass.dsp.live_resample import Converter
from rtmtass.errors import UsageError
from rtmtass.io.protocols import Sink, Source
from rtmtass.live.full_band import HopSchedule, StemUpsampler
from rtmtass.live.meters import StreamMeters
from rtmtass.live.mixer import RAMP_MS, Levels, Mixer
from rtmtass.live.os_priority import ENGINE_PRIORITY, OTHER_PRIORITY, Grant, request_priority
from rtmtass.live.overload import OverloadPolicy
from rtmtass.live.process_clock import CpuMeter
from rtmtass.live.protocols import MixRecorder, RealtimeEndpoint, Recorder
from rtmtass.live.stats import DeviceStats, RecordingStats, Stats
from rtmtass.live.tap import StemTap
from rtmtass.live.worker import LiveSeparator, Slot, Worker
from rtmtass.types import Floats

LEVEL_INTERVAL_S = 0.05
_STOP_TIMEOUT_S, _CLOSE_TIMEOUT_S = 0.6, 3.0
_LATE = {
    "dry": "stems were late: the input is output for a moment",
    "silence": "stems were late: nothing is output for a moment",
}


class Engine:
    """Separates and mixes a stream in the background, from `start` to `stop`.

    It runs at the source's rate: stems are separated at the model's, and get their part of the
    band above it. The output lags the input by `delay` samples and is `delay` samples longer.
    Use it as a context manager, or call `stop`.

    Args:
        separator: opened for blocks of whole hops, `load(block=hop_of())`, which has the
                smallest delay; used by the engine alone from now on.
        source: any Source, at any rate; its channels are averaged for a mono separator.
        sink: any Sink; gets (1, n, C) of mix at the source's rate, or (S, n, C) if the mixer
            is split. Devices that share a clock are source and sink in one object, see DeviceIO.
        mixer: default: all gains 0 dB.
        recorder: gets stems and mixture; a `MixRecorder` also the mix.
        tap: gets the stems.
        on_levels: called about 20 times a second with `Levels`, from a thread of its own.
        on_event: called from that thread with a line about each event.
        is_realtime: request real-time priority.
        is_monitored: False outputs silence; the recorder and the meters get the mix all the same.

    Raises:
        UsageError: source and separator differ in channels.
    """

    def __init__(
        self,
        separator: LiveSeparator,
        source: Source,
        sink: Sink,
        *,
        mixer: Mixer | None = None,
        recorder: Recorder | None = None,
        tap: StemTap | None = None,
        on_levels: Callable[[Levels], None] | None = None,
        on_event: Callable[[str], None] | None = None,
        is_realtime: bool = False,
        is_monitored: bool = True,
    ) -> None:
        if source.channels != separator.channels and separator.channels != 1:
            raise UsageError(
                f"the source has {source.channels} channels, the separator {separator.channels};"
                f" load it with channels={source.channels}, or 1 for their mean"
            )
        # The sink sets the deadlines if it is real-time, else the source.
        realtime = [end for end in (sink, source) if isinstance(end, RealtimeEndpoint)]
        self._endpoint: RealtimeEndpoint | None = realtime[0] if realtime else None
        self._realtime_source = source if isinstance(source, RealtimeEndpoint) else None
        self._schedule = HopSchedule(separator, source.sample_rate)
        self.delay, self.sample_rate = self._schedule.delay, source.sample_rate
        self.mixer = mixer or Mixer(separator.stems, source.sample_rate, separator.channels)
        self.mixer.set_sample_rate(source.sample_rate)
        self._source, self._sink, self._recorder, self._tap = source, sink, recorder, tap
        self._mix_recorder = recorder if isinstance(recorder, MixRecorder) else None
        self._is_monitored = is_monitored
        self._meters = StreamMeters(separator.stems, source.sample_rate)
        self._worker = Worker(separator, is_realtime=is_realtime)
        self._is_realtime = is_realtime
        self._algorithm_ms = 1000 * self._schedule.algorithmic_latency / self.sample_rate
        self._hop_s = separator.hop / separator.sample_rate
        self._allocate(separator)
        self._number = self._discontinuities = self._n_damaged = 0
        self._is_damaged = self._is_fading = False
        self._overload = OverloadPolicy(math.ceil(self.delay / self.sample_rate / self._hop_s))
        self._state = "new"
        self._is_stopping = threading.Event()
        self._error: BaseException | None = None
        self._events: deque[str] = deque(maxlen=100)
        self._on_levels, self._on_event = on_levels, on_event
        self._grant: Grant | None = None
        self._cpu = CpuMeter()
        self._thread = threading.Thread(target=self._run, name="rtmtass-engine", daemon=True)
        self._watcher = threading.Thread(target=self._watch, name="rtmtass-watch", daemon=True)

    def _allocate(self, separator: LiveSeparator) -> None:
        """Allocate all buffers, so that processing a hop doesn't."""
        schedule, n_channels, n_stems = self._schedule, separator.channels, len(separator.stems)
        longest = schedule.longest
        self._input = np.zeros((longest, self._source.channels), np.float32)
        self._history = np.zeros((self.delay + longest, n_channels), np.float32)
        self._model_input = np.zeros((separator.hop, n_channels), np.float32)
        self._to_model: Converter | None = None
        if schedule.needs_resampling:
            rates = schedule.sample_rate, schedule.model_rate
            self._to_model = Converter(*rates, n_channels, longest)
        self._upsampler = StemUpsampler(schedule, n_stems, n_channels)
        self._stems = np.zeros(n_stems * longest * n_channels, np.float32)
        self._out = np.zeros(self.mixer.n_rows * longest * n_channels, np.float32)
        self._silence = np.zeros((self.mixer.n_rows, longest, n_channels), np.float32)

    def __enter__(self) -> Engine:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    def start(self) -> None:
        """Start and return at once. An engine can be started once."""
        if self._state != "new":
            raise UsageError(
                "this engine has run already; create another: Engine(separator, source, sink)"
            )
        self._state = "running"
        self._worker.start()
        self._thread.start()
        if self._on_levels or self._on_event:
            self._watcher.start()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the end of the source, at most `timeout_s`; return whether it has ended."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def stop(self) -> None:
        """Fade out, close source, sink and recorder; may be called twice.

        Raises:
            the exception that ended the engine's thread, from source, separator or sink.
        """
        self._is_stopping.set()
        if self._state != "new":
            self._thread.join(_STOP_TIMEOUT_S)
            if self._thread.is_alive():  # blocked in a silent source, or a device that is gone
                self._source.close()
                if isinstance(self._sink, RealtimeEndpoint):
                    self._sink.close()
                self._thread.join(_CLOSE_TIMEOUT_S)
        if self._watcher.is_alive():
            self._watcher.join()
        if self._error:
            raise self._error

    @property
    def is_running(self) -> bool:
        """Whether the engine's thread is running."""
        return self._thread.is_alive()

    @property
    def grants(self) -> list[Grant]:
        """Results of the threads' requests for priority, as far as they have been made."""
        return [grant for grant in (self._grant, self._worker.grant) if grant]

    def stats(self) -> Stats:
        """Return a snapshot; call it from one thread, any."""
        device = self._endpoint.device_stats() if self._endpoint else DeviceStats()
        if not device.latency.algorithm_ms:  # files and sockets report no latency
            latency = replace(device.latency, algorithm_ms=self._algorithm_ms)
            device = replace(device, latency=latency)
        state = device.state if self._state == "running" else self._state
        steps = self._worker.clock.summary(1000 * self._hop_s)
        return Stats(
            state=state,
            seconds=self._number * self._hop_s,
            hops=self._number,
            deadline_misses=self._overload.misses,
            skipped=self._overload.skipped,
            damaged=self._n_damaged,
            steps=steps,
            cpu_share=self._cpu.share(),
            levels=self._levels(),
            run_levels=self._meters.run_levels(),
            device=device,
            recording=self._recorder.stats() if self._recorder else RecordingStats(),
            advice=self._overload.advice(steps) or device.advice,
        )

    def _levels(self) -> Levels:
        meters = self._meters
        return replace(self.mixer.levels(), separated=meters.separated(), clipped=meters.clipped())

    def _run(self) -> None:
        try:
            if self._is_realtime:
                self._grant = request_priority(ENGINE_PRIORITY)
            self._pump()
            self._state = "stopped"
        except BaseException as error:  # raised again by stop
            self._error = error
            self._state = "failed"
            self._events.append(f"stopped: {error}")
        finally:
            self._is_stopping.set()
            self._close()

    def _pump(self) -> None:
        n_left = self.delay
        n_fade_hops = math.ceil(RAMP_MS / 1000 / self._hop_s) + 1
        while True:
            block = self._input[: self._schedule.block(self._number)]
            n = self._fill(block)
            if n < len(block):
                break
            self._process_hop(block, len(block))
            if self._is_stopping.is_set():
                self.mixer.fade_out()
                self._is_fading = True  # what fades out isn't recorded
                n_fade_hops -= 1
                if not n_fade_hops:
                    return
        # The source has ended: flush the delay with silence.
        n_left += n
        self._input[n:] = 0
        while n_left:
            block = self._input[: self._schedule.block(self._number)]
            n = min(n_left, len(block))
            self._process_hop(block, n)
            n_left -= n
            self._input[:] = 0

    def _fill(self, block: Floats) -> int:
        """Read until `block` is full or the source has ended; return the samples read."""
        filled = 0
        while filled < len(block):
            n = self._source.read(block[filled:])
            if not n:
                break
            filled += n
        return filled

    def _process_hop(self, block: Floats, n_out: int) -> None:
        """Process the block of a hop, as long as the schedule says, and write `n_out` samples."""
        n, history = len(block), self._history
        history[:-n] = history[n:]
        self._silence_damaged(block)
        if history.shape[1] == block.shape[1]:
            history[-n:] = block
        else:
            np.mean(block, axis=1, out=history[-n:, 0])
        source = self._realtime_source
        if source and source.discontinuities != self._discontinuities:
            self._discontinuities = source.discontinuities
            history[:-n] = 0
            self._overload.add_discontinuity(self._number)
        end = len(history) - self.delay
        mixture = history[end - n : end]  # aligned with the stems: `delay` samples late
        if self._recorder and not self._is_fading:
            self._recorder.add_mixture(self._number, mixture)
        slot = self._separate(history[-n:])
        stems, out = self._blocks(self._stems, n), self._blocks(self._out, n)
        if slot is None:
            self._upsampler.process(None, None, mixture, stems)
            stems[:] = 0
        else:
            self._upsampler.process(slot.stems, slot.highband_weights, mixture, stems)
        self.mixer.process(stems, mixture, out, has_stems=slot is not None)
        self._meters.update(stems, mixture, out)
        if self._mix_recorder and not self._is_fading:
            self._mix_recorder.add_mix(self._number, out)
        self._sink.write((out if self._is_monitored else self._silence)[:, :n_out])
        self._number += 1

    def _blocks(self, buffer: Floats, n: int) -> Floats:
        """Return the front of a buffer as (rows, n, C): contiguous, as compiled code expects it."""
        channels = self._history.shape[1]
        rows = len(buffer) // (self._schedule.longest * channels)
        return buffer[: rows * n * channels].reshape(rows, n, channels)

    def _silence_damaged(self, block: Floats) -> None:
        """Silence a block with NaN, Inf or absurd samples: they would stay in the state for good.

        As `Separator.process` expects it, which refuses such a block.
        """
        if first_damaged(block) is None:
            self._is_damaged = False
            return
        block[:] = 0
        self._n_damaged += 1
        if not self._is_damaged:
            self._events.append(
                "the input held NaN, Inf or absurd samples: silence is used instead"
            )
        self._is_damaged = True

    def _separate(self, block: Floats) -> Slot | None:
        """Return the stems of this hop, or None if they are late or must not be used."""
        if self._to_model:
            self._to_model.process(block, self._model_input)
            block = self._model_input
        number, overload, is_submitted = self._number, self._overload, True
        if self._worker.is_full:
            self._collect_late()
        uses_input = overload.uses_input(number)
        if self._worker.is_full:
            overload.add_skip(number)
            is_submitted = False
        else:
            self._worker.submit(number, block)
        # Stems that won't be output aren't worth waiting for until the deadline.
        wait_fraction = 0.0 if not is_submitted else 0.5 if uses_input else 1.0
        slot = self._collect(number, wait_fraction)
        if slot is None and not uses_input:
            if is_submitted:
                overload.add_miss(number)
            self._events.append(_LATE[self.mixer.when_late])
        overload.update(was_late=slot is None and (not is_submitted or not uses_input))
        return None if uses_input else slot

    def _collect_late(self) -> None:
        """Collect a late hop, if one is done, for the recorder."""
        if slot := self._worker.collect(0):
            self._keep_stems(slot)

    def _collect(self, number: int, wait_fraction: float) -> Slot | None:
        """Wait for the stems of hop `number`, for a fraction of the time left; record late ones."""
        while self._worker.in_flight:
            left_s = self._endpoint.deadline_s() - time.monotonic() if self._endpoint else math.inf
            timeout_s = max(0.0, wait_fraction * left_s) if wait_fraction else 0.0
            slot = self._worker.collect(None if timeout_s == math.inf else timeout_s)
            if slot is None:
                return None
            self._keep_stems(slot)
            if slot.number == number:
                return slot
        return None

    def _keep_stems(self, slot: Slot) -> None:
        """Hand the stems of a hop, which may be late, to recorder and tap."""
        if self._recorder:
            self._recorder.add_stems(slot.number, slot.stems, slot.highband_weights)
        if self._tap:
            self._tap.add_stems(slot.stems)

    def _close(self) -> None:
        """Close sink, source and recorder, each even if another fails to close."""
        self._worker.stop()
        with contextlib.suppress(Exception):
            while slot := self._worker.collect(0):
                self._keep_stems(slot)
        for end in (self._sink, self._source, self._recorder):
            try:
                if end is not None:
                    end.close()
            except Exception as error:
                self._error = self._error or error

    def _watch(self) -> None:
        if self._is_realtime:
            request_priority(OTHER_PRIORITY)
        is_last = False
        while not is_last:
            # Join the thread instead of waiting for the stop flag: once set, that loop would spin,
            # and at FIFO priority it would starve everything else.
            self._thread.join(LEVEL_INTERVAL_S)
            is_last = not self._thread.is_alive()
            while self._on_event and self._events:
                self._on_event(self._events.popleft())
            if self._on_levels:
                self._on_levels(self._levels())
