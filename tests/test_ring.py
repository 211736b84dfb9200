from __future__ import annotations

import multiprocessing
import threading
import time
from collections import deque
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rtmtass.dsp import ring as ring_module
from rtmtass.dsp.ring import Ring
from rtmtass.errors import BlockSizeError, UsageError

N_MOVED = 1_200_000
"""Samples per concurrent test; float32 counts them exactly."""
TIMEOUT_S = 100.0


def ramp(start, n, channels=1):
    counted = np.arange(start, start + n, dtype=np.float32)[:, None]
    return counted + 0.25 * np.arange(channels, dtype=np.float32)


def feed(ring, n_total, sizes):
    written, turn = 0, 0
    while written < n_total:
        n = min(sizes[turn % len(sizes)], n_total - written, ring.free)
        written += ring.write(ramp(written, n, ring.channels))
        turn += 1
        if n == 0:
            time.sleep(0.0002)


def drain(ring, n_total, sizes):
    """Return the number of samples received intact."""
    received, turn = 0, 0
    deadline = time.monotonic() + TIMEOUT_S
    while received < n_total and time.monotonic() < deadline:
        out = np.full((min(sizes[turn % len(sizes)], ring.available), ring.channels), -1.0, "f4")
        n = ring.read(out)
        if not np.array_equal(out[:n], ramp(received, n, ring.channels)):
            return received
        received += n
        turn += 1
        if n == 0:
            time.sleep(0.0002)
    return received


def feed_from_process(name, capacity, channels, sizes, with_fence):
    if with_fence:
        ring_module._fence = ring_module._compiled_fence
    memory = SharedMemory(name=name)
    ring = Ring.in_memory(memory.buf, capacity, channels)
    feed(ring, N_MOVED, sizes)
    del ring
    memory.close()


@pytest.mark.parametrize(("capacity", "channels"), [(4096, 1), (1021, 2)])
def test_two_threads_move_every_sample(capacity, channels):
    ring = Ring(capacity, channels)
    writer = threading.Thread(
        target=feed, args=(ring, N_MOVED, [1, 7, 997, 256, 4001, 1013]), daemon=True
    )
    writer.start()
    assert drain(ring, N_MOVED, [3, 480, 1, 1500, 641, 4096]) == N_MOVED
    writer.join(TIMEOUT_S)
    assert not writer.is_alive()
    assert (ring.available, ring.overruns, ring.underruns) == (0, 0, 0)


@pytest.mark.parametrize("with_fence", [False, True])
def test_two_processes_move_every_sample(with_fence, monkeypatch):
    capacity, channels = 3001, 2
    if with_fence:
        monkeypatch.setattr(ring_module, "_fence", ring_module._compiled_fence)
    memory = SharedMemory(create=True, size=Ring.bytes_needed(capacity, channels))
    try:
        ring = Ring.in_memory(memory.buf, capacity, channels)
        writer = multiprocessing.get_context("spawn").Process(
            target=feed_from_process,
            args=(memory.name, capacity, channels, [1, 7, 997, 2500, 3001], with_fence),
            daemon=True,
        )
        writer.start()
        assert drain(ring, N_MOVED, [5, 481, 1, 1500, 3001]) == N_MOVED
        writer.join(TIMEOUT_S)
        assert writer.exitcode == 0
        assert ring.available == 0
        del ring
    finally:
        memory.close()
        memory.unlink()


def test_the_fence_is_in_the_machine_code():
    compiled: Any = ring_module._compiled_fence()
    assert "fence seq_cst" in next(iter(compiled.inspect_llvm().values()))


class RingAgainstDeque(RuleBasedStateMachine):
    """A ring behaves like a deque of bounded length."""

    def __init__(self):
        super().__init__()
        self.ring = Ring(7, 2)
        # Near 2**32: the counters must not wrap.
        self.ring._written[0] = self.ring._read[0] = 2**32 - 5
        self.model: deque[tuple[float, ...]] = deque()
        self.sent = self.lost = self.missing = 0

    @rule(n=st.integers(0, 10))
    def write(self, n):
        taken = min(n, 7 - len(self.model))
        block = ramp(self.sent, n, 2)
        assert self.ring.write(block) == taken
        self.model.extend(map(tuple, block[:taken].tolist()))
        self.sent += n
        self.lost += n - taken

    @rule(n=st.integers(0, 10))
    def read(self, n):
        out = np.full((n, 2), -1.0, np.float32)
        taken = min(n, len(self.model))
        assert self.ring.read(out) == taken
        expected = [self.model.popleft() for _ in range(taken)]
        assert list(map(tuple, out[:taken].tolist())) == expected
        assert np.all(out[taken:] == -1.0)
        self.missing += n - taken

    @precondition(lambda self: self.model)
    @rule()
    def clear(self):
        self.ring.clear()
        self.model.clear()

    @invariant()
    def counts_agree(self):
        assert self.ring.available == len(self.model)
        assert self.ring.free == 7 - len(self.model)
        assert (self.ring.overruns, self.ring.underruns) == (self.lost, self.missing)


TestRingAgainstDeque = RingAgainstDeque.TestCase
TestRingAgainstDeque.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, derandomize=True
)


@settings(deadline=None, derandomize=True, max_examples=50)
@given(capacity=st.integers(1, 20), lengths=st.lists(st.integers(0, 25), max_size=20))
def test_samples_are_read_in_the_order_written(capacity, lengths):
    ring = Ring(capacity)
    sent: list[float] = []
    received: list[float] = []
    for start, n in enumerate(lengths):
        block = ramp(100 * start, n)
        sent.extend(block[: ring.write(block), 0])
        out = np.zeros((ring.available, 1), np.float32)
        assert ring.read(out) == len(out)
        received.extend(out[:, 0])
    assert received == sent


def test_full_and_empty():
    ring = Ring(4)
    assert ring.read(np.zeros((3, 1), np.float32)) == 0
    assert ring.underruns == 3
    assert ring.write(ramp(0, 6)) == 4
    assert (ring.free, ring.available, ring.overruns) == (0, 4, 2)
    assert ring.write(ramp(9, 1)) == 0
    assert ring.overruns == 3
    out = np.zeros((4, 1), np.float32)
    assert ring.read(out) == 4
    np.testing.assert_array_equal(out, ramp(0, 4))


def test_zero_length_blocks_change_nothing():
    ring = Ring(4)
    ring.write(ramp(0, 2))
    nothing = np.zeros((0, 1), np.float32)
    assert ring.write(nothing) == 0
    assert ring.read(nothing) == 0
    assert (ring.available, ring.overruns, ring.underruns) == (2, 0, 0)


def test_blocks_may_be_strided_views():
    ring = Ring(8, 2)
    frames = ramp(0, 12, 4)
    ring.write(frames[::2, ::2])
    out = np.zeros((4, 6), np.float32).T
    assert ring.read(out[:, :2]) == 6
    np.testing.assert_array_equal(out[:, :2], frames[::2, ::2])


@pytest.mark.parametrize(
    "block",
    [
        np.zeros(4, np.float32),
        np.zeros((4, 1), np.float32),
        np.zeros((4, 2), np.float64),
        np.zeros((4, 2, 1), np.float32),
    ],
    ids=lambda block: f"{block.shape}{block.dtype}",
)
def test_blocks_of_wrong_shape_or_type_are_refused(block):
    ring = Ring(8, 2)
    with pytest.raises(BlockSizeError, match=r"takes blocks of shape \(n, 2\) and type float32"):
        ring.write(block)
    with pytest.raises(BlockSizeError, match=r"takes blocks of shape \(n, 2\) and type float32"):
        ring.read(block)
    assert (ring.available, ring.overruns, ring.underruns) == (0, 0, 0)


@pytest.mark.parametrize(("capacity", "channels"), [(0, 1), (-3, 1), (5, 0)])
def test_capacity_and_channels_must_be_positive(capacity, channels):
    with pytest.raises(UsageError, match="a ring needs a capacity"):
        Ring(capacity, channels)


def test_rings_in_the_same_memory_share_samples_and_counts():
    memory = np.zeros(Ring.bytes_needed(5, 1), np.uint8)
    here, there = Ring.in_memory(memory, 5), Ring.in_memory(memory, 5)
    here.write(ramp(0, 9))
    out = np.zeros((6, 1), np.float32)
    assert there.read(out) == 5
    np.testing.assert_array_equal(out[:5], ramp(0, 5))
    assert (there.overruns, here.underruns) == (4, 1)


def test_each_counter_has_its_own_cache_line():
    ring = Ring(5)
    at = [c.ctypes.data for c in (ring._written, ring._read, ring._lost, ring._missing)]
    assert len({address // 64 for address in at}) == 4
    assert all(address % 64 == 0 for address in at)


def test_unsuitable_memory_is_refused():
    memory = np.zeros(Ring.bytes_needed(5, 1), np.uint8)
    Ring.in_memory(memory, 5)
    with pytest.raises(UsageError, match="holds a ring of 5 samples of 1 channels, not 4 of 1"):
        Ring.in_memory(memory, 4)
    with pytest.raises(UsageError, match="needs 344 writable bytes"):
        Ring.in_memory(memory, 6)
    with pytest.raises(UsageError, match="read-only"):
        Ring.in_memory(bytes(400), 5)
    with pytest.raises(UsageError, match="aligned"):
        Ring.in_memory(np.zeros(401, np.uint8)[1:], 5)
