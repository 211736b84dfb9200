"""Lower bounds on the time of a hop: reading its weights, and doing its multiply-adds.

A hop reads each weight once and does a fixed number of multiply-adds.
`MemoryBandwidthFloor` sums a buffer as large as the weights, on huge pages where the
system grants them. It takes turns with the candidates, so the buffer stays in the same
cache level as their weights. `ComputeFloor` runs our own microkernel, on weights that fit
into the L1 cache, for as many multiply-adds as a hop has. At best, prefetching overlaps
the two, so the bound is the larger one.
"""

from __future__ import annotations

import time

import numpy as np
from numba import njit
from numpy.typing import NDArray

from rtmtass.matmul.int8 import ROW_HEADER, quantise
from rtmtass.matmul.microkernels import PANEL
from rtmtass.matmul.products import (
    BF16,
    F32,
    INT8,
    REGISTRY,
    matmul_bf16,
    matmul_f32,
    matmul_int8,
)
from rtmtass.runtime.compiled.memory import LINE, allocate

PANEL_BYTES = 16 * 1024
"""Weights of `ComputeFloor`: half of a 32 KiB L1 cache; inputs and sums need the rest."""
CODES = {"f32": F32, "bf16": BF16, "int8": INT8}


@njit(nogil=True)
def _read(words: NDArray[np.uint64]) -> np.uint64:
    # Four read positions keep more cache lines in flight than one.
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
    code: int, times: int, w: int, m: int, x: int, x_stride: int, y: int, rows: int
) -> None:
    """Multiply `rows` rows of `m` inputs by a panel, `times` times; w, x and y are addresses."""
    for _ in range(times):
        if code == F32:
            matmul_f32(w, m, PANEL, x, x_stride, y, 4 * PANEL, rows)
        elif code == BF16:
            matmul_bf16(w, m, PANEL, x, x_stride, y, 4 * PANEL, rows)
        else:
            matmul_int8(w, m, PANEL, x, x_stride, y, 4 * PANEL, rows)


@njit(nogil=True)
def _quantise(x: int, m: int, header: int) -> None:
    quantise(x, m, header)


class MemoryBandwidthFloor:
    """Reads about `size` bytes; each call returns the time it took in seconds.

    Attributes:
        size: bytes read, rounded down to a multiple of 32.
    """

    def __init__(self, size: int) -> None:
        self.size = size // 32 * 32
        self._words = allocate(self.size).view(np.uint64)
        self._words[:] = 1
        _read(self._words[:4])

    def __call__(self) -> float:
        """Read the buffer once."""
        start = time.perf_counter()
        _read(self._words)
        return time.perf_counter() - start


class ComputeFloor:
    """Does about `macs` multiply-adds in a precision; each call returns the time in seconds.

    Attributes:
        macs: rounded to whole calls of the microkernel.
        sums: (rows, PANEL), the products of `x` and `weight`.
        x: (rows, m), weight: (PANEL, m), float32.
    """

    def __init__(self, precision: str, macs: float) -> None:
        self._code, kind = CODES[precision], REGISTRY[precision]
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
        """Do the multiply-adds once."""
        start = time.perf_counter()
        _multiply(self._code, self._times, *self._operands, self.sums.ctypes.data, len(self.sums))
        return time.perf_counter() - start
