"""Separation thread; processes hops in order without blocking the caller."""

from __future__ import annotations

import queue
import threading
import time
from typing import Protocol

import numpy as np

from rtmtass.live.os_priority import WORKER_PRIORITY, Grant, request_priority
from rtmtass.live.stats import StepClock
from rtmtass.types import Floats

N_SLOTS = 4
"""Number of slots, and so the most hops in flight."""
_END = -1


class LiveSeparator(Protocol):
    """The part of `Separator` that the live engine uses."""

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
    """Buffers of one hop.

    Attributes:
        number: of the hop, from 0.
        mixture: (H, C), input.
        stems: (S, H, C), output, `delay` samples late.
        highband_weights: (S, H), output, see Separator.
    """

    def __init__(self, n_stems: int, hop: int, channels: int) -> None:
        self.number = 0
        self.mixture = np.zeros((hop, channels), np.float32)
        self.stems = np.zeros((n_stems, hop, channels), np.float32)
        self.highband_weights = np.zeros((n_stems, hop), np.float32)


class Worker:
    """Separates hops in a thread of its own.

    `submit`, `collect` and `stop` are called from one other thread, where an exception of
    the worker's thread is raised again.

    Args:
        separator: opened for whole hops; used by the worker's thread alone.
        is_realtime: request real-time priority.

    Attributes:
        in_flight: hops submitted and not yet collected.
        clock: the step times.
        grant: result of the request for priority; None before it.
    """

    def __init__(self, separator: LiveSeparator, *, is_realtime: bool = False) -> None:
        self._separator = separator
        self._is_realtime = is_realtime
        n_stems = len(separator.stems)
        shape = (n_stems, separator.hop, separator.channels)
        self._slots = [Slot(*shape) for _ in range(N_SLOTS)]
        self._submitted_slots: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._finished_slots: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._n_submitted = 0
        self.in_flight = 0
        self.clock = StepClock()
        self.grant: Grant | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="rtmtass-worker", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def is_full(self) -> bool:
        """Whether no slot is free; one is kept for the stems last collected."""
        return self.in_flight >= N_SLOTS - 1

    def submit(self, number: int, mixture: Floats) -> None:
        """Queue a hop, (H, C); it is copied."""
        assert not self.is_full, "check is_full first"
        index = self._n_submitted % N_SLOTS
        slot = self._slots[index]
        slot.number = number
        slot.mixture[:] = mixture
        self._n_submitted += 1
        self.in_flight += 1
        self._submitted_slots.put(index)

    def collect(self, timeout_s: float | None) -> Slot | None:
        """Return the oldest finished hop, or None if there is none within the timeout.

        The slot may be read until two more hops have been submitted.

        Args:
            timeout_s: 0 doesn't wait, None waits without limit.
        """
        try:
            index = self._finished_slots.get(timeout_s is None or timeout_s > 0, timeout_s)
        except queue.Empty:
            return None
        if index == _END:
            self._finished_slots.put(_END)
            if self._error:
                raise self._error
            return None
        self.in_flight -= 1
        return self._slots[index]

    def stop(self) -> None:
        """Finish the hops in flight and end; may be called twice."""
        if self._thread.is_alive():
            self._submitted_slots.put(_END)
            self._thread.join()

    def _run(self) -> None:
        try:
            if self._is_realtime:
                self.grant = request_priority(WORKER_PRIORITY)
            while (index := self._submitted_slots.get()) != _END:
                slot = self._slots[index]
                started = time.perf_counter_ns()
                self._separator.process_into(slot.mixture, slot.stems, slot.highband_weights)
                self.clock.add(time.perf_counter_ns() - started)
                self._finished_slots.put(index)
        except BaseException as error:  # raised again by collect
            self._error = error
        finally:
            self._finished_slots.put(_END)
