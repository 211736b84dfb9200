"""The floor under a hop: how long this core takes only to read as many bytes of weights.

A hop reads every weight once. The loop adds up a buffer of the same size, on huge
pages where the system grants them, in turn with what it is compared to: so the
buffer lies in the cache level the weights lie in.
"""

from __future__ import annotations

import contextlib
import mmap
import time

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(nogil=True)
def _read(words: NDArray[np.uint64]) -> int:
    # Four places at once keep more lines in flight than one.
    quarter = words.size // 4
    a = b = c = d = np.uint64(0)
    for i in range(quarter):
        a += words[i]
        b += words[quarter + i]
        c += words[2 * quarter + i]
        d += words[3 * quarter + i]
    return a + b + c + d


class Floor:
    """Reads `size` bytes and returns the seconds that took."""

    def __init__(self, size: int) -> None:
        self.size = size // 32 * 32
        # Room to begin on a huge page.
        pages = mmap.mmap(-1, self.size + (4 << 20))
        with contextlib.suppress(AttributeError, OSError):
            pages.madvise(mmap.MADV_HUGEPAGE)
        whole = np.frombuffer(pages, np.uint8)
        start = -whole.ctypes.data % (2 << 20)
        self._words = whole[start : start + self.size].view(np.uint64)
        self._words[:] = 1
        _read(self._words[:4])

    def __call__(self) -> float:
        """Read it once."""
        start = time.perf_counter()
        _read(self._words)
        return time.perf_counter() - start
