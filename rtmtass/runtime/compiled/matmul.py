"""Whole products, y = W x for all rows, by panels: one function for each precision."""

from __future__ import annotations

from rtmtass.config import PRECISIONS
from rtmtass.jit.compiler import LOOSE, kernel
from rtmtass.runtime.compiled.int8 import (
    BYTE_ROWS,
    GROUP,
    quantise,
    slim_row_int8,
    slim_rows_int8,
    wide_row_int8,
    wide_rows_int8,
)
from rtmtass.runtime.compiled.microkernels import (
    PANEL,
    ROWS,
    slim_row,
    slim_row_bf16,
    slim_rows,
    slim_rows_bf16,
    wide_row,
    wide_row_bf16,
    wide_rows,
    wide_rows_bf16,
)
from rtmtass.runtime.compiled.simd import LANES

F32, BF16, INT8 = range(len(PRECISIONS))
"""How a row of a plan names a precision: by its place in the list of them."""


@kernel(fastmath=LOOSE)
def matmul(
    weights: int, m: int, n: int, x: int, x_stride: int, y: int, y_stride: int, frames: int
) -> None:
    """y[t] = W x[t] for packed weights; all arguments addresses or counts, strides in bytes."""
    start = 0
    while start < n:
        wide = n - start >= PANEL
        t = 0
        while t < frames:
            rows = ROWS if frames - t >= ROWS else 1
            x_at = x + t * x_stride
            y_at = y + t * y_stride + 4 * start
            if wide and rows > 1:
                wide_rows(weights, x_at, x_stride, m, y_at, y_stride)
            elif wide:
                wide_row(weights, x_at, x_stride, m, y_at, y_stride)
            elif rows > 1:
                slim_rows(weights, x_at, x_stride, m, y_at, y_stride)
            else:
                slim_row(weights, x_at, x_stride, m, y_at, y_stride)
            t += rows
        done = PANEL if wide else LANES
        weights += 4 * m * done
        start += done


@kernel(fastmath=LOOSE)
def matmul_bf16(
    weights: int, m: int, n: int, x: int, x_stride: int, y: int, y_stride: int, frames: int
) -> None:
    """As `matmul`, of bfloat16 weights; all arguments addresses or counts, strides in bytes."""
    start = 0
    while start < n:
        wide = n - start >= PANEL
        t = 0
        while t < frames:
            rows = ROWS if frames - t >= ROWS else 1
            x_at = x + t * x_stride
            y_at = y + t * y_stride + 4 * start
            if wide and rows > 1:
                wide_rows_bf16(weights, x_at, x_stride, m, y_at, y_stride)
            elif wide:
                wide_row_bf16(weights, x_at, x_stride, m, y_at, y_stride)
            elif rows > 1:
                slim_rows_bf16(weights, x_at, x_stride, m, y_at, y_stride)
            else:
                slim_row_bf16(weights, x_at, x_stride, m, y_at, y_stride)
            t += rows
        done = PANEL if wide else LANES
        weights += 2 * m * done
        start += done


@kernel(fastmath=LOOSE)
def matmul_int8(
    weights: int, m: int, n: int, heads: int, header_stride: int, y: int, y_stride: int, frames: int
) -> None:
    """As `matmul`, of bytes with quantised inputs; see `int8.panel`."""
    groups = (m + GROUP - 1) // GROUP
    start = 0
    while start < n:
        wide = n - start >= PANEL
        t = 0
        while t < frames:
            rows = BYTE_ROWS if frames - t >= BYTE_ROWS else 1
            x_at = heads + t * header_stride
            y_at = y + t * y_stride + 4 * start
            if wide and rows > 1:
                wide_rows_int8(weights, x_at, header_stride, groups, y_at, y_stride)
            elif wide:
                wide_row_int8(weights, x_at, header_stride, groups, y_at, y_stride)
            elif rows > 1:
                slim_rows_int8(weights, x_at, header_stride, groups, y_at, y_stride)
            else:
                slim_row_int8(weights, x_at, header_stride, groups, y_at, y_stride)
            t += rows
        done = PANEL if wide else LANES
        weights += (GROUP * groups + 8) * done
        start += done


@kernel(fastmath=LOOSE)
def quantise_rows(
    x: int, x_stride: int, m: int, heads: int, header_stride: int, frames: int
) -> None:
    """Turn rows of `m` floats into heads and bytes; addresses and strides in bytes."""
    for t in range(frames):
        quantise(x + t * x_stride, m, heads + t * header_stride)
