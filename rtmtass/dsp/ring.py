"""A lock-free ring buffer of samples between two threads or processes."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from rtmtass.errors import BlockSizeError, UsageError
from rtmtass.types import Floats

_LINE = 64
"""Bytes of a cache line; each counter has its own, to avoid false sharing."""
_N_LINES = 5
"""Lines for samples written, read, lost and missing, and for capacity and channels."""


class Ring:
    """A ring buffer for one writer and one reader, without a lock.

    Only the writer changes the counts of written and lost samples, only the reader those
    of read and missing ones. Data is copied before it is counted, so neither side sees
    samples that aren't there yet.

    Allocates only views, so an audio callback may use it.

    Args:
        capacity: in samples per channel, 1 or more.
        channels: 1 or more.

    Raises:
        UsageError: capacity or channels below 1.
    """

    def __init__(self, capacity: int, channels: int = 1) -> None:
        size = self.bytes_needed(capacity, channels)
        memory = np.zeros(size + _LINE, np.uint8)
        start = -memory.ctypes.data % _LINE
        # Between threads of one process, handing over the GIL orders all stores.
        self._attach(memory[start : start + size], capacity, channels, _no_fence)

    @staticmethod
    def bytes_needed(capacity: int, channels: int = 1) -> int:
        """Return the size of a buffer for `in_memory`.

        Raises:
            UsageError: capacity or channels below 1.
        """
        if capacity < 1 or channels < 1:
            raise UsageError(
                f"a ring needs a capacity of at least 1 sample and 1 channel,"
                f" not {capacity} samples of {channels} channels"
            )
        return _N_LINES * _LINE + capacity * channels * np.dtype(np.float32).itemsize

    @classmethod
    def in_memory(cls, buffer: Any, capacity: int, channels: int = 1) -> Self:
        """Return a ring in memory shared with another process.

        Each side calls this on its own view of the memory. Memory of all zeros is an empty
        ring. Delete the ring before closing the shared memory.

        Args:
            buffer: writable bytes, `bytes_needed(capacity, channels)` or more,
                such as `SharedMemory.buf`.
            capacity: samples per channel, the same on both sides.
            channels: the same on both sides.

        Raises:
            UsageError: the buffer is too small, read-only or not aligned to
                8 bytes, or holds a ring of another size.
        """
        size = cls.bytes_needed(capacity, channels)
        memory = np.frombuffer(buffer, np.uint8)
        if len(memory) < size or not memory.flags.writeable or memory.ctypes.data % 8:
            raise UsageError(
                f"a ring of {capacity} samples of {channels} channels needs {size} writable"
                f" bytes, aligned to 8, not {len(memory)}"
                f" {'writable' if memory.flags.writeable else 'read-only'} ones"
                f" at an offset of {memory.ctypes.data % 8}: use Ring.bytes_needed"
            )
        ring = cls.__new__(cls)
        ring._attach(memory[:size], capacity, channels, _fence())
        return ring

    def _attach(
        self,
        memory: NDArray[np.uint8],
        capacity: int,
        channels: int,
        fence: Callable[[], None],
    ) -> None:
        head = memory[: _N_LINES * _LINE].view(np.int64).reshape(_N_LINES, -1)
        self._written, self._read, self._lost, self._missing, size = head
        if size[0] == 0:
            size[:2] = capacity, channels
        elif (size[0], size[1]) != (capacity, channels):
            raise UsageError(
                f"this memory holds a ring of {size[0]} samples of {size[1]} channels,"
                f" not {capacity} of {channels}: use the same size on both sides"
            )
        self._data = memory[_N_LINES * _LINE :].view(np.float32).reshape(capacity, channels)
        self._fence = fence

    @property
    def capacity(self) -> int:
        """Capacity in samples per channel."""
        return self._data.shape[0]

    @property
    def channels(self) -> int:
        """Channels of each block."""
        return self._data.shape[1]

    @property
    def available(self) -> int:
        """Samples that can be read now; only grows between the reader's reads."""
        # Read in this order and capped, so that a third thread never sees an impossible count.
        read = int(self._read[0])
        return min(int(self._written[0]) - read, self.capacity)

    @property
    def free(self) -> int:
        """Samples that can be written now; only grows between the writer's writes."""
        return self.capacity - self.available

    @property
    def overruns(self) -> int:
        """Samples lost so far: passed to `write` while the ring was full."""
        return int(self._lost[0])

    @property
    def underruns(self) -> int:
        """Samples missing so far: requested of `read` while the ring was empty."""
        return int(self._missing[0])

    def write(self, block: Floats) -> int:
        """Append as much of a block as fits; the rest counts as overruns.

        Args:
            block: (n, channels) float32, any n. Read, not kept.

        Returns:
            Samples written, from the start of the block.

        Raises:
            BlockSizeError: wrong shape or type.
        """
        self._check(block)
        written = int(self._written[0])
        n = min(len(block), self.capacity - (written - int(self._read[0])))
        self._fence()
        start = written % self.capacity
        until_wrap = min(n, self.capacity - start)
        self._data[start : start + until_wrap] = block[:until_wrap]
        self._data[: n - until_wrap] = block[until_wrap:n]
        self._fence()
        self._written[0] = written + n
        if n < len(block):
            self._lost[0] += len(block) - n
        return n

    def read(self, out: Floats) -> int:
        """Fill the start of `out` with the oldest samples; missing ones count as underruns.

        Args:
            out: (n, channels) float32, any n. Unchanged beyond the samples read.

        Returns:
            Samples read.

        Raises:
            BlockSizeError: wrong shape or type.
        """
        self._check(out)
        read = int(self._read[0])
        n = min(len(out), int(self._written[0]) - read)
        self._fence()
        start = read % self.capacity
        until_wrap = min(n, self.capacity - start)
        out[:until_wrap] = self._data[start : start + until_wrap]
        out[until_wrap:n] = self._data[: n - until_wrap]
        self._fence()
        self._read[0] = read + n
        if n < len(out):
            self._missing[0] += len(out) - n
        return n

    def clear(self) -> None:
        """Discard all unread samples. For the reader; the xrun counts stay."""
        self._read[0] = self._written[0]

    def _check(self, block: Floats) -> None:
        if block.ndim != 2 or block.shape[1] != self.channels or block.dtype != np.float32:
            raise BlockSizeError(
                f"this ring takes blocks of shape (n, {self.channels}) and type float32,"
                f" not {block.shape} and {block.dtype}: reshape or convert first"
            )


def _no_fence() -> None:
    """Do nothing: x86 keeps stores in order."""


def _fence() -> Callable[[], None]:
    """Return the store barrier that this CPU needs between processes."""
    if platform.machine().lower() in ("x86_64", "amd64", "i686", "x86"):
        return _no_fence
    return _compiled_fence()


def _compiled_fence() -> Callable[[], None]:
    # Imported here: most machines never need it.
    from numba import njit, types
    from numba.extending import intrinsic

    def fence(typing_context: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            builder.fence("seq_cst")
            return context.get_dummy_value()

        return types.void(), build

    barrier: Any = intrinsic(fence)
    # Keeps the GIL: releasing it could mean waiting to get it back.
    compiled: Callable[[], None] = njit(lambda: barrier())
    compiled()
    return compiled
