"""A GRU over all its frames, and the way back through them: a compiled loop each.

Training runs on them where it has a CPU and numba. One call for a whole clip: a call per
frame and operation takes longer than the arithmetic of a narrow GRU. They're the twins of
torch.nn.GRU, and a test pins them to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from rtmtass.jit.compiler import kernel, kernel_noalias
from rtmtass.jit.simd import fma, in_vectors, sigmoid, tanh
from rtmtass.jit.threads import run_parts
from rtmtass.matmul.microkernels import TILE
from rtmtass.matmul.packing import pack, pack_f32
from rtmtass.matmul.products import matmul_f32
from rtmtass.types import Bytes, Floats


class Trace(NamedTuple):
    """What the way back needs of a scan of T frames and R rows; R = G * B, GRU by GRU.

    Attributes:
        states: (T + 1, R, H), the state before the first frame and after each.
        gates: (T, R, 2 H), reset and update.
        news: (T, R, H), the candidate states.
        held: (T, R, H), what the reset gate lets through to them.
    """

    states: Floats
    gates: Floats
    news: Floats
    held: Floats


@kernel_noalias
def _gates(
    inputs: Floats,
    recurrent: Floats,
    bias: Floats,
    before: Floats,
    gates: Floats,
    new: Floats,
    held: Floats,
    after: Floats,
) -> None:
    """Compute one frame's states from both matmuls, (R, 3 H or more), and the bias (3 H,)."""
    hidden = before.shape[1]
    for row in range(len(before)):
        for i in range(hidden):
            reset = sigmoid(inputs[row, i] + recurrent[row, i] + bias[i])
            update = sigmoid(
                inputs[row, hidden + i] + recurrent[row, hidden + i] + bias[hidden + i]
            )
            let_in = recurrent[row, 2 * hidden + i] + bias[2 * hidden + i]
            candidate = tanh(fma(reset, let_in, inputs[row, 2 * hidden + i]))
            gates[row, i], gates[row, hidden + i] = reset, update
            held[row, i], new[row, i] = let_in, candidate
            after[row, i] = fma(update, before[row, i] - candidate, candidate)


@kernel
def _scan(
    inputs: Floats,
    weights: Bytes,
    bias: Floats,
    states: Floats,
    gates: Floats,
    news: Floats,
    held: Floats,
    recurrent: Floats,
    start: int,
) -> None:
    """Run one GRU over all frames of as many rows, from `start` on, as `recurrent` has."""
    rows, padded = recurrent.shape
    hidden, stop = states.shape[2], start + rows
    for t in range(len(inputs)):
        before = states[t, start:stop]
        matmul_f32(
            weights.ctypes.data, hidden, padded, before.ctypes.data, 4 * hidden,
            recurrent.ctypes.data, 4 * padded, rows,
        )  # fmt: skip
        _gates(
            inputs[t, start:stop], recurrent, bias, before, gates[t, start:stop],
            news[t, start:stop], held[t, start:stop], states[t + 1, start:stop],
        )  # fmt: skip


@kernel_noalias
def _gates_back(
    flow: Floats,
    through: Floats,
    grad: Floats,
    before: Floats,
    gates: Floats,
    new: Floats,
    held: Floats,
    d_inputs: Floats,
    d_held: Floats,
    d_recurrent: Floats,
) -> None:
    """Backpropagate through one frame.

    The gradient of its states has three parts: of its output, and of the next frame's,
    directly and through its matmul. `flow` becomes the direct part for the frame before.
    """
    hidden = grad.shape[1]
    for row in range(len(grad)):
        for i in range(hidden):
            whole = grad[row, i] + flow[row, i] + through[row, i]
            reset, update = gates[row, i], gates[row, hidden + i]
            kept = whole * update
            left = whole - kept
            to_new = left - left * new[row, i] * new[row, i]  # a 1 - x would be a double
            slope = to_new * held[row, i] * reset
            to_reset = slope - slope * reset
            slope = (before[row, i] - new[row, i]) * kept
            to_update = slope - slope * update
            d_inputs[row, i] = d_recurrent[row, i] = to_reset
            d_inputs[row, hidden + i] = d_recurrent[row, hidden + i] = to_update
            d_inputs[row, 2 * hidden + i] = to_new
            d_held[row, i] = d_recurrent[row, 2 * hidden + i] = to_new * reset
            flow[row, i] = kept


@kernel
def _scan_back(
    grad: Floats,
    weights: Bytes,
    states: Floats,
    gates: Floats,
    news: Floats,
    held: Floats,
    d_inputs: Floats,
    d_held: Floats,
    d_recurrent: Floats,
    flow: Floats,
    through: Floats,
    start: int,
) -> None:
    """Backpropagate through all frames of as many rows, from `start` on, as `flow` has."""
    rows, hidden = flow.shape
    stop, padded = start + rows, through.shape[1]
    for t in range(len(grad) - 1, -1, -1):
        _gates_back(
            flow, through, grad[t, start:stop], states[t, start:stop], gates[t, start:stop],
            news[t, start:stop], held[t, start:stop], d_inputs[t, start:stop],
            d_held[t, start:stop], d_recurrent,
        )  # fmt: skip
        matmul_f32(
            weights.ctypes.data, 3 * hidden, padded, d_recurrent.ctypes.data, 12 * hidden,
            through.ctypes.data, 4 * padded, rows,
        )  # fmt: skip


def scan(inputs: Floats, weights: Floats, bias: Floats, start: Floats, threads: int) -> Trace:
    """Run G parallel GRUs over T frames; every GRU of every example is a row, R = G * B.

    Args:
        inputs: (T, R, 3 H), what each frame's input adds to the gates: reset, update, new.
        weights: (G, 3 H, H), of the states.
        bias: (G, 3 H).
        start: (R, H), states before the first frame.
        threads: how many threads to divide the rows over.

    Source: Cho et al., arXiv 1406.1078, in the form of torch.nn.GRU.
    """
    frames, rows, wide = inputs.shape
    hidden = wide // 3
    shape = (frames, rows, hidden)
    trace = Trace(
        np.empty((frames + 1, rows, hidden), np.float32),
        np.empty((frames, rows, 2 * hidden), np.float32),
        np.empty(shape, np.float32),
        np.empty(shape, np.float32),
    )
    trace.states[0] = start
    packed = [pack(one, pack_f32) for one in weights]

    def run(group: int, first: int, count: int) -> None:
        recurrent = np.empty((count, in_vectors(wide)), np.float32)
        _scan(inputs, packed[group], bias[group], *trace, recurrent, first)

    run_parts(run, _parts(len(weights), rows // len(weights), threads), threads)
    return trace


def scan_back(
    grad: Floats, weights: Floats, trace: Trace, threads: int
) -> tuple[Floats, Floats, Floats]:
    """Return the gradients of `scan` from that of its states after each frame, (T, R, H).

    Returns:
        d_inputs (T, R, 3 H), d_held (T, R, H) and d_start (R, H). The gradient of what the
        states' matmul adds to the gates is d_inputs' first two thirds and d_held.
    """
    frames, rows, hidden = grad.shape
    d_inputs = np.empty((frames, rows, 3 * hidden), np.float32)
    d_held = np.empty((frames, rows, hidden), np.float32)
    d_start = np.empty((rows, hidden), np.float32)
    packed = [pack(np.ascontiguousarray(one.T), pack_f32) for one in weights]

    def run(group: int, first: int, count: int) -> None:
        d_recurrent = np.empty((count, 3 * hidden), np.float32)
        flow = np.zeros((count, hidden), np.float32)
        through = np.zeros((count, in_vectors(hidden)), np.float32)
        _scan_back(grad, packed[group], *trace, d_inputs, d_held, d_recurrent, flow, through, first)
        np.add(flow, through[:, :hidden], out=d_start[first : first + count])

    run_parts(run, _parts(len(weights), rows // len(weights), threads), threads)
    return d_inputs, d_held, d_start


def _parts(groups: int, batch: int, threads: int) -> Iterator[tuple[int, int, int]]:
    """Yield (group, first row, rows), no fewer rows than share a pass over the weights."""
    size = max(-(-groups * batch // threads), TILE.rows)
    for group in range(groups):
        for first in range(0, batch, size):
            yield group, group * batch + first, min(size, batch - first)
