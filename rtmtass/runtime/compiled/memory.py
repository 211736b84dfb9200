"""Memory for weights: aligned, and in huge pages where the system has them."""

from __future__ import annotations

import contextlib
import mmap

import numpy as np
from numpy.typing import NDArray

HUGE = 1 << 21
"""Bytes of a huge page on most systems."""
LINE = 64
"""Bytes of a cache line, and of the widest vector."""


def allocate(size: int) -> NDArray[np.uint8]:
    """Return `size` zeroed bytes, aligned to a cache line, or to a huge page if large enough.

    A step reads all weights, which in 4 KB pages takes thousands of TLB entries.
    """
    advice: int = getattr(mmap, "MADV_HUGEPAGE", -1)
    alignment = HUGE if advice >= 0 and size >= HUGE // 2 else LINE
    rounded = -(-size // alignment) * alignment
    if alignment == LINE:
        raw = np.zeros(rounded + LINE, np.uint8)
    else:
        memory = mmap.mmap(-1, rounded + HUGE)
        with contextlib.suppress(OSError):  # a system without huge pages: small ones will do
            memory.madvise(advice)
        raw = np.frombuffer(memory, np.uint8)
    start = -raw.ctypes.data % alignment
    return raw[start : start + size]
