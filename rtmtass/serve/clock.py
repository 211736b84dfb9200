"""Steps all streams on a fixed clock, in a thread that releases the GIL in compiled code."""

from __future__ import annotations

import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

from rtmtass.serve.metrics import Metrics
from rtmtass.serve.slots import Slots
from rtmtass.serve.stream import ServedStream

_SPARE = 0.75
"""Fraction of the interval in which streams that are ahead may use what time is left."""
_IDLE_TICKS = 64
"""Ticks without a hop after which a stream gives its place among the others to a busier one."""
_MEMORY = 16
"""Rounds of which the time of a channel is the running mean."""
_LOST_INTERVALS = 4
"""Intervals behind after which the clock starts again, as after the computer slept."""


@dataclass
class Output:
    """What a stream returned in one tick.

    Attributes:
        stream: whose.
        payload: encoded samples.
        is_last: nothing follows.
        error: what its processing died of; a bug.
    """

    stream: ServedStream
    payload: bytes
    is_last: bool = False
    error: Exception | None = None


@dataclass
class Tick:
    """The outputs of a tick.

    Attributes:
        due_s: when it was due, by `time.monotonic`.
        outputs: of streams that had a hop.
        channels: hops processed.
        is_extra: whether these are further hops of streams that are ahead.
    """

    due_s: float
    outputs: list[Output] = field(default_factory=list)
    channels: int = 0
    is_extra: bool = False


class Member:
    """A stream as the clock knows it.

    Attributes:
        stream: itself.
        is_held: its output isn't read; no hop is processed until it is. Set by the connection.
        idle_ticks: since its last hop.
    """

    def __init__(self, stream: ServedStream) -> None:
        self.stream = stream
        self.is_held = False
        self.idle_ticks = 0

    @property
    def is_ready(self) -> bool:
        """Whether a hop is to be processed."""
        return not self.is_held and self.stream.has_hop


class Clock:
    """A thread that processes a hop of every stream that has one, once per interval.

    `add` and `remove` may be called from any thread and apply from the next tick on.

    Args:
        slots: used by the thread alone from `start` on.
        interval_s: between two ticks, in seconds; a whole number of hops.
        on_tick: called by the thread after each tick in which there are streams.
        on_error: called by the thread with the exception that ended it; a bug.
        metrics: hops and steps are counted there.
    """

    def __init__(
        self,
        slots: Slots,
        interval_s: float,
        on_tick: Callable[[Tick], None],
        on_error: Callable[[BaseException], None],
        metrics: Metrics,
    ) -> None:
        self._slots, self._interval_s = slots, interval_s
        self._hop_s = slots.hop / slots.sample_rate
        self._rounds = max(1, round(interval_s / self._hop_s))
        self._on_tick, self._on_error, self._metrics = on_tick, on_error, metrics
        self._members: dict[ServedStream, Member] = {}
        self._owners: list[Member | None] = [None] * slots.n
        self._changes: queue.SimpleQueue[tuple[Member, bool]] = queue.SimpleQueue()
        self._has_work = threading.Event()
        self._is_stopping = False
        self._channel_s = 0.0
        self._thread = threading.Thread(target=self._run, name="rtmtass-clock", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its tick; may be called twice."""
        self._is_stopping = True
        self._has_work.set()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()

    def add(self, member: Member) -> None:
        """Process a stream; its channels must fit the free slots."""
        self._changes.put((member, True))
        self._has_work.set()

    def remove(self, member: Member) -> None:
        """Free a stream's slots; what it has received is dropped."""
        self._changes.put((member, False))
        self._has_work.set()

    def _run(self) -> None:
        try:
            due_s = time.monotonic()
            while not self._is_stopping:
                self._change()
                if not self._members:
                    self._has_work.wait()
                    self._has_work.clear()
                    due_s = time.monotonic()
                    continue
                due_s += self._interval_s
                now_s = time.monotonic()
                if now_s > due_s + _LOST_INTERVALS * self._interval_s:
                    due_s = now_s
                time.sleep(max(0.0, due_s - now_s))
                self._change()
                self._tick(due_s)
        except BaseException as error:  # raised again by the service
            self._on_error(error)

    def _change(self) -> None:
        """Apply what `add` and `remove` queued."""
        while not self._changes.empty():
            member, is_new = self._changes.get()
            stream = member.stream
            if is_new:
                self._members[stream] = member
                free = [slot for slot, owner in enumerate(self._owners) if owner is None]
                assert len(free) >= stream.hello.channels, "check for free slots first"
                stream.slots = free[: stream.hello.channels]
                for slot in stream.slots:
                    self._owners[slot] = member
                    self._slots.reset(slot)
            else:
                self._release(stream)

    def _release(self, stream: ServedStream) -> None:
        """Free a stream's slots, if it still has them."""
        if self._members.pop(stream, None):
            for slot in stream.slots:
                self._owners[slot] = None

    def _tick(self, due_s: float) -> None:
        """Process the hops of an interval, then further ones while there is time."""
        tick = Tick(due_s)
        outputs: dict[ServedStream, list[Output]] = {}
        for _ in range(self._rounds):
            ready = [member for member in self._members.values() if member.is_ready]
            tick.channels += self._round(ready, outputs)
        tick.outputs = [_joined(parts) for parts in outputs.values()]
        for member in self._members.values():
            member.idle_ticks = 0 if member.stream in outputs else member.idle_ticks + 1
        self._metrics.n_hops += tick.channels
        self._on_tick(tick)
        left_s = self._interval_s
        while left_s > 0:
            left_s = due_s + _SPARE * self._interval_s - time.monotonic()
            extra = Tick(due_s, is_extra=True)
            outputs = {}
            extra.channels = self._round(self._choose(left_s), outputs)
            if not outputs:
                break
            extra.outputs = [_joined(parts) for parts in outputs.values()]
            self._metrics.n_hops += extra.channels
            self._on_tick(extra)
        self._compact()

    def _choose(self, left_s: float) -> list[Member]:
        """Return the streams whose next hop fits the time left: those that lag behind first.

        A stream lags whose client's clock is a little faster than ours, or whose network was late
        once. So that it doesn't do so for good, one of them has a hop at full load, too. Of two,
        the one with less to catch up is first: the other's client sends faster than real time.
        """
        lag_s = 2 * self._hop_s
        ready = [member for member in self._members.values() if member.is_ready]
        if left_s <= 0:
            ready = [member for member in ready if member.stream.ahead_s >= lag_s]
        ready.sort(key=lambda member: (member.stream.ahead_s < lag_s, member.stream.ahead_s))
        return ready[: max(1, int(left_s / max(self._channel_s, 1e-6)))]

    def _round(self, members: list[Member], outputs: dict[ServedStream, list[Output]]) -> int:
        """Process a hop of some streams; return the number of channels."""
        loaded = [member.stream for member in members if self._load(member.stream, outputs)]
        active = sorted(slot for stream in loaded for slot in stream.slots)
        if not active:
            return 0
        weighted = {slot for stream in loaded if stream.needs_resampling for slot in stream.slots}
        started_s = time.perf_counter()
        quantised = {stream.slots[0] for stream in loaded if stream.is_quantised}
        self._slots.run(active, weighted, quantised)
        self._metrics.steps.observe(time.perf_counter() - started_s)
        for stream in loaded:
            output = self._finish(stream)
            outputs.setdefault(stream, []).append(output)
            if output.is_last or output.error:
                self._release(stream)
        used_s = (time.perf_counter() - started_s) / len(active)
        self._channel_s += (used_s - self._channel_s) / _MEMORY
        return len(active)

    def _load(self, stream: ServedStream, outputs: dict[ServedStream, list[Output]]) -> bool:
        """Take a stream's next hop; return whether that worked."""
        try:
            stream.load(self._slots.inputs)
        except Exception as error:  # a bug; it must not end the other streams
            outputs.setdefault(stream, []).append(_failed(stream, error))
            self._release(stream)
            return False
        return True

    def _finish(self, stream: ServedStream) -> Output:
        """Return a stream's output of this round."""
        try:
            payload = stream.finish(self._slots)
        except Exception as error:  # a bug, as above
            return _failed(stream, error)
        return Output(stream, payload, is_last=stream.is_done)

    def _compact(self) -> None:
        """Move a busy stream's channel to the lowest slot that is free or idle, one a tick.

        Neighbouring slots run in one call, which costs a third of as many calls for one each.
        """
        owners = self._owners
        is_busy = [owner is not None and owner.idle_ticks < _IDLE_TICKS for owner in owners]
        if True not in is_busy:
            return
        high = len(is_busy) - 1 - is_busy[::-1].index(True)
        if all(is_busy[:high]):
            return
        low = is_busy.index(False)
        self._slots.swap(low, high)
        owners[low], owners[high] = owners[high], owners[low]
        places = {low: high, high: low}
        for member in {owners[low], owners[high]}:
            if member:
                member.stream.slots = [places.get(slot, slot) for slot in member.stream.slots]


def _failed(stream: ServedStream, error: Exception) -> Output:
    traceback.print_exception(error, file=sys.stderr)
    return Output(stream, b"", is_last=True, error=error)


def _joined(parts: list[Output]) -> Output:
    """Return the outputs of one stream's hops as one."""
    last = parts[-1]
    if len(parts) == 1:
        return last
    return Output(last.stream, b"".join(p.payload for p in parts), last.is_last, last.error)
