"""Runs a compiled program: one loop over its instructions, for any number of frames.

Live, a program runs one frame a call; for files it runs many, and each weight is then
read once for all of them. The arithmetic of a frame is the same either way.
"""

from __future__ import annotations

import numpy as np

from rtmtass.jit.compiler import kernel
from rtmtass.jit.simd import dot, fma, sigmoid, tanh
from rtmtass.matmul.products import multiply
from rtmtass.net.constants import RMS_EPSILON
from rtmtass.runtime.compiled.program import (
    AFFINE,
    COPY,
    CUT,
    GATE,
    GRU,
    JOIN,
    MATMUL,
    OP_AFFINE,
    OP_COMPRESS,
    OP_COPY,
    OP_CUT,
    OP_ESTIMATE,
    OP_EXPANDER,
    OP_FLATTEN,
    OP_GATE,
    OP_GRU,
    OP_JOIN,
    OP_LEVEL,
    OP_MIXTURE_CONSISTENCY,
    OP_RMS_NORM,
    OP_SUBTRACT,
    OP_TAPS,
    RMS_NORM,
    SUBTRACT,
    TAPS,
)
from rtmtass.runtime.compiled.spectral_ops import (
    compress,
    estimate,
    expander,
    level,
    mixture_consistency,
)
from rtmtass.types import Floats, Longs

_ZERO = np.float32(0.0)
_ONE = np.float32(1.0)
_RMS_EPSILON = np.float32(RMS_EPSILON)


@kernel
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
    rows: int,
) -> None:
    """y[t] = W x[t] in the precision of the instruction; `x`, `y` and strides in bytes."""
    multiply(
        op[MATMUL.precision], weights.ctypes.data + 4 * op[MATMUL.weights], m, n, x, x_stride, y,
        y_stride, rows, work.ctypes.data + 4 * op[MATMUL.quantised],
        4 * op[MATMUL.quantised_stride],
    )  # fmt: skip


@kernel
def _affine(op: Longs, weights: Floats, work: Floats, rows: int) -> None:
    """Affine layer: y = W x + b, then slope * y where negative; stored, or added to y."""
    x, x_stride, y, y_stride = op[AFFINE.x], op[AFFINE.x_stride], op[AFFINE.y], op[AFFINE.y_stride]
    n, first_bias, scratch = op[AFFINE.n], op[AFFINE.bias], op[AFFINE.scratch]
    base = work.ctypes.data
    to, to_stride = (scratch, n) if scratch >= 0 else (y, y_stride)
    _multiply(
        op, weights, work, base + 4 * x, 4 * x_stride, op[AFFINE.m], base + 4 * to, 4 * to_stride,
        n, rows,
    )  # fmt: skip
    bias = weights[first_bias : first_bias + n]
    slope = weights[first_bias + n : first_bias + 2 * n]
    for t in range(rows):
        product = work[to + t * to_stride : to + t * to_stride + n]
        if scratch >= 0:
            out = work[y + t * y_stride : y + t * y_stride + n]
            for i in range(n):
                value = product[i] + bias[i]
                out[i] += fma(slope[i], min(value, _ZERO), max(value, _ZERO))
        else:
            for i in range(n):
                value = product[i] + bias[i]
                product[i] = fma(slope[i], min(value, _ZERO), max(value, _ZERO))


@kernel
def _taps(
    op: Longs, state: Floats, work: Floats, clock: int, frames: int, stream_stride: int
) -> None:
    """Store the frames in a ring, and write each beside the earlier ones of a dilated kernel."""
    x, x_stride, y, y_stride = op[TAPS.x], op[TAPS.x_stride], op[TAPS.y], op[TAPS.y_stride]
    width, size, dilation = op[TAPS.width], op[TAPS.size], op[TAPS.dilation]
    ring, mask = op[TAPS.ring], op[TAPS.mask]
    step = 0 if stream_stride else 1
    for t in range(frames):
        slot = ring + t * stream_stride + ((clock + t * step) & mask) * width
        for i in range(width):
            state[slot + i] = work[x + t * x_stride + i]
    for t in range(frames):
        now = clock + t * step
        for tap in range(size):
            slot = ring + t * stream_stride + ((now - (size - 1 - tap) * dilation) & mask) * width
            to = y + t * y_stride + tap * width
            for i in range(width):
                work[to + i] = state[slot + i]


@kernel
def _gate(op: Longs, work: Floats, frames: int) -> None:
    """Gate: y = value * sigmoid(gate), value and gate side by side."""
    x, x_stride, y, y_stride = op[GATE.x], op[GATE.x_stride], op[GATE.y], op[GATE.y_stride]
    width = op[GATE.width]
    for t in range(frames):
        value = work[x + t * x_stride : x + t * x_stride + width]
        gate = work[x + t * x_stride + width : x + t * x_stride + 2 * width]
        out = work[y + t * y_stride : y + t * y_stride + width]
        for i in range(width):
            out[i] = value[i] * sigmoid(gate[i])


@kernel
def _gru(
    op: Longs, weights: Floats, state: Floats, work: Floats, frames: int, stream_stride: int
) -> None:
    """Step a GRU whose input matmul is done: the recurrent matmul, the gates, the state.

    A frame may have many rows, each with a state of its own, `state_stride` floats apart.
    """
    x, x_stride, y, y_stride = op[GRU.x], op[GRU.x_stride], op[GRU.y], op[GRU.y_stride]
    width, rows, first_state, scratch = op[GRU.width], op[GRU.rows], op[GRU.state], op[GRU.scratch]
    padded, state_stride = op[GRU.padded], op[GRU.state_stride]
    bias = weights[op[GRU.bias] : op[GRU.bias] + 3 * width]
    states = state.ctypes.data + 4 * first_state
    base = work.ctypes.data + 4 * scratch
    is_one_matmul = stream_stride > 0 and rows == 1
    if is_one_matmul:  # rows are streams: their states don't depend on each other
        _multiply(
            op, weights, work, states, 4 * stream_stride, width, base, 4 * padded, padded, frames
        )
    for t in range(frames):
        if not is_one_matmul:
            now = states + 4 * t * stream_stride
            _multiply(
                op, weights, work, now, 4 * state_stride, width, base, 4 * padded, padded, rows
            )
        for k in range(rows):
            h_at = first_state + t * stream_stride + k * state_stride
            h = state[h_at : h_at + width]
            row = scratch + (t if is_one_matmul else k) * padded
            recurrent = work[row : row + 3 * width]
            row = x + (t * rows + k) * x_stride
            inputs = work[row : row + 3 * width]
            row = y + (t * rows + k) * y_stride
            out = work[row : row + width]
            for i in range(width):
                reset = sigmoid(inputs[i] + recurrent[i] + bias[i])
                update = sigmoid(inputs[width + i] + recurrent[width + i] + bias[width + i])
                gated = recurrent[2 * width + i] + bias[2 * width + i]
                new = tanh(fma(reset, gated, inputs[2 * width + i]))
                h[i] = fma(update, h[i] - new, new)
                out[i] = h[i]


@kernel
def _copy(op: Longs, work: Floats, frames: int) -> None:
    """Copy a slice of one register to a slice of another, or add it."""
    x, x_stride, y, y_stride = op[COPY.x], op[COPY.x_stride], op[COPY.y], op[COPY.y_stride]
    width, adds = op[COPY.width], op[COPY.adds]
    for t in range(frames):
        source = work[x + t * x_stride : x + t * x_stride + width]
        out = work[y + t * y_stride : y + t * y_stride + width]
        if adds:
            for i in range(width):
                out[i] += source[i]
        else:
            for i in range(width):
                out[i] = source[i]


@kernel
def _subtract(op: Longs, work: Floats, frames: int) -> None:
    """Subtract: y = a - b, whole registers."""
    a, a_stride = op[SUBTRACT.a], op[SUBTRACT.a_stride]
    b, b_stride = op[SUBTRACT.b], op[SUBTRACT.b_stride]
    y, y_stride, width = op[SUBTRACT.y], op[SUBTRACT.y_stride], op[SUBTRACT.width]
    for t in range(frames):
        minuend = work[a + t * a_stride : a + t * a_stride + width]
        subtrahend = work[b + t * b_stride : b + t * b_stride + width]
        out = work[y + t * y_stride : y + t * y_stride + width]
        for i in range(width):
            out[i] = minuend[i] - subtrahend[i]


@kernel
def _cut(op: Longs, work: Floats, frames: int) -> None:
    """Cut a frame into pieces, evenly spaced, zero-padded beyond its ends."""
    x, x_stride, x_width = op[CUT.x], op[CUT.x_stride], op[CUT.x_width]
    y, y_stride, width = op[CUT.y], op[CUT.y_stride], op[CUT.y_width]
    rows, step, first = op[CUT.rows], op[CUT.step], op[CUT.first]
    for t in range(frames):
        source = work[x + t * x_stride : x + t * x_stride + x_width]
        for k in range(rows):
            start = first + k * step
            to = y + (t * rows + k) * y_stride
            out = work[to : to + width]
            for i in range(width):
                out[i] = _ZERO
            low, high = max(0, -start), min(width, x_width - start)
            for i in range(low, high):
                out[i] = source[start + i]


@kernel
def _join(op: Longs, work: Floats, frames: int, adds: bool) -> None:
    """Write the rows of a frame, end to end, to a register, or add them to it."""
    x, x_stride, width = op[JOIN.x], op[JOIN.x_stride], op[JOIN.x_width]
    y, y_stride, y_width, rows = op[JOIN.y], op[JOIN.y_stride], op[JOIN.y_width], op[JOIN.rows]
    for t in range(frames):
        out = work[y + t * y_stride : y + t * y_stride + y_width]
        for k in range(rows):
            row = x + (t * rows + k) * x_stride
            source = work[row : row + width]
            start = k * width
            left = min(width, y_width - start)
            if adds:
                for i in range(left):
                    out[start + i] += source[i]
            else:
                for i in range(left):
                    out[start + i] = source[i]


@kernel
def _rms_norm(op: Longs, work: Floats, rows: int) -> None:
    """Divide each row by its root mean square; see `net.bands.RmsNorm`."""
    x, x_stride, y, y_stride = (
        op[RMS_NORM.x], op[RMS_NORM.x_stride], op[RMS_NORM.y], op[RMS_NORM.y_stride],
    )  # fmt: skip
    width = op[RMS_NORM.width]
    for t in range(rows):
        source = work[x + t * x_stride : x + t * x_stride + width]
        out = work[y + t * y_stride : y + t * y_stride + width]
        gain = _ONE / np.sqrt(dot(source, source) / np.float32(width) + _RMS_EPSILON)
        for i in range(width):
            out[i] = source[i] * gain


@kernel
def execute(
    instructions: Longs,
    weights: Floats,
    state: Floats,
    work: Floats,
    clock: int,
    frames: int,
    stream_stride: int,
) -> None:
    """Run every instruction, for frames of one stream or one frame of many streams.

    Args:
        instructions: (n, WORDS), of `Program`.
        weights, state, work: arenas.
        clock: number of the first frame.
        frames: frames of the registers in use.
        stream_stride: 0 for frames of one stream; otherwise each frame belongs to another
            stream, all at time `clock`, with this many floats from state to state.
    """
    for row in range(instructions.shape[0]):
        op = instructions[row]
        code = op[0]
        if code == OP_AFFINE:
            _affine(op, weights, work, frames * op[AFFINE.rows])
        elif code == OP_TAPS:
            _taps(op, state, work, clock, frames, stream_stride)
        elif code == OP_GATE:
            _gate(op, work, frames)
        elif code == OP_GRU:
            _gru(op, weights, state, work, frames, stream_stride)
        elif code == OP_COPY:
            _copy(op, work, frames)
        elif code == OP_LEVEL:
            level(op, weights, state, work, clock, frames, stream_stride)
        elif code == OP_COMPRESS:
            compress(op, work, frames)
        elif code == OP_ESTIMATE:
            estimate(op, weights, work, frames)
        elif code == OP_SUBTRACT:
            _subtract(op, work, frames)
        elif code == OP_MIXTURE_CONSISTENCY:
            mixture_consistency(op, work, frames)
        elif code == OP_CUT:
            _cut(op, work, frames)
        elif code == OP_JOIN:
            _join(op, work, frames, True)
        elif code == OP_EXPANDER:
            expander(op, weights, state, work, frames, stream_stride)
        elif code == OP_FLATTEN:
            _join(op, work, frames, False)
        elif code == OP_RMS_NORM:
            _rms_norm(op, work, frames * op[RMS_NORM.rows])
