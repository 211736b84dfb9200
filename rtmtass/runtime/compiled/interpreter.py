"""The machine that runs a plan: one compiled loop over its operations, any number of frames.

A plan is rows of integers; a row names an operation, and where in the four
arenas (weights, state, work, clock) it reads and writes. Live, a plan runs for
one frame a call; over files for many, and each weight is then read once for
all of them. The arithmetic of a frame is the same either way.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rtmtass.jit.compiler import LOOSE, kernel
from rtmtass.runtime.compiled.matmul import (
    BF16,
    INT8,
    matmul,
    matmul_bf16,
    matmul_int8,
    quantise_rows,
)
from rtmtass.runtime.compiled.simd import sigmoid, tanh
from rtmtass.runtime.compiled.spectral_ops import compress, estimate, level, share

Floats = NDArray[np.float32]
Longs = NDArray[np.int64]

FIELDS = 16
"""Integers in a row of a plan."""

KIND, ROWS, QUANTISED = 10, 11, 12
"""Fields of a product's row: precision; rows a frame; address, stride of quantised inputs."""

AFFINE, TAPS, GATE, GRU, COPY, ADD, LEVEL, COMPRESS, ESTIMATE, SUBTRACT, SHARE, CUT, JOIN = range(
    13
)

_ZERO = np.float32(0.0)


@kernel(fastmath=LOOSE)
def _multiply(
    op: Longs,
    weights: Floats,
    work: Floats,
    x: int,
    x_stride: int,
    m: int,
    y: int,
    y_stride: int,
    n: int,
    at: int,
    frames: int,
) -> None:
    """y[t] = W x[t] in the precision the operation names; `x` and `y` are addresses, bytes."""
    packed = weights.ctypes.data + 4 * at
    kind = op[KIND]
    if kind == INT8:
        heads = work.ctypes.data + 4 * op[QUANTISED]
        header_stride = 4 * op[QUANTISED + 1]
        quantise_rows(x, x_stride, m, heads, header_stride, frames)
        matmul_int8(packed, m, n, heads, header_stride, y, y_stride, frames)
    elif kind == BF16:
        matmul_bf16(packed, m, n, x, x_stride, y, y_stride, frames)
    else:
        matmul(packed, m, n, x, x_stride, y, y_stride, frames)


@kernel(fastmath=LOOSE)
def _affine(op: Longs, weights: Floats, work: Floats, rows: int) -> None:
    """Y = W x + b, then slope * y where negative; stored, or added to what is there."""
    source, x_stride, m, target, y_stride, n, at, bias_at, scratch = (
        op[1], op[2], op[3], op[4], op[5], op[6], op[7], op[8], op[9],
    )  # fmt: skip
    base = work.ctypes.data
    to, to_stride = (scratch, n) if scratch >= 0 else (target, y_stride)
    _multiply(
        op, weights, work, base + 4 * source, 4 * x_stride, m, base + 4 * to, 4 * to_stride, n, at,
        rows,
    )  # fmt: skip
    bias = weights[bias_at : bias_at + n]
    slope = weights[bias_at + n : bias_at + 2 * n]
    for t in range(rows):
        y = work[to + t * to_stride : to + t * to_stride + n]
        if scratch >= 0:
            out = work[target + t * y_stride : target + t * y_stride + n]
            for i in range(n):
                value = y[i] + bias[i]
                out[i] += max(value, _ZERO) + slope[i] * min(value, _ZERO)
        else:
            for i in range(n):
                value = y[i] + bias[i]
                y[i] = max(value, _ZERO) + slope[i] * min(value, _ZERO)


@kernel(fastmath=LOOSE)
def _taps(
    op: Longs, state: Floats, work: Floats, clock: int, frames: int, stream_stride: int
) -> None:
    """Remember the frames, and lay each beside the earlier ones a dilated kernel hears."""
    source, stride, width, target, out_stride, size, dilation, ring, mask = (
        op[1], op[2], op[3], op[4], op[5], op[6], op[7], op[8], op[9],
    )  # fmt: skip
    passes = 0 if stream_stride else 1
    for t in range(frames):
        row = ring + t * stream_stride + ((clock + t * passes) & mask) * width
        for i in range(width):
            state[row + i] = work[source + t * stride + i]
    for t in range(frames):
        now = clock + t * passes
        for tap in range(size):
            row = ring + t * stream_stride + ((now - (size - 1 - tap) * dilation) & mask) * width
            to = target + t * out_stride + tap * width
            for i in range(width):
                work[to + i] = state[row + i]


@kernel(fastmath=LOOSE)
def _gate(op: Longs, work: Floats, frames: int) -> None:
    """Out = value * sigmoid(gate), value and gate side by side."""
    source, stride, width, target, out_stride = op[1], op[2], op[3], op[4], op[5]
    for t in range(frames):
        value = work[source + t * stride : source + t * stride + width]
        gate = work[source + t * stride + width : source + t * stride + 2 * width]
        out = work[target + t * out_stride : target + t * out_stride + width]
        for i in range(width):
            out[i] = value[i] * sigmoid(gate[i])


@kernel(fastmath=LOOSE)
def _gru(
    op: Longs, weights: Floats, state: Floats, work: Floats, frames: int, stream_stride: int
) -> None:
    """Step a GRU whose input product is done: the recurrent product, the gates, the state.

    A frame may have many rows, each with a state of its own, `held` floats apart.
    """
    source, stride, width, target, out_stride, at, bias_at, memory, scratch, rows = (
        op[1], op[2], op[3], op[4], op[5], op[6], op[7], op[8], op[9], op[ROWS],
    )  # fmt: skip
    padded, held = op[14], op[15]
    bias = weights[bias_at : bias_at + 3 * width]
    states = state.ctypes.data + 4 * memory
    base = work.ctypes.data + 4 * scratch
    at_once = stream_stride > 0 and rows == 1
    if at_once:  # rows are streams, not frames
        _multiply(
            op,
            weights,
            work,
            states,
            4 * stream_stride,
            width,
            base,
            4 * padded,
            padded,
            at,
            frames,
        )
    for t in range(frames):
        if not at_once:
            now = states + 4 * t * stream_stride
            _multiply(op, weights, work, now, 4 * held, width, base, 4 * padded, padded, at, rows)
        for k in range(rows):
            own = memory + t * stream_stride + k * held
            h = state[own : own + width]
            row = scratch + (t if at_once else k) * padded
            heard = work[row : row + 3 * width]
            given_at = source + (t * rows + k) * stride
            given = work[given_at : given_at + 3 * width]
            to = target + (t * rows + k) * out_stride
            out = work[to : to + width]
            for i in range(width):
                reset = sigmoid(given[i] + heard[i] + bias[i])
                update = sigmoid(given[width + i] + heard[width + i] + bias[width + i])
                shaped = reset * (heard[2 * width + i] + bias[2 * width + i])
                new = tanh(given[2 * width + i] + shaped)
                h[i] = new + update * (h[i] - new)
                out[i] = h[i]


@kernel(fastmath=LOOSE)
def _copy(op: Longs, work: Floats, frames: int) -> None:
    """Copy, or add, a slice of one register to a slice of another."""
    source, stride, width, target, out_stride = op[1], op[2], op[3], op[4], op[5]
    for t in range(frames):
        given = work[source + t * stride : source + t * stride + width]
        out = work[target + t * out_stride : target + t * out_stride + width]
        if op[0] == ADD:
            for i in range(width):
                out[i] += given[i]
        else:
            for i in range(width):
                out[i] = given[i]


@kernel(fastmath=LOOSE)
def _subtract(op: Longs, work: Floats, frames: int) -> None:
    """Out = minuend - subtrahend, whole registers."""
    source, stride, other, other_stride, target, out_stride, width = (
        op[1], op[2], op[3], op[4], op[5], op[6], op[7],
    )  # fmt: skip
    for t in range(frames):
        minuend = work[source + t * stride : source + t * stride + width]
        taken = work[other + t * other_stride : other + t * other_stride + width]
        out = work[target + t * out_stride : target + t * out_stride + width]
        for i in range(width):
            out[i] = minuend[i] - taken[i]


@kernel(fastmath=LOOSE)
def _cut(op: Longs, work: Floats, frames: int) -> None:
    """Lay pieces of a frame, evenly apart, into its rows; silence beyond its ends."""
    source, stride, bins, target, out_stride, width, rows, step, first = (
        op[1], op[2], op[3], op[4], op[5], op[6], op[7], op[8], op[9],
    )  # fmt: skip
    for t in range(frames):
        x = work[source + t * stride : source + t * stride + bins]
        for k in range(rows):
            start = first + k * step
            to = target + (t * rows + k) * out_stride
            out = work[to : to + width]
            for i in range(width):
                out[i] = _ZERO
            low, high = max(0, -start), min(width, bins - start)
            for i in range(low, high):
                out[i] = x[start + i]


@kernel(fastmath=LOOSE)
def _join(op: Longs, work: Floats, frames: int) -> None:
    """Add the rows of a frame, side by side, to a register."""
    source, stride, width, target, out_stride, bins, rows = (
        op[1], op[2], op[3], op[4], op[5], op[6], op[7],
    )  # fmt: skip
    for t in range(frames):
        out = work[target + t * out_stride : target + t * out_stride + bins]
        for k in range(rows):
            given_at = source + (t * rows + k) * stride
            given = work[given_at : given_at + width]
            start = k * width
            for i in range(min(width, bins - start)):
                out[start + i] += given[i]


@kernel(fastmath=LOOSE)
def execute(
    plan: Longs,
    weights: Floats,
    state: Floats,
    work: Floats,
    clock: int,
    frames: int,
    stream_stride: int,
) -> None:
    """Run every operation of `plan`, for frames of one stream or one frame of many streams.

    Args:
        plan: (n_operations, FIELDS).
        weights, state, work: arenas.
        clock: number of the first frame.
        frames: rows of the registers in use.
        stream_stride: 0 if rows are frames of one stream; otherwise rows are streams, at the
            same frame, whose states lie so many floats apart.
    """
    for row in range(plan.shape[0]):
        op = plan[row]
        code = op[0]
        if code == AFFINE:
            _affine(op, weights, work, frames * op[ROWS])
        elif code == TAPS:
            _taps(op, state, work, clock, frames, stream_stride)
        elif code == GATE:
            _gate(op, work, frames)
        elif code == GRU:
            _gru(op, weights, state, work, frames, stream_stride)
        elif code in (COPY, ADD):
            _copy(op, work, frames)
        elif code == LEVEL:
            level(op, weights, state, work, clock, frames, stream_stride)
        elif code == COMPRESS:
            compress(op, work, frames)
        elif code == ESTIMATE:
            estimate(op, weights, work, frames)
        elif code == SUBTRACT:
            _subtract(op, work, frames)
        elif code == SHARE:
            share(op, work, frames)
        elif code == CUT:
            _cut(op, work, frames)
        elif code == JOIN:
            _join(op, work, frames)
