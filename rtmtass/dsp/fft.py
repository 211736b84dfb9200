"""A real FFT for compiled code that allocates nothing; numba has none.

Signals are split into arrays of real and of imaginary parts, so that one vector
instruction works on many bins. A real transform of n_fft samples is a
complex one of n_fft / 2 points over the even and odd samples, plus a split.
The complex one is Stockham's: natural order in and out, radix 4, with one
radix-2 stage at the end where the length is not a power of four.

Source: C. Van Loan, Computational Frameworks for the Fast Fourier Transform,
SIAM 1992, sections 1.7 (Stockham) and 4.3 (real data).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rtmtass.jit.compiler import borrow, kernel, kernel_noalias
from rtmtass.jit.simd import complex_product, fma
from rtmtass.types import Floats

Pair = tuple[Floats, Floats]

_GRAIN = np.float32(2.0**-33)
"""Adding and subtracting this rounds to multiples of 2**-56, -337 dB of full scale.

The result is zero, or its square is a normal number: denormals are a hundred times slower.
Compare and select would take three times as long.
"""

_PAD = 16
"""Floats after each region: space for one more, and the next region stays aligned."""

_HALF = np.float32(0.5)
_ZERO = np.float32(0.0)


def work_size(n_fft: int) -> int:
    """Floats of scratch space for one transform of `n_fft` samples: four padded regions."""
    return 4 * (n_fft // 2 + _PAD)


def fft_tables(n_fft: int) -> Floats:
    """Return the constants of a transform, packed for the kernels of this module.

    Args:
        n_fft: samples, a power of two from 8 up.

    Returns:
        1-D float32: cosines, then minus sines of the split (n_fft / 4 each),
        then per radix-4 stage w, w**2, w**3, real before imaginary parts.
    """
    points = n_fft // 2
    k = np.arange(points // 2)
    parts = [np.exp(-1j * np.pi * k / points)]
    n = points
    while n > 4:
        p = np.arange(n // 4)
        parts += [np.exp(-2j * np.pi * power * p / n) for power in (1, 2, 3)]
        n //= 4
    packed = np.concatenate([half for part in parts for half in (part.real, part.imag)])
    # cos(pi/2) comes out as 6e-17, and products with it could become denormal.
    packed[np.abs(packed) < 1e-12] = 0.0
    return packed.astype(np.float32)


# The stages take input and output as separate arrays, or the compiler wouldn't vectorise.


@kernel
def _quarters(x: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    # Indices that are provably non-negative: numba wraps others, which prevents vectorising.
    n = x.size // 4
    return borrow(x, 0, n), borrow(x, n, n), borrow(x, 2 * n, n), borrow(x, 3 * n, n)


@kernel_noalias
def _first_stage(xr: Floats, xi: Floats, yr: Floats, yi: Floats, w: Floats) -> None:
    # Neighbouring butterflies, neighbouring twiddles; results interleave by four.
    m = xr.size // 4
    x0r, x1r, x2r, x3r = _quarters(xr)
    x0i, x1i, x2i, x3i = _quarters(xi)
    w1r, w1i, w2r = borrow(w, 0, m), borrow(w, m, m), borrow(w, 2 * m, m)
    w2i, w3r, w3i = borrow(w, 3 * m, m), borrow(w, 4 * m, m), borrow(w, 5 * m, m)
    for p in range(m):
        sr, si, tr, ti = x0r[p] + x2r[p], x0i[p] + x2i[p], x0r[p] - x2r[p], x0i[p] - x2i[p]
        ur, ui, vr, vi = x1r[p] + x3r[p], x1i[p] + x3i[p], x1r[p] - x3r[p], x1i[p] - x3i[p]
        yr[4 * p], yi[4 * p] = sr + ur, si + ui
        er, ei = tr + vi, ti - vr
        yr[4 * p + 1], yi[4 * p + 1] = complex_product(er, ei, w1r[p], w1i[p])
        er, ei = sr - ur, si - ui
        yr[4 * p + 2], yi[4 * p + 2] = complex_product(er, ei, w2r[p], w2i[p])
        er, ei = tr - vi, ti + vr
        yr[4 * p + 3], yi[4 * p + 3] = complex_product(er, ei, w3r[p], w3i[p])


@kernel_noalias
def _second_stage(xr: Floats, xi: Floats, yr: Floats, yi: Floats, w: Floats, four: int) -> None:
    # As _middle_stage for stride 4. A literal 4 would be unrolled, a variable assumed large;
    # their minimum becomes one vector of four.
    m = xr.size // 16
    x0r, x1r, x2r, x3r = _quarters(xr)
    x0i, x1i, x2i, x3i = _quarters(xi)
    for p in range(m):
        w1r, w1i, w2r = w[p], w[p + m], w[p + 2 * m]
        w2i, w3r, w3i = w[p + 3 * m], w[p + 4 * m], w[p + 5 * m]
        for q in range(min(four, 4)):
            i = 4 * p + q
            o = 16 * p + q
            sr, si, tr, ti = x0r[i] + x2r[i], x0i[i] + x2i[i], x0r[i] - x2r[i], x0i[i] - x2i[i]
            ur, ui, vr, vi = x1r[i] + x3r[i], x1i[i] + x3i[i], x1r[i] - x3r[i], x1i[i] - x3i[i]
            yr[o], yi[o] = sr + ur, si + ui
            er, ei = tr + vi, ti - vr
            yr[o + 4], yi[o + 4] = complex_product(er, ei, w1r, w1i)
            er, ei = sr - ur, si - ui
            yr[o + 8], yi[o + 8] = complex_product(er, ei, w2r, w2i)
            er, ei = tr - vi, ti + vr
            yr[o + 12], yi[o + 12] = complex_product(er, ei, w3r, w3i)


@kernel_noalias
def _middle_stage(xr: Floats, xi: Floats, yr: Floats, yi: Floats, w: Floats, stride: int) -> None:
    # Neighbouring butterflies share their twiddles.
    m = xr.size // (4 * stride)
    x0r, x1r, x2r, x3r = _quarters(xr)
    x0i, x1i, x2i, x3i = _quarters(xi)
    for p in range(m):
        w1r, w1i, w2r = w[p], w[p + m], w[p + 2 * m]
        w2i, w3r, w3i = w[p + 3 * m], w[p + 4 * m], w[p + 5 * m]
        y0r, y1r, y2r, y3r = _quarters(borrow(yr, 4 * stride * p, 4 * stride))
        y0i, y1i, y2i, y3i = _quarters(borrow(yi, 4 * stride * p, 4 * stride))
        for q in range(stride):
            i = stride * p + q
            sr, si, tr, ti = x0r[i] + x2r[i], x0i[i] + x2i[i], x0r[i] - x2r[i], x0i[i] - x2i[i]
            ur, ui, vr, vi = x1r[i] + x3r[i], x1i[i] + x3i[i], x1r[i] - x3r[i], x1i[i] - x3i[i]
            y0r[q], y0i[q] = sr + ur, si + ui
            er, ei = tr + vi, ti - vr
            y1r[q], y1i[q] = complex_product(er, ei, w1r, w1i)
            er, ei = sr - ur, si - ui
            y2r[q], y2i[q] = complex_product(er, ei, w2r, w2i)
            er, ei = tr - vi, ti + vr
            y3r[q], y3i[q] = complex_product(er, ei, w3r, w3i)


@kernel_noalias
def _last_stage(xr: Floats, xi: Floats, yr: Floats, yi: Floats) -> None:
    # All twiddles are one; input and output have the same layout.
    x0r, x1r, x2r, x3r = _quarters(xr)
    x0i, x1i, x2i, x3i = _quarters(xi)
    y0r, y1r, y2r, y3r = _quarters(yr)
    y0i, y1i, y2i, y3i = _quarters(yi)
    for q in range(x0r.size):
        sr, si, tr, ti = x0r[q] + x2r[q], x0i[q] + x2i[q], x0r[q] - x2r[q], x0i[q] - x2i[q]
        ur, ui, vr, vi = x1r[q] + x3r[q], x1i[q] + x3i[q], x1r[q] - x3r[q], x1i[q] - x3i[q]
        y0r[q], y0i[q] = sr + ur, si + ui
        y1r[q], y1i[q] = tr + vi, ti - vr
        y2r[q], y2i[q] = sr - ur, si - ui
        y3r[q], y3i[q] = tr - vi, ti + vr


@kernel_noalias
def _halving_stage(xr: Floats, xi: Floats, yr: Floats, yi: Floats) -> None:
    s = xr.size // 2
    x0r, x1r, x0i, x1i = borrow(xr, 0, s), borrow(xr, s, s), borrow(xi, 0, s), borrow(xi, s, s)
    y0r, y1r, y0i, y1i = borrow(yr, 0, s), borrow(yr, s, s), borrow(yi, 0, s), borrow(yi, s, s)
    for q in range(s):
        y0r[q], y0i[q] = x0r[q] + x1r[q], x0i[q] + x1i[q]
        y1r[q], y1i[q] = x0r[q] - x1r[q], x0i[q] - x1i[q]


@kernel
def _transform(points: int, work: Floats, tables: Floats) -> int:
    """Complex FFT of regions 0 (real) and 1 (imaginary); return the region of the result."""
    region = points + _PAD
    source = 0
    n = points
    stride = 1
    first = points
    while n > 1:
        target = 2 - source
        xr, xi = borrow(work, source * region, points), borrow(work, (source + 1) * region, points)
        yr, yi = borrow(work, target * region, points), borrow(work, (target + 1) * region, points)
        w = borrow(tables, first, tables.size - first)
        if n == 2:
            _halving_stage(xr, xi, yr, yi)
        elif n == 4:
            _last_stage(xr, xi, yr, yi)
        elif stride == 1:
            _first_stage(xr, xi, yr, yi, w)
        elif stride == 4:
            _second_stage(xr, xi, yr, yi, w, stride)
        else:
            _middle_stage(xr, xi, yr, yi, w, stride)
        first += 6 * (n // 4)
        n //= 4
        stride *= 4
        source = target
    return source


@kernel
def _round(part: Any) -> Any:
    return (part + _GRAIN) - _GRAIN


@kernel_noalias
def _split(low: Pair, high: Pair, w: Floats, spec_low: Pair, spec_high: Pair) -> None:
    # low holds bins k upwards, high bins points - k downwards; both start at 0, so that whole
    # vectors fit. The caller overwrites bin 0 and its partner.
    (zr, zi), (yr, yi), (xr, xi), (vr, vi) = low, high, spec_low, spec_high
    n = zr.size
    cosine, minus_sine = borrow(w, 0, n), borrow(w, n, n)
    for k in range(n):
        j = np.uint64(n - 1 - k)  # unsigned, or numba would check whether it is negative
        er, ei = zr[k] + yr[j], zi[k] - yi[j]
        dr, di = _HALF * (zi[k] + yi[j]), _HALF * (yr[j] - zr[k])
        tr, ti = complex_product(dr, di, cosine[k], minus_sine[k])
        xr[k], xi[k] = _round(fma(_HALF, er, tr)), _round(fma(_HALF, ei, ti))
        vr[j], vi[j] = _round(fma(_HALF, er, -tr)), _round(fma(-_HALF, ei, ti))


@kernel_noalias
def _merge(spec_low: Pair, spec_high: Pair, w: Floats, low: Pair, high: Pair) -> None:
    # The inverse of _split, conjugated, so that the forward transform can follow.
    (xr, xi), (vr, vi), (zr, zi), (yr, yi) = spec_low, spec_high, low, high
    n = xr.size
    cosine, minus_sine = borrow(w, 0, n), borrow(w, n, n)
    scale = np.float32(0.25) / np.float32(n)
    for k in range(n):
        j = np.uint64(n - 1 - k)
        er, ei = xr[k] + vr[j], xi[k] - vi[j]
        dr, di = scale * (xr[k] - vr[j]), scale * (xi[k] + vi[j])
        tr, ti = complex_product(dr, di, cosine[k], -minus_sine[k])
        zr[k], zi[k] = fma(scale, er, -ti), fma(-scale, ei, -tr)
        yr[j], yi[j] = fma(scale, er, ti), fma(scale, ei, -tr)


@kernel
def _halves(re: Floats, im: Floats) -> tuple[Pair, Pair]:
    # Bins 0 .. half - 1 and half + 1 .. points, so `re` and `im` reach one beyond the points.
    half = re.size // 2
    low = borrow(re, 0, half), borrow(im, 0, half)
    return low, (borrow(re, half + 1, half), borrow(im, half + 1, half))


@kernel
def forward(work: Floats, tables: Floats, spec_re: Floats, spec_im: Floats) -> None:
    """Real FFT of n_fft samples.

    Args:
        work: (work_size(n_fft),) float32, with the n_fft / 2 even samples at the start of
            its first quarter and the odd ones at the start of its second; overwritten.
        tables: `fft_tables(n_fft)`.
        spec_re: (n_fft / 2 + 1,) float32, receives the real parts.
        spec_im: (n_fft / 2 + 1,) float32, receives the imaginary parts.
    """
    points = spec_re.size - 1
    half = points // 2
    region = points + _PAD
    source = _transform(points, work, tables) * region
    zr, zi = borrow(work, source, points + 1), borrow(work, source + region, points + 1)
    low, high = _halves(zr, zi)
    spec_low, spec_high = _halves(spec_re, spec_im)
    _split(low, high, tables, spec_low, spec_high)
    spec_re[0], spec_im[0] = _round(zr[0] + zi[0]), _ZERO
    spec_re[half], spec_im[half] = _round(zr[half]), _round(-zi[half])
    spec_re[points], spec_im[points] = _round(zr[0] - zi[0]), _ZERO


@kernel
def inverse(spec_re: Floats, spec_im: Floats, tables: Floats, work: Floats) -> int:
    """Inverse of `forward`; the imaginary parts of the first and last bin are ignored.

    Args:
        spec_re: (n_fft / 2 + 1,) float32, read.
        spec_im: (n_fft / 2 + 1,) float32, read.
        tables: `fft_tables(n_fft)`.
        work: (work_size(n_fft),) float32; overwritten.

    Returns:
        The quarter of `work` (0 or 2) that begins with the even samples; the next begins
        with the odd ones, negated.
    """
    points = spec_re.size - 1
    half = points // 2
    region = points + _PAD
    scale = np.float32(0.5) / np.float32(points)
    zr, zi = borrow(work, 0, points + 1), borrow(work, region, points + 1)
    spec_low, spec_high = _halves(spec_re, spec_im)
    low, high = _halves(zr, zi)
    _merge(spec_low, spec_high, tables, low, high)
    zr[0] = scale * (spec_re[0] + spec_re[points])
    zi[0] = scale * (spec_re[points] - spec_re[0])
    zr[half], zi[half] = 2 * scale * spec_re[half], 2 * scale * spec_im[half]
    return _transform(points, work, tables)
