"""Runs a stream: from a source through separator and mixer to a sink, whatever happens on the way.

Two threads. The engine's moves samples and is never held up: it waits for stems
until the sink would run dry, and takes the input itself where they are late.
The worker's separates, one compiled call a hop.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from rtmtass.errors import UsageError
from rtmtass.io.protocols import Sink, Source
from rtmtass.live.mixer import RAMP_MS, Levels, Mixer
from rtmtass.live.os_priority import ENGINE_PRIORITY, OTHER_PRIORITY, Grant, request_priority
from rtmtass.live.overload import OverloadPolicy
from rtmtass.live.protocols import RealtimeEndpoint, Recorder
from rtmtass.live.sources import ConvertedSource
from rtmtass.live.stats import DeviceStats, RecordingStats, Stats
from rtmtass.live.worker import LiveSeparator, Slot, Worker

Floats = NDArray[np.float32]

LEVEL_INTERVAL_S = 0.05
_PATIENCE_S = 3.0
_TOO_SLOW = "the computer was too slow: the input is heard for a moment"


class Engine:
    """Separates and mixes a stream in the background, from `start` to `stop`.

    The output is `delay` samples late, and as many longer. Use it as a context
    manager, or call `stop` yourself.

    Args:
        separator: opened for blocks of whole hops, `load(block=hop_of())`, which has the
                smallest delay; used by the engine alone from now on.
        source: where sound comes from; other rates are converted, channels averaged.
        sink: receives (1, n, C) of mix, or (S, n, C) if the mixer is split.
        mixer: by default one that leaves the sound as it is.
        recorder: gets stems and mixture.
        on_levels: called about 20 times a second with `Levels`, not from the audio thread.
        on_event: called there with a line that says what happened.
        is_realtime: ask the system for real-time priority.

    Raises:
        UsageError: source and separator differ in their channels.
    """

    def __init__(
        self,
        separator: LiveSeparator,
        source: Source,
        sink: Sink,
        *,
        mixer: Mixer | None = None,
        recorder: Recorder | None = None,
        on_levels: Callable[[Levels], None] | None = None,
        on_event: Callable[[str], None] | None = None,
        is_realtime: bool = False,
    ) -> None:
        if source.channels != separator.channels and separator.channels != 1:
            raise UsageError(
                f"the source has {source.channels} channels, the separator {separator.channels};"
                f" load it with channels={source.channels}, or 1 for their mean"
            )
        clocks = [end for end in (sink, source) if isinstance(end, RealtimeEndpoint)]
        self._clock: RealtimeEndpoint | None = clocks[0] if clocks else None
        if source.sample_rate != separator.sample_rate:
            source = ConvertedSource(source, separator.sample_rate, separator.hop)
        self.delay, self.sample_rate = separator.delay, separator.sample_rate
        self.mixer = mixer or Mixer(separator.stems, separator.sample_rate, separator.channels)
        self._source, self._sink, self._recorder = source, sink, recorder
        self._worker = Worker(separator, is_realtime=is_realtime)
        self._is_realtime = is_realtime
        self._make_room(separator)
        self._number = self._discontinuities = 0
        self._overload = OverloadPolicy(-(-self.delay // self._hop))
        self._state = "new"
        self._is_stopping = threading.Event()
        self._error: BaseException | None = None
        self._events: deque[str] = deque(maxlen=100)
        self._on_levels, self._on_event = on_levels, on_event
        self._right: Grant | None = None
        self._looked = time.monotonic(), time.process_time()
        self._thread = threading.Thread(target=self._run, name="rtmtass-engine", daemon=True)
        self._watcher = threading.Thread(target=self._watch, name="rtmtass-watch", daemon=True)

    def _make_room(self, separator: LiveSeparator) -> None:
        """Allocate all that a hop needs, so that none has to."""
        self._hop, n_channels, n_stems = separator.hop, separator.channels, len(separator.stems)
        self._given = np.zeros((self._hop, self._source.channels), np.float32)
        self._past = np.zeros((self.delay + self._hop, n_channels), np.float32)
        self._no_stems = np.zeros((n_stems, self._hop, n_channels), np.float32)
        self._out = np.zeros((self.mixer.n_rows, self._hop, n_channels), np.float32)

    def __enter__(self) -> Engine:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    def start(self) -> None:
        """Begin; returns at once. An engine runs once."""
        if self._state != "new":
            raise UsageError("this engine has run already; make a new one")
        self._state = "running"
        self._worker.start()
        self._thread.start()
        if self._on_levels or self._on_event:
            self._watcher.start()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the source has ended, or for a time; return whether it has ended."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def stop(self) -> None:
        """Fade out, close source, sink and recorder; may be called twice.

        Raises:
            whatever source, separator or sink failed of.
        """
        self._is_stopping.set()
        if self._state != "new":
            self._thread.join(_PATIENCE_S)
            if self._thread.is_alive():  # it waits for a source that has fallen silent
                self._source.close()
                self._thread.join(_PATIENCE_S)
        if self._watcher.is_alive():
            self._watcher.join()
        if self._error:
            raise self._error

    @property
    def is_running(self) -> bool:
        """Whether sound goes through."""
        return self._thread.is_alive()

    @property
    def grants(self) -> list[Grant]:
        """What the system said to the threads' wish for priority, as far as they have asked."""
        return [right for right in (self._right, self._worker.right) if right]

    def stats(self) -> Stats:
        """Return how it goes; from any one thread."""
        device = self._clock.device_stats() if self._clock else DeviceStats()
        state = device.state if self._state == "running" else self._state
        hop_ms = 1000 * self._hop / self.sample_rate
        steps = self._worker.clock.summary(hop_ms)
        now, used = time.monotonic(), time.process_time()
        share = (used - self._looked[1]) / max(now - self._looked[0], 1e-9)
        self._looked = now, used
        return Stats(
            state=state,
            seconds=self._number * self._hop / self.sample_rate,
            hops=self._number,
            deadline_misses=self._overload.misses,
            skipped=self._overload.skipped,
            steps=steps,
            cpu_share=share,
            levels=self.mixer.levels(),
            device=device,
            recording=self._recorder.stats() if self._recorder else RecordingStats(),
            advice=self._overload.advice(steps),
        )

    def _run(self) -> None:
        try:
            if self._is_realtime:
                self._right = request_priority(ENGINE_PRIORITY)
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
        owed = self.delay
        fading = math.ceil(RAMP_MS / 1000 * self.sample_rate / self._hop) + 1
        while True:
            n = self._fill()
            if n < self._hop:
                break
            self._process_hop(self._hop)
            if self._is_stopping.is_set():
                self.mixer.fade_out()
                fading -= 1
                if not fading:
                    return
        # The source has ended: what is still inside comes out behind silence.
        owed += n
        self._given[n:] = 0
        while owed:
            self._process_hop(min(owed, self._hop))
            owed -= min(owed, self._hop)
            self._given[:] = 0

    def _fill(self) -> int:
        filled = 0
        while filled < self._hop:
            n = self._source.read(self._given[filled:])
            if not n:
                break
            filled += n
        return filled

    def _process_hop(self, n_out: int) -> None:
        """Take the hop in `_given` and write `n_out` samples."""
        hop, past = self._hop, self._past
        past[:-hop] = past[hop:]
        self._zero_nonfinite()
        if past.shape[1] == self._given.shape[1]:
            past[-hop:] = self._given
        else:
            np.mean(self._given, axis=1, out=past[-hop:, 0])
        if self._clock and self._clock.discontinuities != self._discontinuities:
            self._discontinuities = self._clock.discontinuities
            past[:-hop] = 0
            self._overload.break_off(self._number)
        dry = past[:hop]
        if self._recorder:
            self._recorder.add_mixture(self._number, dry)
        slot = self._separated()
        stems = self._no_stems if slot is None else slot.stems
        self.mixer.process(stems, dry, self._out, has_stems=slot is not None)
        self._sink.write(self._out[:, :n_out])
        self._number += 1

    def _zero_nonfinite(self) -> None:
        """Silence samples that aren't numbers: one would stay in the network for ever."""
        with np.errstate(over="ignore", invalid="ignore"):
            if math.isfinite(float(np.sum(self._given))):
                return
        self._given[~np.isfinite(self._given)] = 0
        self._events.append("the input held samples that are no numbers; they were silenced")

    def _separated(self) -> Slot | None:
        """Return the stems of this hop, or None if they are late or can't be trusted."""
        number, late, is_due = self._number, self._overload, True
        if self._worker.is_full:
            self._late_by_collecting()
        is_held = late.is_held(number)
        if self._worker.is_full:
            late.skip(number)
            is_due = False
        else:
            self._worker.submit(number, self._past[-self._hop :])
        # What won't be heard isn't worth cutting it fine for.
        patience = 0.0 if not is_due else 0.5 if is_held else 1.0
        slot = self._collected(number, patience)
        if slot is None and not is_held:
            if is_due:
                late.miss(number)
            self._events.append(_TOO_SLOW)
        late.note(slot is None and (not is_due or not is_held))
        return None if is_held else slot

    def _late_by_collecting(self) -> None:
        slot = self._worker.collect(0)
        if slot and self._recorder:
            self._recorder.add_stems(slot.number, slot.stems)

    def _collected(self, number: int, patience: float) -> Slot | None:
        """Wait for the stems of hop `number`, for a part of the time left; record late ones."""
        while self._worker.in_flight:
            left_s = self._clock.deadline_s() - time.monotonic() if self._clock else math.inf
            timeout_s = max(0.0, patience * left_s) if patience else 0.0
            slot = self._worker.collect(None if timeout_s == math.inf else timeout_s)
            if slot is None:
                return None
            if self._recorder:
                self._recorder.add_stems(slot.number, slot.stems)
            if slot.number == number:
                return slot
        return None

    def _close(self) -> None:
        """Close all ends; an error on the way out doesn't keep the next from being closed."""
        self._worker.stop()
        with contextlib.suppress(Exception):
            while self._recorder and (slot := self._worker.collect(0)):
                self._recorder.add_stems(slot.number, slot.stems)
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
            # Until the engine's thread is gone: waiting for the wish to stop would, once there is
            # one, be a loop without a pause, and at this priority nobody else came to their turn.
            self._thread.join(LEVEL_INTERVAL_S)
            is_last = not self._thread.is_alive()
            while self._on_event and self._events:
                self._on_event(self._events.popleft())
            if self._on_levels:
                self._on_levels(self.mixer.levels())
