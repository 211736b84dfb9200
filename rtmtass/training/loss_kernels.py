"""The training loss and its gradient in two passes over the spectra, for training on a CPU.

torch makes some sixty passes over them, forward and back. They're the twin of the loss in
`training.losses`, and a test pins them to it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rtmtass.dsp.fft import forward
from rtmtass.dsp.stft import apply_window, synthesise_hop
from rtmtass.jit.compiler import borrow, kernel, kernel_noalias
from rtmtass.jit.simd import exp, fma, log
from rtmtass.net.constants import LOSS_FLOOR
from rtmtass.types import Floats

_ONE, _HALF = np.float32(1.0), np.float32(0.5)
_FLOOR = np.float32(LOSS_FLOOR)


@kernel
def _compression(a: Any, b: Any, exponent: np.float32) -> tuple[Any, Any, Any]:
    """Return the power of a + bi, its compressed magnitude, and what to multiply a and b by."""
    power = fma(a, a, fma(b, b, _FLOOR))
    logarithm, half = log(power), _HALF * exponent
    return power, exp(half * logarithm), exp((half - _HALF) * logarithm)


@kernel_noalias
def _compressed_row(
    target_re: Floats,
    target_im: Floats,
    scale: np.float32,
    compression: np.float32,
    re: Floats,
    im: Floats,
    magnitude: Floats,
) -> None:
    """Compress a target's row of F bins, times `scale`, 1 over the mixture's level."""
    for k in range(re.size):
        a, b = target_re[k] * scale, target_im[k] * scale
        _, size, gain = _compression(a, b, compression)
        re[k], im[k], magnitude[k] = a * gain, b * gain, size


@kernel_noalias
def _distance_row(
    re: Floats,
    im: Floats,
    target_re: Floats,
    target_im: Floats,
    target_magnitude: Floats,
    scale: np.float32,
    compression: np.float32,
    weight: np.float32,
    grad_re: Floats,
    grad_im: Floats,
    sums: Floats,
) -> None:
    """Add a row's compressed distances to `sums`, (F,), and write the weighted gradient."""
    slope = weight * scale
    for k in range(re.size):
        a, b = re[k] * scale, im[k] * scale
        power, size, gain = _compression(a, b, compression)
        u, v = fma(a, gain, -target_re[k]), fma(b, gain, -target_im[k])
        w = size - target_magnitude[k]
        sums[k] += _HALF * fma(u, u, fma(v, v, w * w))
        along = (compression - _ONE) * gain * fma(u, a, v * b) + compression * size * w
        along /= power
        grad_re[k] = slope * fma(u, gain, along * a)
        grad_im[k] = slope * fma(v, gain, along * b)


@kernel_noalias
def _error_row(x: Floats, y: Floats, errors: Floats, powers: Floats) -> None:
    for k in range(x.size):
        error = x[k] - y[k]
        errors[k] = fma(error, error, errors[k])
        powers[k] = fma(y[k], y[k], powers[k])


@kernel_noalias
def _add_error_row(x: Floats, y: Floats, weight: np.float32, grad: Floats) -> None:
    for k in range(x.size):
        grad[k] += weight * (x[k] - y[k])


@kernel
def spectral(
    first: Floats,
    final: Floats,
    target: Floats,
    scale: np.float32,
    compression: np.float32,
    weight: np.float32,
    first_weight: np.float32,
    grad_first: Floats,
    grad_final: Floats,
    sums: Floats,
) -> None:
    """Add up the compressed distances of both stages of one example, and write their gradients.

    Args:
        first, final: (T, S, 2, F), the estimates.
        target: (S, T, 2, F), the true spectra.
        scale: 1 over the mixture's level.
        compression: exponent of a compressed magnitude.
        weight, first_weight: of an element's distance, for the gradients.
        grad_first, grad_final: receive the gradients.
        sums: (4, S, F), receive the distances of the final stage and of the first, the first
            stage's squared errors, and the target's power.
    """
    frames, stems, _, bins = first.shape
    row = np.empty((3, bins), np.float32)
    for t in range(frames):
        for s in range(stems):
            _compressed_row(
                target[s, t, 0], target[s, t, 1], scale, compression, row[0], row[1], row[2]
            )
            _distance_row(
                final[t, s, 0], final[t, s, 1], row[0], row[1], row[2], scale, compression,
                weight, grad_final[t, s, 0], grad_final[t, s, 1], sums[0, s],
            )  # fmt: skip
            _distance_row(
                first[t, s, 0], first[t, s, 1], row[0], row[1], row[2], scale, compression,
                first_weight, grad_first[t, s, 0], grad_first[t, s, 1], sums[1, s],
            )  # fmt: skip
            for part in range(2):
                _error_row(first[t, s, part], target[s, t, part], sums[2, s], sums[3, s])


@kernel
def add_errors(first: Floats, target: Floats, weights: Floats, grad: Floats) -> None:
    """Add weights[s] * (first - target) to the gradient of one example's first stage."""
    frames, stems = first.shape[:2]
    for t in range(frames):
        for s in range(stems):
            for part in range(2):
                _add_error_row(first[t, s, part], target[s, t, part], weights[s], grad[t, s, part])


@kernel
def synthesise(
    spec: Floats, stem: int, window: Floats, tables: Floats, work: Floats, out: Floats
) -> None:
    """Turn a stem of (T, S, 2, F) into samples, (T * hop,), as a stream does."""
    frames = len(spec)
    hop = out.size // frames
    overlap = np.zeros(window.size, np.float32)
    for t in range(frames):
        synthesise_hop(
            spec[t, stem, 0], spec[t, stem, 1], overlap, window, tables, work,
            out[t * hop : (t + 1) * hop],
        )  # fmt: skip


@kernel_noalias
def _add_row(x: Floats, weight: np.float32, y: Floats) -> None:
    for k in range(y.size):
        y[k] += weight * x[k]


@kernel
def add_synthesis_back(
    grad: Floats, hop: int, stem: int, window: Floats, tables: Floats, work: Floats, out: Floats
) -> None:
    """Add the gradient of the spectra that `synthesise` turned into samples.

    Args:
        grad: (n_fft - synthesis + T * hop + synthesis - hop,), of the samples, with the zeros
            before and after them that the first and last frame reach into.
        hop: samples between frames.
        stem: which.
        window: (n_fft,), the synthesis window, after zeros if it is shorter.
        tables, work: of the FFT.
        out: (T, S, 2, F), added to.
    """
    frames, _, _, bins = out.shape
    n_fft = window.size
    points, region = n_fft // 2, work.size // 4
    spec = np.empty((2, bins), np.float32)
    inner = np.float32(2.0) / np.float32(n_fft)
    for t in range(frames):
        apply_window(
            grad[t * hop : t * hop + n_fft], window, borrow(work, 0, points),
            borrow(work, region, points),
        )  # fmt: skip
        forward(work, tables, spec[0], spec[1])
        spec[0, 0] *= _HALF
        spec[0, bins - 1] *= _HALF
        for part in range(2):
            _add_row(spec[part], inner, out[t, stem, part])
