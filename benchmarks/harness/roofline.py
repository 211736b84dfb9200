"""The floor under a hop: this core can't read the weights faster, nor multiply faster.

A hop reads every weight once and does a fixed number of multiply-adds. `Reading` adds
up a buffer of the same size, on huge pages where the system grants them, in turn with
what it is compared to: so the buffer lies in the cache level the weights lie in.
`Multiplying` runs the runtime's own microkernel on a panel of weights that stays in the
first cache, for as many multiply-adds as a hop has. Prefetching overlaps the two at
best, so that the floor is the larger of them.
"""

from __future__ import annotations

import time

import numpy as np
from numba import njit
from numpy.typing import NDArray

from rtmtass.runtime.compiled.int8 import ROW_HEADER, quantise
from rtmtass.runtime.compiled.matmul import (
    BF16,
    F32,
    INT8,
    REGISTRY,
    matmul_bf16,
    matmul_f32,
    matmul_int8,
)
from rtmtass.runtime.compiled.memory import LINE, allocate
from rtmtass.runtime.compiled.microkernels import PANEL

PANEL_BYTES = 16 * 1024
"""Weights of `Multiplying`: half of the smallest first cache, inputs and sums have the rest."""
NUMBERS = {"f32": F32, "bf16": BF16, "int8": INT8}


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


@njit(nogil=True)
def _multiply(
    number: int, times: int, w: int, m: int, x: int, x_stride: int, y: int, rows: int
) -> None:
    """Multiply `rows` rows of `m` inputs by one panel, `times` times; addresses and counts."""
    for _ in range(times):
        if number == F32:
            matmul_f32(w, m, PANEL, x, x_stride, y, 4 * PANEL, rows)
        elif number == BF16:
            matmul_bf16(w, m, PANEL, x, x_stride, y, 4 * PANEL, rows)
        else:
            matmul_int8(w, m, PANEL, x, x_stride, y, 4 * PANEL, rows)


@njit(nogil=True)
def _quantise(x: int, m: int, head: int) -> None:
    quantise(x, m, head)


class Reading:
    """Reads `size` bytes and returns the seconds that took."""

    def __init__(self, size: int) -> None:
        self.size = size // 32 * 32
        self._words = allocate(self.size).view(np.uint64)
        self._words[:] = 1
        _read(self._words[:4])

    def __call__(self) -> float:
        """Read it once."""
        start = time.perf_counter()
        _read(self._words)
        return time.perf_counter() - start


class Multiplying:
    """Does about `macs` multiply-adds of a precision and returns the seconds that took.

    Attributes:
        macs: rounded to whole calls of the microkernel.
        sums: (rows, PANEL), what the microkernel made of `x` and `weight`.
        x: (rows, m), weight: (PANEL, m), float32.
    """

    def __init__(self, precision: str, macs: float) -> None:
        self._number, kind = NUMBERS[precision], REGISTRY[precision]
        rows = kind.rows
        m = PANEL_BYTES // PANEL // kind.step_bytes * kind.step_inputs
        self._times = max(1, round(macs / (rows * PANEL * m)))
        self.macs = self._times * rows * PANEL * m
        rng = np.random.default_rng(0)
        self.weight = rng.standard_normal((PANEL, m)).astype(np.float32)
        self.x = rng.standard_normal((rows, m)).astype(np.float32)
        packed = kind.pack(self.weight)
        self._w = allocate(packed.size)
        self._w[:] = packed
        self.sums = np.zeros((rows, PANEL), np.float32)
        stride = ROW_HEADER + -(-m // LINE) * LINE if kind.quantises else 4 * m
        self._rows = allocate(rows * stride).reshape(rows, stride)
        for row, values in zip(self._rows, self.x, strict=True):
            if kind.quantises:
                _quantise(values.ctypes.data, m, row.ctypes.data)
            else:
                row[:] = values.view(np.uint8)
        self._operands = (self._w.ctypes.data, m, self._rows.ctypes.data, stride)
        self()

    def __call__(self) -> float:
        """Do them once."""
        start = time.perf_counter()
        _multiply(self._number, self._times, *self._operands, self.sums.ctypes.data, len(self.sums))
        return time.perf_counter() - start
