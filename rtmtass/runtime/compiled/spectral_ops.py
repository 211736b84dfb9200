"""What a plan does to spectra: hears their level, compresses them, masks them, shares the rest.

Operations of `rtmtass.runtime.compiled.interpreter`, as rows of integers like all others; their
arithmetic is pinned to the network's own, rtmtass.net.layers and rtmtass.net.mtass.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rtmtass.config import LEVEL_HEADROOM
from rtmtass.jit.compiler import LOOSE, kernel
from rtmtass.runtime.compiled.simd import float_of_bits, fma, sigmoid, tanh

Floats = NDArray[np.float32]
Longs = NDArray[np.int64]

MASK, MAGNITUDE, MAPPING = range(3)
"""What a head's answer is."""

LEVEL_FLOOR = np.float32(1e-9)
HEADROOM = np.float32(LEVEL_HEADROOM)
SHARE_FLOOR = np.float32(1e-4)
SQUARE_TINY = np.float32(1e-34)
TINY = np.float32(1e-20)
COMPRESS_FLOOR = np.float32(1e-12)
_ZERO = np.float32(0.0)
_ONE = np.float32(1.0)


@kernel(fastmath=LOOSE)
def largest(powers: Floats, rank: int) -> np.float32:
    """Return the `rank`-th largest of powers, (n,), none of them negative.

    Bit by bit, the highest first: floats that aren't negative are in the order of their
    bits. It takes the same time whatever the powers are, a microsecond for 125 of them.
    """
    bits = 0
    for place in range(30, -1, -1):
        tried = bits | (1 << place)
        least = float_of_bits(tried)  # beyond infinity it is no number, and nothing reaches it
        count = 0
        for i in range(powers.size):
            count += powers[i] >= least
        if count >= rank:
            bits = tried
    found: np.float32 = float_of_bits(bits)
    return found


@kernel(fastmath=LOOSE)
def level(
    op: Longs,
    weights: Floats,
    state: Floats,
    work: Floats,
    clock: int,
    frames: int,
    stream_stride: int,
) -> None:
    """The running level of the mixture: a fading mean of power, as a root.

    With a window, of power that pops don't move; see net.layers.RunningLevel. A stream's
    state: both sums; with a window also what is left of a pop, and a ring of powers.
    """
    source, stride, bins, imag_offset, target, memory = op[1], op[2], op[3], op[4], op[5], op[6]
    decay, fall = weights[op[7]], weights[op[7] + 1]
    by_power, window, rank = op[8], op[9], op[10]
    passes = 0 if stream_stride else 1
    for t in range(frames):
        re = work[source + t * stride : source + t * stride + bins]
        im = work[source + t * stride + imag_offset : source + t * stride + imag_offset + bins]
        power = _ZERO
        for k in range(bins):
            power += re[k] * re[k] + im[k] * im[k]
        power = power / np.float32(bins)
        at = memory + t * stream_stride
        pop = _ZERO
        if window:
            ring = at + 3
            state[ring + (clock + t * passes) % window] = power
            pop = max(fall * state[at + 2], power, TINY)
            state[at + 2] = pop
            power = min(power, HEADROOM * largest(state[ring : ring + window], rank))
        weight = power if by_power else _ONE
        # Silence must not let the sums fade into the denormals.
        state[at] = max(fma(weight, power, decay * state[at]), SQUARE_TINY)
        state[at + 1] = max(fma(decay, state[at + 1], weight), TINY)
        mean = state[at] / state[at + 1]
        work[target + t] = np.sqrt(max(mean, pop / HEADROOM) + LEVEL_FLOOR)


@kernel(fastmath=LOOSE)
def compress(op: Longs, work: Floats, frames: int) -> None:
    """Spectrum over level with square-rooted magnitude; see net.layers.compress."""
    source, stride, bins, imag_offset, level, target, out_stride, parts = (
        op[1], op[2], op[3], op[4], op[5], op[6], op[7], op[8],
    )  # fmt: skip
    for t in range(frames):
        re = work[source + t * stride : source + t * stride + bins]
        im = work[source + t * stride + imag_offset : source + t * stride + imag_offset + bins]
        out = work[target + t * out_stride : target + t * out_stride + parts * bins]
        scale = _ONE / work[level + t]
        for k in range(bins):
            a = re[k] * scale
            b = im[k] * scale
            magnitude = np.sqrt(np.sqrt(a * a + b * b + COMPRESS_FLOOR))
            if parts == 1:
                out[k] = magnitude
            else:
                out[k] = a / magnitude
                out[bins + k] = b / magnitude
                if parts == 3:
                    out[2 * bins + k] = magnitude


@kernel(fastmath=LOOSE)
def estimate(op: Longs, weights: Floats, work: Floats, frames: int) -> None:
    """Turn a head's answer into a spectrum: a mask on what it heard, or the thing itself."""
    answer, stride, bins, source, in_stride, imag_offset, level, target, out_stride, packed = (
        op[1], op[2], op[3], op[4], op[5], op[6], op[7], op[8], op[9], op[10],
    )  # fmt: skip
    target_kind, adds = packed // 2, packed % 2
    limit = weights[op[11]]
    for t in range(frames):
        a = work[answer + t * stride : answer + t * stride + bins]
        re = work[source + t * in_stride : source + t * in_stride + bins]
        im = work[
            source + t * in_stride + imag_offset : source + t * in_stride + imag_offset + bins
        ]
        to = target + t * out_stride
        out_re = work[to : to + bins]
        out_im = work[to + imag_offset : to + imag_offset + bins]
        if not adds:
            for k in range(bins):
                out_re[k] = _ZERO
                out_im[k] = _ZERO
        if target_kind == MAGNITUDE:
            for k in range(bins):
                gain = sigmoid(a[k])
                out_re[k] += gain * re[k]
                out_im[k] += gain * im[k]
            continue
        b = work[answer + t * stride + bins : answer + t * stride + 2 * bins]
        if target_kind == MAPPING:
            loud = work[level + t]
            for k in range(bins):
                magnitude = np.sqrt(a[k] * a[k] + b[k] * b[k] + COMPRESS_FLOOR) * loud
                out_re[k] += a[k] * magnitude
                out_im[k] += b[k] * magnitude
        else:
            for k in range(bins):
                mask_re = limit * tanh(a[k] / limit)
                mask_im = limit * tanh(b[k] / limit)
                out_re[k] += mask_re * re[k] - mask_im * im[k]
                out_im[k] += mask_re * im[k] + mask_im * re[k]


@kernel(fastmath=LOOSE)
def share(op: Longs, work: Floats, frames: int) -> None:
    """Make the stems sum to the mixture; see net.mtass.mixture_consistency."""
    source, stride, bins, imag_offset, stems_at, stems_stride, n_stems = (
        op[1], op[2], op[3], op[4], op[5], op[6], op[7],
    )  # fmt: skip
    for t in range(frames):
        re = work[source + t * stride : source + t * stride + bins]
        im = work[source + t * stride + imag_offset : source + t * stride + imag_offset + bins]
        first = stems_at + t * stems_stride
        for k in range(bins):
            left_re = re[k]
            left_im = im[k]
            floor = SHARE_FLOOR * (left_re * left_re + left_im * left_im) + TINY
            total = _ZERO
            for s in range(n_stems):
                a = work[first + 2 * s * imag_offset + k]
                b = work[first + (2 * s + 1) * imag_offset + k]
                left_re -= a
                left_im -= b
                total += a * a + b * b + floor
            scale = _ONE / total
            for s in range(n_stems):
                at = first + 2 * s * imag_offset + k
                a = work[at]
                b = work[at + imag_offset]
                portion = (a * a + b * b + floor) * scale
                work[at] = a + portion * left_re
                work[at + imag_offset] = b + portion * left_im
