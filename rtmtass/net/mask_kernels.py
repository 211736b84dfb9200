"""Complex masks of both stages and the way back through them, for training on a CPU.

One pass over the spectra each, where torch makes dozens. They're the twins of
`net.separation`'s functions and of `net.layers.compress`, and tests pin them to those.
"""

from __future__ import annotations

import numpy as np

from rtmtass.jit.compiler import kernel, kernel_noalias
from rtmtass.jit.simd import fma, tanh
from rtmtass.net.constants import COMPRESS_FLOOR, CONSISTENCY_FLOOR, CONSISTENCY_TINY
from rtmtass.types import Floats

_ONE, _HALF, _ZERO = np.float32(1.0), np.float32(0.5), np.float32(0.0)
_COMPRESS_FLOOR = np.float32(COMPRESS_FLOOR)
_FLOOR, _TINY = np.float32(CONSISTENCY_FLOOR), np.float32(CONSISTENCY_TINY)


@kernel_noalias
def _masked(
    a: Floats, b: Floats, limit: np.float32, re: Floats, im: Floats, out_re: Floats, out_im: Floats
) -> None:
    """Write limit * tanh((a, b) / limit) times (re, im)."""
    inverse = _ONE / limit
    for k in range(a.size):
        mask_re, mask_im = limit * tanh(a[k] * inverse), limit * tanh(b[k] * inverse)
        out_re[k] = fma(mask_re, re[k], -mask_im * im[k])
        out_im[k] = fma(mask_re, im[k], mask_im * re[k])


@kernel_noalias
def _masked_back(
    a: Floats,
    b: Floats,
    limit: np.float32,
    re: Floats,
    im: Floats,
    grad_re: Floats,
    grad_im: Floats,
    grad_a: Floats,
    grad_b: Floats,
) -> None:
    inverse = _ONE / limit
    for k in range(a.size):
        bent_re, bent_im = tanh(a[k] * inverse), tanh(b[k] * inverse)
        to_re = fma(grad_re[k], re[k], grad_im[k] * im[k])
        to_im = fma(grad_im[k], re[k], -grad_re[k] * im[k])
        grad_a[k] = to_re - to_re * bent_re * bent_re
        grad_b[k] = to_im - to_im * bent_im * bent_im


@kernel_noalias
def _source_back(
    a: Floats,
    b: Floats,
    limit: np.float32,
    grad_re: Floats,
    grad_im: Floats,
    out_re: Floats,
    out_im: Floats,
) -> None:
    """Subtract the gradient of a masked residual from that of the estimate it lacks."""
    inverse = _ONE / limit
    for k in range(a.size):
        mask_re, mask_im = limit * tanh(a[k] * inverse), limit * tanh(b[k] * inverse)
        out_re[k] = grad_re[k] - fma(mask_re, grad_re[k], mask_im * grad_im[k])
        out_im[k] = grad_im[k] - fma(mask_re, grad_im[k], -mask_im * grad_re[k])


@kernel_noalias
def _compressed(
    mix_re: Floats,
    mix_im: Floats,
    re: Floats,
    im: Floats,
    scale: np.float32,
    out_re: Floats,
    out_im: Floats,
    out_magnitude: Floats,
) -> None:
    """Compress what an estimate leaves of the mixture, times `scale`, 1 over the level."""
    for k in range(re.size):
        x, y = (mix_re[k] - re[k]) * scale, (mix_im[k] - im[k]) * scale
        magnitude = np.sqrt(np.sqrt(fma(x, x, fma(y, y, _COMPRESS_FLOOR))))
        inverse = _ONE / magnitude
        out_re[k], out_im[k], out_magnitude[k] = x * inverse, y * inverse, magnitude


@kernel_noalias
def _compressed_back(
    compressed_re: Floats,
    compressed_im: Floats,
    magnitude: Floats,
    scale: np.float32,
    to_re: Floats,
    to_im: Floats,
    to_magnitude: Floats,
    grad_re: Floats,
    grad_im: Floats,
) -> None:
    """Subtract the residual's gradient from that of the estimate, (grad_re, grad_im)."""
    for k in range(magnitude.size):
        inverse = scale / magnitude[k]
        a, b = compressed_re[k], compressed_im[k]
        # With the magnitude m = |x|^(1/2) of x = (a, b) m: dm/dx = (a, b) / (2 m^2).
        along = to_magnitude[k] * magnitude[k] - fma(to_re[k], a, to_im[k] * b)
        along *= _HALF / (magnitude[k] * magnitude[k])
        grad_re[k] -= inverse * fma(along, a, to_re[k])
        grad_im[k] -= inverse * fma(along, b, to_im[k])


@kernel
def first_stage(
    heads: Floats,
    mixture: Floats,
    level: Floats,
    limit: np.float32,
    stems: Floats,
    planes: Floats,
) -> None:
    """Mask the mixture, and compress what each stem leaves of it.

    Args:
        heads: (R, S, 2, F), the heads' outputs.
        mixture: (R, 2, F).
        level: (R,).
        limit: of the mask's parts.
        stems: (R, S, 2, F), receives the estimates.
        planes: (R, S, 3, F), receives the compressed residuals.
    """
    rows, n_stems = heads.shape[:2]
    for r in range(rows):
        re, im, scale = mixture[r, 0], mixture[r, 1], _ONE / level[r]
        for s in range(n_stems):
            out = stems[r, s]
            _masked(heads[r, s, 0], heads[r, s, 1], limit, re, im, out[0], out[1])
            rest = planes[r, s]
            _compressed(re, im, out[0], out[1], scale, rest[0], rest[1], rest[2])


@kernel
def first_stage_back(
    heads: Floats,
    mixture: Floats,
    level: Floats,
    limit: np.float32,
    planes: Floats,
    to_stems: Floats,
    to_planes: Floats,
    grad: Floats,
) -> None:
    """Write the heads' gradient from those of `first_stage`'s results; shapes as there."""
    rows, n_stems, _, bins = heads.shape
    total = np.empty((2, bins), np.float32)
    for r in range(rows):
        re, im, scale = mixture[r, 0], mixture[r, 1], _ONE / level[r]
        for s in range(n_stems):
            total[:] = to_stems[r, s]
            rest, to = planes[r, s], to_planes[r, s]
            _compressed_back(
                rest[0], rest[1], rest[2], scale, to[0], to[1], to[2], total[0], total[1]
            )
            _masked_back(
                heads[r, s, 0], heads[r, s, 1], limit, re, im, total[0], total[1],
                grad[r, s, 0], grad[r, s, 1],
            )  # fmt: skip


@kernel_noalias
def _difference(x: Floats, y: Floats, out: Floats) -> None:
    for k in range(out.size):
        out[k] = x[k] - y[k]


@kernel_noalias
def _floors(re: Floats, im: Floats, floor: Floats, total: Floats) -> None:
    for k in range(re.size):
        floor[k] = fma(_FLOOR, fma(re[k], re[k], im[k] * im[k]), _TINY)
        total[k] = _ZERO


@kernel_noalias
def _corrected(
    first_re: Floats,
    first_im: Floats,
    re: Floats,
    im: Floats,
    rest_re: Floats,
    rest_im: Floats,
    floor: Floats,
    power: Floats,
    total: Floats,
) -> None:
    """Add stage 1's estimate to its correction (re, im), and what it takes of the mixture."""
    for k in range(re.size):
        x, y = first_re[k] + re[k], first_im[k] + im[k]
        re[k], im[k] = x, y
        rest_re[k] -= x
        rest_im[k] -= y
        power[k] = fma(x, x, fma(y, y, floor[k]))
        total[k] += power[k]


@kernel_noalias
def _filled_up(
    power: Floats, total: Floats, rest_re: Floats, rest_im: Floats, re: Floats, im: Floats
) -> None:
    for k in range(re.size):
        share = power[k] / total[k]
        re[k] = fma(share, rest_re[k], re[k])
        im[k] = fma(share, rest_im[k], im[k])


@kernel
def _corrections(
    heads: Floats,
    first: Floats,
    mixture: Floats,
    limit: np.float32,
    residual: Floats,
    stems: Floats,
    rest: Floats,
    floor: Floats,
    powers: Floats,
    total: Floats,
) -> None:
    """Correct a frame's estimates; leave what the mixture has beyond them in `rest`."""
    _floors(mixture[0], mixture[1], floor, total)
    rest[:] = mixture
    for s in range(len(heads)):
        for part in range(2):
            _difference(mixture[part], first[s, part], residual[part])
        _masked(heads[s, 0], heads[s, 1], limit, residual[0], residual[1], stems[s, 0], stems[s, 1])
        _corrected(
            first[s, 0], first[s, 1], stems[s, 0], stems[s, 1], rest[0], rest[1], floor,
            powers[s], total,
        )  # fmt: skip


@kernel
def second_stage(
    heads: Floats, first: Floats, mixture: Floats, limit: np.float32, stems: Floats
) -> None:
    """Add masked residuals to stage 1's estimates, and make the stems sum to the mixture.

    Args:
        heads: (R, S, 2, F), the heads' outputs.
        first: (R, S, 2, F), stage 1's estimates.
        mixture: (R, 2, F).
        limit: of the mask's parts.
        stems: (R, S, 2, F), receives the stems.
    """
    rows, n_stems, _, bins = heads.shape
    residual, rest = np.empty((2, bins), np.float32), np.empty((2, bins), np.float32)
    floor, total = np.empty(bins, np.float32), np.empty(bins, np.float32)
    powers = np.empty((n_stems, bins), np.float32)
    for r in range(rows):
        out = stems[r]
        _corrections(
            heads[r], first[r], mixture[r], limit, residual, out, rest, floor, powers, total
        )
        for s in range(n_stems):
            _filled_up(powers[s], total, rest[0], rest[1], out[s, 0], out[s, 1])


@kernel_noalias
def _shares_back(
    power: Floats,
    total: Floats,
    rest_re: Floats,
    rest_im: Floats,
    to_re: Floats,
    to_im: Floats,
    to_share: Floats,
    to_rest_re: Floats,
    to_rest_im: Floats,
    mean: Floats,
) -> None:
    """Backpropagate a stem's share of the rest: to the share, the rest, and the shares' mean."""
    for k in range(power.size):
        share = power[k] / total[k]
        slope = fma(to_re[k], rest_re[k], to_im[k] * rest_im[k])
        to_share[k] = slope
        mean[k] = fma(share, slope, mean[k])
        to_rest_re[k] = fma(share, to_re[k], to_rest_re[k])
        to_rest_im[k] = fma(share, to_im[k], to_rest_im[k])


@kernel_noalias
def _stem_back(
    re: Floats,
    im: Floats,
    total: Floats,
    to_re: Floats,
    to_im: Floats,
    to_share: Floats,
    mean: Floats,
    to_rest_re: Floats,
    to_rest_im: Floats,
    out_re: Floats,
    out_im: Floats,
) -> None:
    for k in range(re.size):
        slope = np.float32(2.0) * (to_share[k] - mean[k]) / total[k]
        out_re[k] = fma(slope, re[k], to_re[k] - to_rest_re[k])
        out_im[k] = fma(slope, im[k], to_im[k] - to_rest_im[k])


@kernel
def second_stage_back(
    heads: Floats,
    first: Floats,
    mixture: Floats,
    limit: np.float32,
    to_stems: Floats,
    grad_heads: Floats,
    grad_first: Floats,
) -> None:
    """Write the gradients of the heads and of stage 1's estimates; shapes as in `second_stage`."""
    rows, n_stems, _, bins = heads.shape
    residual, rest = np.empty((2, bins), np.float32), np.empty((2, bins), np.float32)
    floor, total = np.empty(bins, np.float32), np.empty(bins, np.float32)
    powers, to_shares = np.empty((2, n_stems, bins), np.float32)
    stems = np.empty((n_stems, 2, bins), np.float32)
    to_rest, to_stem = np.empty((2, bins), np.float32), np.empty((2, bins), np.float32)
    mean = np.empty(bins, np.float32)
    for r in range(rows):
        _corrections(
            heads[r], first[r], mixture[r], limit, residual, stems, rest, floor, powers, total
        )
        to_rest[:] = _ZERO
        mean[:] = _ZERO
        for s in range(n_stems):
            to = to_stems[r, s]
            _shares_back(
                powers[s], total, rest[0], rest[1], to[0], to[1], to_shares[s], to_rest[0],
                to_rest[1], mean,
            )  # fmt: skip
        for s in range(n_stems):
            to, out, head = to_stems[r, s], grad_first[r, s], heads[r, s]
            _stem_back(
                stems[s, 0], stems[s, 1], total, to[0], to[1], to_shares[s], mean, to_rest[0],
                to_rest[1], to_stem[0], to_stem[1],
            )  # fmt: skip
            for part in range(2):
                _difference(mixture[r, part], first[r, s, part], residual[part])
            _masked_back(
                head[0], head[1], limit, residual[0], residual[1], to_stem[0], to_stem[1],
                grad_heads[r, s, 0], grad_heads[r, s, 1],
            )  # fmt: skip
            _source_back(head[0], head[1], limit, to_stem[0], to_stem[1], out[0], out[1])
