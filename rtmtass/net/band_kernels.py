"""What a network in bands does between matmuls, and the way back, for training on a CPU.

Gathers the bins of bands of one width into rows for a matmul; norms and activations.
"""

from __future__ import annotations

import numpy as np

from rtmtass.jit.compiler import borrow, kernel, kernel_noalias
from rtmtass.jit.simd import dot, fma
from rtmtass.types import Floats

_ONE, _ZERO = np.float32(1.0), np.float32(0.0)


@kernel
def gather_bands(planes: Floats, start: int, rows: Floats) -> None:
    """Copy each band's bins of all planes to a row.

    Args:
        planes: (B, T, P, F).
        start: first bin.
        rows: (n, T * B, P * width), of n neighbouring bands; receives them.
    """
    batch, frames, n_planes, _ = planes.shape
    count, _, size = rows.shape
    width = size // n_planes
    for t in range(frames):
        for b in range(batch):
            r = t * batch + b
            for plane in range(n_planes):
                at = plane * width
                for band in range(count):
                    first = start + band * width
                    for i in range(width):
                        rows[band, r, at + i] = planes[b, t, plane, first + i]


@kernel
def scatter_bands(rows: Floats, bias: Floats, start: int, planes: Floats) -> None:
    """Inverse of `gather_bands`; adds a bias, (n, P * width)."""
    batch, frames, n_planes, _ = planes.shape
    count, _, size = rows.shape
    width = size // n_planes
    for t in range(frames):
        for b in range(batch):
            r = t * batch + b
            for plane in range(n_planes):
                at = plane * width
                for band in range(count):
                    first = start + band * width
                    for i in range(width):
                        planes[b, t, plane, first + i] = rows[band, r, at + i] + bias[band, at + i]


@kernel
def add_and_norm(
    x: Floats, y: Floats, weight: Floats, epsilon: np.float32, normed: Floats, scales: Floats
) -> None:
    """Add x to y, (R, C), and write each row of the sum over its root mean square, times weight.

    Args:
        x: (R, C), or (0, C) to add nothing.
        y: (R, C), added to.
        weight: (C,).
        epsilon: added to the mean square.
        normed: (R, C), receives the rows.
        scales: (R,), receives 1 over each root mean square.
    """
    rows, channels = y.shape
    addend, total, out = x.ravel(), y.ravel(), normed.ravel()
    for r in range(rows):
        row = borrow(total, r * channels, channels)
        if len(x):
            _add(borrow(addend, r * channels, channels), row)
        scale = _ONE / np.sqrt(dot(row, row) / np.float32(channels) + epsilon)
        scales[r] = scale
        _scale(row, weight, scale, borrow(out, r * channels, channels))


@kernel_noalias
def _add(x: Floats, y: Floats) -> None:
    for i in range(y.size):
        y[i] += x[i]


@kernel_noalias
def _scale(x: Floats, weight: Floats, scale: np.float32, out: Floats) -> None:
    for i in range(x.size):
        out[i] = x[i] * scale * weight[i]


@kernel_noalias
def _weighted(to: Floats, weight: Floats, x: Floats, scale: np.float32, to_weight: Floats) -> None:
    """Add to the weight's gradient; multiply `to` by the weight."""
    for i in range(to.size):
        to_weight[i] = fma(to[i], x[i] * scale, to_weight[i])
        to[i] *= weight[i]


@kernel_noalias
def _norm_row_back(
    to: Floats, x: Floats, scale: np.float32, along: np.float32, grad: Floats
) -> None:
    for i in range(to.size):
        grad[i] += scale * fma(-along, x[i], to[i])


@kernel
def add_norm_back(
    to: Floats, x: Floats, weight: Floats, scales: Floats, grad: Floats, to_weight: Floats
) -> None:
    """Add the gradient of what `add_and_norm` normalised.

    Args:
        to: (R, C), of the normed rows; overwritten.
        x: (R, C), the rows before.
        weight: (C,).
        scales: (R,), as written.
        grad: (R, C), added to.
        to_weight: (C,), the weight's, added to.
    """
    rows, channels = x.shape
    to_rows, x_rows, grad_rows = to.ravel(), x.ravel(), grad.ravel()
    for r in range(rows):
        at, scale = r * channels, scales[r]
        to_row, x_row = borrow(to_rows, at, channels), borrow(x_rows, at, channels)
        _weighted(to_row, weight, x_row, scale, to_weight)
        along = scale * scale * dot(to_row, x_row) / np.float32(channels)
        _norm_row_back(to_row, x_row, scale, along, borrow(grad_rows, at, channels))


@kernel_noalias
def _prelu_row(x: Floats, slope: Floats, out: Floats) -> None:
    for i in range(x.size):
        out[i] = x[i] if x[i] > _ZERO else x[i] * slope[i]


@kernel
def prelu(x: Floats, slope: Floats, out: Floats) -> None:
    """Write x, (R, C), times a channel's slope where it's negative."""
    for r in range(len(x)):
        _prelu_row(x[r], slope, out[r])


@kernel_noalias
def _prelu_row_back(to: Floats, x: Floats, slope: Floats, to_slope: Floats) -> None:
    for i in range(x.size):
        is_positive = x[i] > _ZERO
        to_slope[i] += _ZERO if is_positive else to[i] * x[i]
        to[i] = to[i] if is_positive else to[i] * slope[i]


@kernel
def prelu_back(to: Floats, x: Floats, slope: Floats, to_slope: Floats) -> None:
    """Turn the gradient of `prelu`'s result into that of x; add to the slopes', (C,)."""
    for r in range(len(x)):
        _prelu_row_back(to[r], x[r], slope, to_slope)
