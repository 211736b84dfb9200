"""The thread that separates: hops in, stems out in the same order, nobody held up but it."""

from __future__ import annotations

import queue
import threading
import time
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rtmtass.live.os_priority import WORKER_PRIORITY, Grant, request_priority
from rtmtass.live.stats import StepClock

Floats = NDArray[np.float32]

N_SLOTS = 4
"""Hops that may be under way; as many as there are rooms for them."""
_END = -1


class LiveSeparator(Protocol):
    """What the live room needs of a `Separator`."""

    stems: tuple[str, ...]
    sample_rate: int
    hop: int
    delay: int
    algorithmic_latency: int
    channels: int

    def process_into(self, block: Floats, out: Floats, highband_weights: Floats) -> None:
        """See Separator."""

    def reset(self) -> None:
        """See Separator."""


class Slot:
    """Room for one hop: the mixture going in, the stems coming out.

    Attributes:
        number: of the hop.
        mixture: (H, C).
        stems: (S, H, C), `delay` samples late.
    """

    def __init__(self, n_stems: int, hop: int, channels: int) -> None:
        self.number = 0
        self.mixture = np.zeros((hop, channels), np.float32)
        self.stems = np.zeros((n_stems, hop, channels), np.float32)
        self.highband_weights = np.zeros((n_stems, hop), np.float32)


class Worker:
    """Separates hops in a thread of its own.

    `submit`, `collect` and `stop` belong to one other thread. What the worker
    died of is raised there.

    Args:
        separator: ready, opened for whole hops; used by this thread alone.
        is_realtime: ask the system for priority.

    Attributes:
        in_flight: hops submitted and not yet collected.
        clock: the step times.
        right: what the system said to the wish for priority; None before the start.
    """

    def __init__(self, separator: LiveSeparator, *, is_realtime: bool = False) -> None:
        self._separator = separator
        self._is_realtime = is_realtime
        n_stems = len(separator.stems)
        shape = (n_stems, separator.hop, separator.channels)
        self._slots = [Slot(*shape) for _ in range(N_SLOTS)]
        self._todo: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._submitted = 0
        self.in_flight = 0
        self.clock = StepClock()
        self.right: Grant | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="rtmtass-worker", daemon=True)

    def start(self) -> None:
        """Begin to wait for hops."""
        self._thread.start()

    @property
    def is_full(self) -> bool:
        """Whether a hop more would overtake one that isn't done; the last slot may be read."""
        return self.in_flight >= N_SLOTS - 1

    def submit(self, number: int, mixture: Floats) -> None:
        """Hand over a hop, (H, C); it is copied."""
        assert not self.is_full, "ask is_full first"
        index = self._submitted % N_SLOTS
        slot = self._slots[index]
        slot.number = number
        slot.mixture[:] = mixture
        self._submitted += 1
        self.in_flight += 1
        self._todo.put(index)

    def collect(self, timeout_s: float | None) -> Slot | None:
        """Return the oldest hop that is done, or None if none is within the time.

        The slot may be read until two more hops have been submitted.
        """
        try:
            index = self._done.get(timeout_s is None or timeout_s > 0, timeout_s)
        except queue.Empty:
            return None
        if index == _END:
            self._done.put(_END)
            if self._error:
                raise self._error
            return None
        self.in_flight -= 1
        return self._slots[index]

    def stop(self) -> None:
        """Finish the hops under way and end; may be called twice."""
        if self._thread.is_alive():
            self._todo.put(_END)
            self._thread.join()

    def _run(self) -> None:
        try:
            if self._is_realtime:
                self.right = request_priority(WORKER_PRIORITY)
            while (index := self._todo.get()) != _END:
                slot = self._slots[index]
                started = time.perf_counter_ns()
                self._separator.process_into(slot.mixture, slot.stems, slot.highband_weights)
                self.clock.add(time.perf_counter_ns() - started)
                self._done.put(index)
        except BaseException as error:  # handed to whoever collects
            self._error = error
        finally:
            self._done.put(_END)
