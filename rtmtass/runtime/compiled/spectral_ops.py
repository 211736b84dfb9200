"""Instructions on spectra: running level, compression, masking, mixture consistency and expander.

Called by `rtmtass.runtime.compiled.interpreter`. Tests pin their arithmetic to the
network's own, rtmtass.net.layers, rtmtass.net.separation and rtmtass.net.expander.
"""

from __future__ import annotations

import numpy as np

from rtmtass.config import LEVEL_HEADROOM, TARGETS
from rtmtass.jit.compiler import kernel
from rtmtass.jit.simd import dot, float_of_bits, fma, sigmoid, tanh
from rtmtass.net.constants import (
    COMPRESS_FLOOR,
    CONSISTENCY_FLOOR,
    CONSISTENCY_TINY,
    EXPANDER_TINY,
    LEVEL_FLOOR,
    LEVEL_SQUARE_TINY,
    LEVEL_TINY,
)
from rtmtass.runtime.compiled.program import (
    COMPRESS,
    ESTIMATE,
    EXPANDER,
    LEVEL,
    MIXTURE_CONSISTENCY,
)
from rtmtass.types import Floats, Longs

MAGNITUDE = TARGETS.index("magnitude_mask")
MAPPING = TARGETS.index("spectral_mapping")

# As float32, or numba would compute in double precision.
_HEADROOM = np.float32(LEVEL_HEADROOM)
_LEVEL_FLOOR = np.float32(LEVEL_FLOOR)
_LEVEL_TINY = np.float32(LEVEL_TINY)
_LEVEL_SQUARE_TINY = np.float32(LEVEL_SQUARE_TINY)
_COMPRESS_FLOOR = np.float32(COMPRESS_FLOOR)
_CONSISTENCY_FLOOR = np.float32(CONSISTENCY_FLOOR)
_CONSISTENCY_TINY = np.float32(CONSISTENCY_TINY)
_EXPANDER_TINY = np.float32(EXPANDER_TINY)
_ZERO = np.float32(0.0)
_ONE = np.float32(1.0)


@kernel
def largest(powers: Floats, rank: int) -> np.float32:
    """Return the `rank`-th largest of powers, (n,), all of them >= 0.

    A binary search over the bits, highest first: non-negative floats sort like their
    bits. Its time doesn't depend on the powers: a microsecond for 125 of them.
    """
    bits = 0
    for place in range(30, -1, -1):
        candidate = bits | (1 << place)
        threshold = float_of_bits(candidate)  # above infinity this is NaN, which nothing reaches
        count = 0
        for i in range(powers.size):
            count += powers[i] >= threshold
        if count >= rank:
            bits = candidate
    value: np.float32 = float_of_bits(bits)
    return value


@kernel
def level(
    op: Longs,
    weights: Floats,
    state: Floats,
    work: Floats,
    clock: int,
    frames: int,
    stream_stride: int,
) -> None:
    """Running level of the mixture; see net.layers.RunningLevel.

    State of a stream: the two sums; with a window also the decaying power of the last
    pop, and a ring of powers.
    """
    x, x_stride, bins = op[LEVEL.x], op[LEVEL.x_stride], op[LEVEL.bins]
    imag_offset = op[LEVEL.imag_offset]
    decay, fall = weights[op[LEVEL.constants]], weights[op[LEVEL.constants] + 1]
    by_power, window, rank = op[LEVEL.by_power], op[LEVEL.window], op[LEVEL.rank]
    step = 0 if stream_stride else 1
    for t in range(frames):
        re = work[x + t * x_stride : x + t * x_stride + bins]
        im = work[x + t * x_stride + imag_offset : x + t * x_stride + imag_offset + bins]
        power = (dot(re, re) + dot(im, im)) / np.float32(bins)
        at = op[LEVEL.state] + t * stream_stride
        pop = _ZERO
        if window:
            ring = at + 3
            state[ring + (clock + t * step) % window] = power
            pop = max(fall * state[at + 2], power, _LEVEL_TINY)
            state[at + 2] = pop
            power = min(power, _HEADROOM * largest(state[ring : ring + window], rank))
        weight = power if by_power else _ONE
        # In silence the sums must not decay into the denormals.
        state[at] = max(fma(weight, power, decay * state[at]), _LEVEL_SQUARE_TINY)
        state[at + 1] = max(fma(decay, state[at + 1], weight), _LEVEL_TINY)
        mean = state[at] / state[at + 1]
        work[op[LEVEL.level] + t] = np.sqrt(max(mean, pop / _HEADROOM) + _LEVEL_FLOOR)


@kernel
def compress(op: Longs, work: Floats, frames: int) -> None:
    """Spectrum over level with square-rooted magnitude; see net.layers.compress."""
    x, x_stride, bins = op[COMPRESS.x], op[COMPRESS.x_stride], op[COMPRESS.bins]
    imag_offset, parts = op[COMPRESS.imag_offset], op[COMPRESS.parts]
    y, y_stride = op[COMPRESS.y], op[COMPRESS.y_stride]
    for t in range(frames):
        re = work[x + t * x_stride : x + t * x_stride + bins]
        im = work[x + t * x_stride + imag_offset : x + t * x_stride + imag_offset + bins]
        out = work[y + t * y_stride : y + t * y_stride + parts * bins]
        scale = _ONE / work[op[COMPRESS.level] + t]
        for k in range(bins):
            a = re[k] * scale
            b = im[k] * scale
            magnitude = np.sqrt(np.sqrt(fma(a, a, fma(b, b, _COMPRESS_FLOOR))))
            if parts == 1:
                out[k] = magnitude
            else:
                inverse = _ONE / magnitude
                out[k] = a * inverse
                out[bins + k] = b * inverse
                if parts == 3:
                    out[2 * bins + k] = magnitude


@kernel
def estimate(op: Longs, weights: Floats, work: Floats, frames: int) -> None:
    """Turn a head's output into a spectrum: a mask on x, or the stem's spectrum itself."""
    head, head_stride, bins = op[ESTIMATE.head], op[ESTIMATE.head_stride], op[ESTIMATE.bins]
    x, x_stride, imag_offset = op[ESTIMATE.x], op[ESTIMATE.x_stride], op[ESTIMATE.imag_offset]
    y, y_stride = op[ESTIMATE.y], op[ESTIMATE.y_stride]
    target, limit = op[ESTIMATE.target], weights[op[ESTIMATE.limit]]
    for t in range(frames):
        a = work[head + t * head_stride : head + t * head_stride + bins]
        re = work[x + t * x_stride : x + t * x_stride + bins]
        im = work[x + t * x_stride + imag_offset : x + t * x_stride + imag_offset + bins]
        to = y + t * y_stride
        out_re = work[to : to + bins]
        out_im = work[to + imag_offset : to + imag_offset + bins]
        if not op[ESTIMATE.adds]:
            for k in range(bins):
                out_re[k] = _ZERO
                out_im[k] = _ZERO
        if target == MAGNITUDE:
            for k in range(bins):
                gain = sigmoid(a[k])
                out_re[k] = fma(gain, re[k], out_re[k])
                out_im[k] = fma(gain, im[k], out_im[k])
            continue
        b = work[head + t * head_stride + bins : head + t * head_stride + 2 * bins]
        if target == MAPPING:
            level = work[op[ESTIMATE.level] + t]
            for k in range(bins):
                magnitude = np.sqrt(fma(a[k], a[k], fma(b[k], b[k], _COMPRESS_FLOOR))) * level
                out_re[k] = fma(a[k], magnitude, out_re[k])
                out_im[k] = fma(b[k], magnitude, out_im[k])
        else:
            inverse = _ONE / limit
            for k in range(bins):
                mask_re = limit * tanh(a[k] * inverse)
                mask_im = limit * tanh(b[k] * inverse)
                out_re[k] = fma(mask_re, re[k], fma(-mask_im, im[k], out_re[k]))
                out_im[k] = fma(mask_re, im[k], fma(mask_im, re[k], out_im[k]))


@kernel
def mixture_consistency(op: Longs, work: Floats, frames: int) -> None:
    """Make the stems sum to the mixture; see net.separation.mixture_consistency."""
    x, x_stride = op[MIXTURE_CONSISTENCY.x], op[MIXTURE_CONSISTENCY.x_stride]
    stems, stems_stride = op[MIXTURE_CONSISTENCY.stems], op[MIXTURE_CONSISTENCY.stems_stride]
    bins, imag_offset = op[MIXTURE_CONSISTENCY.bins], op[MIXTURE_CONSISTENCY.imag_offset]
    n_stems = op[MIXTURE_CONSISTENCY.n_stems]
    for t in range(frames):
        re = work[x + t * x_stride : x + t * x_stride + bins]
        im = work[x + t * x_stride + imag_offset : x + t * x_stride + imag_offset + bins]
        first = stems + t * stems_stride
        for k in range(bins):
            residual_re = re[k]
            residual_im = im[k]
            power = fma(residual_re, residual_re, residual_im * residual_im)
            floor = fma(_CONSISTENCY_FLOOR, power, _CONSISTENCY_TINY)
            total = _ZERO
            for s in range(n_stems):
                a = work[first + 2 * s * imag_offset + k]
                b = work[first + (2 * s + 1) * imag_offset + k]
                residual_re -= a
                residual_im -= b
                total += fma(a, a, fma(b, b, floor))
            scale = _ONE / total
            for s in range(n_stems):
                at = first + 2 * s * imag_offset + k
                a = work[at]
                b = work[at + imag_offset]
                fraction = fma(a, a, fma(b, b, floor)) * scale
                work[at] = fma(fraction, residual_re, a)
                work[at + imag_offset] = fma(fraction, residual_im, b)


@kernel
def _power(work: Floats, at: int, bins: int, imag_offset: int) -> np.float32:
    """Return the power of a spectrum, summed over its bins."""
    re = work[at : at + bins]
    im = work[at + imag_offset : at + imag_offset + bins]
    power: np.float32 = dot(re, re) + dot(im, im)
    return power


@kernel
def expander(
    op: Longs, weights: Floats, state: Floats, work: Floats, frames: int, stream_stride: int
) -> None:
    """Lower stems whose share of the mixture's power is small; see net.expander.StemExpander.

    State of a stream: the short sums of the stems' powers and of the mixture's, then the long.
    """
    bins, imag_offset = op[EXPANDER.bins], op[EXPANDER.imag_offset]
    n_stems, gains = op[EXPANDER.n_stems], op[EXPANDER.gains]
    n_sums, constants = n_stems + 1, op[EXPANDER.constants]
    short_decay, long_decay = weights[constants], weights[constants + 1]
    threshold = weights[constants + 2]
    for t in range(frames):
        first = op[EXPANDER.stems] + t * op[EXPANDER.stems_stride]
        short = op[EXPANDER.state] + t * stream_stride
        long = short + n_sums
        for s in range(n_sums):
            at = first + 2 * s * imag_offset
            if s == n_stems:
                at = op[EXPANDER.x] + t * op[EXPANDER.x_stride]
            power = _power(work, at, bins, imag_offset)
            state[short + s] = max(fma(short_decay, state[short + s], power), _EXPANDER_TINY)
            state[long + s] = max(fma(long_decay, state[long + s], power), _EXPANDER_TINY)
        lowest, left = _ONE, _ZERO
        for s in range(n_stems):
            share = max(
                state[short + s] / state[short + n_stems], state[long + s] / state[long + n_stems]
            )
            root = min(_ONE, np.sqrt(share / threshold))
            gain = root
            for _ in range(op[EXPANDER.steeper]):
                gain *= root
            weight = gain * gain * state[short + s]
            work[gains + s] = gain
            work[gains + n_stems + s] = weight
            lowest = min(lowest, gain)
            left += weight
        if lowest == _ONE:
            continue
        for s in range(n_stems):
            work[gains + n_stems + s] /= left
        for part in range(2):
            base = first + part * imag_offset
            for k in range(bins):
                removed = _ZERO
                for s in range(n_stems):
                    value = work[base + 2 * s * imag_offset + k]
                    removed += (_ONE - work[gains + s]) * value
                for s in range(n_stems):
                    at = base + 2 * s * imag_offset + k
                    kept = work[gains + s] * work[at]
                    work[at] = fma(work[gains + n_stems + s], removed, kept)
