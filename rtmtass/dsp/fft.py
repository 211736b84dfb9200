"""A real FFT that compiled code may call: numba knows none, and it must not allocate.

Signals are split into arrays of real and of imaginary parts, so that one
vector instruction works on many bins. A real transform of n_fft samples is a
complex one of n_fft / 2 points over the even and odd samples, plus a split.
The complex one is Stockham's: natural order in and out, radix 4, with one
radix-2 stage at the end where the length is not a power of four.

Source: C. Van Loan, Computational Frameworks for the Fast Fourier Transform,
SIAM 1992, sections 1.7 (Stockham) and 4.3 (real data).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit, types
from numba.core import cgutils
from numba.core.compiler import Compiler, Flags
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array
from numpy.typing import NDArray

Floats = NDArray[np.float32]
F = TypeVar("F", bound=Callable[..., object])

SPEC_FLOOR = np.float32(1e-18)
"""Parts of a spec below this become zero, so that their squares are normal numbers."""

_HALF = np.float32(0.5)
_ZERO = np.float32(0.0)


class _ApartCompiler(Compiler):  # type: ignore[misc]
    """As numba's own, but tells LLVM that no two arguments overlap (C's `restrict`)."""

    def __init__(self, *args: Any) -> None:
        for value in args:
            if isinstance(value, Flags):
                value.noalias = True
        super().__init__(*args)


_OPTIONS = {
    "nogil": True,
    "cache": True,
    "boundscheck": False,
    "error_model": "numpy",
    # Not-a-number and infinity keep their meaning.
    "fastmath": {"contract", "nsz"},
}


def kernel(function: F) -> F:
    """Compile `function` on first call, keep the machine code on disk, release the GIL."""
    return cast(F, njit(**_OPTIONS)(function))


def kernel_apart(function: F) -> F:
    """As `kernel`, for loops whose array arguments never overlap: they become vector code.

    Otherwise each call first compares all addresses, which costs more than a short loop.
    """
    return cast(F, njit(pipeline_class=_ApartCompiler, **_OPTIONS)(function))


def work_size(n_fft: int) -> int:
    """Floats of scratch space that one transform of `n_fft` samples needs."""
    return 2 * n_fft


def fft_tables(n_fft: int) -> Floats:
    """Return the constants of a transform, packed for the kernels of this room.

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
    # cos(pi/2) comes out as 6e-17: a product with it would be one step nearer to a denormal.
    packed[np.abs(packed) < 1e-12] = 0.0
    return packed.astype(np.float32)


@intrinsic  # type: ignore[misc]
def borrow(typing_context: Any, array: Any, start: Any, size: Any) -> Any:
    """Return array[start:start + size] without counting the reference: for compiled code only.

    A slice costs two atomic operations, a dozen slices more than a whole FFT.
    The array must be contiguous float32 and outlive its view.
    """
    view_type = types.Array(types.float32, 1, "C")

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source = make_array(signature.args[0])(context, builder, args[0])
        view = make_array(view_type)(context, builder)
        populate_array(
            view,
            data=builder.gep(source.data, [args[1]]),
            shape=cgutils.pack_array(builder, [args[2]]),
            strides=cgutils.pack_array(builder, [context.get_constant(types.intp, 4)]),
            itemsize=context.get_constant(types.intp, 4),
            meminfo=None,
        )
        return view._getvalue()

    return view_type(array, types.intp, types.intp), build


# The stages take input and output as separate arrays: only then does the compiler use vectors.


@kernel_apart
def _first_stage(xr: Floats, xi: Floats, yr: Floats, yi: Floats, w: Floats) -> None:
    # Neighbouring butterflies, neighbouring twiddles; results interleave by four.
    m = xr.size // 4
    for p in range(m):
        ar, ai, br, bi = xr[p], xi[p], xr[p + m], xi[p + m]
        cr, ci, dr, di = xr[p + 2 * m], xi[p + 2 * m], xr[p + 3 * m], xi[p + 3 * m]
        sr, si, tr, ti = ar + cr, ai + ci, ar - cr, ai - ci
        ur, ui, vr, vi = br + dr, bi + di, br - dr, bi - di
        yr[4 * p], yi[4 * p] = sr + ur, si + ui
        er, ei, wr, wi = tr + vi, ti - vr, w[p], w[p + m]
        yr[4 * p + 1], yi[4 * p + 1] = er * wr - ei * wi, er * wi + ei * wr
        er, ei, wr, wi = sr - ur, si - ui, w[p + 2 * m], w[p + 3 * m]
        yr[4 * p + 2], yi[4 * p + 2] = er * wr - ei * wi, er * wi + ei * wr
        er, ei, wr, wi = tr - vi, ti + vr, w[p + 4 * m], w[p + 5 * m]
        yr[4 * p + 3], yi[4 * p + 3] = er * wr - ei * wi, er * wi + ei * wr


@kernel_apart
def _second_stage(xr: Floats, xi: Floats, yr: Floats, yi: Floats, w: Floats) -> None:
    # As _middle_stage; the literal 4 lets the compiler use vectors of just that length.
    quarter = xr.size // 4
    m = quarter // 4
    for p in range(m):
        w1r, w1i, w2r = w[p], w[p + m], w[p + 2 * m]
        w2i, w3r, w3i = w[p + 3 * m], w[p + 4 * m], w[p + 5 * m]
        for q in range(4):
            i = 4 * p + q
            o = 4 * 4 * p + q
            ar, ai, br, bi = xr[i], xi[i], xr[i + quarter], xi[i + quarter]
            cr, ci = xr[i + 2 * quarter], xi[i + 2 * quarter]
            dr, di = xr[i + 3 * quarter], xi[i + 3 * quarter]
            sr, si, tr, ti = ar + cr, ai + ci, ar - cr, ai - ci
            ur, ui, vr, vi = br + dr, bi + di, br - dr, bi - di
            yr[o], yi[o] = sr + ur, si + ui
            er, ei = tr + vi, ti - vr
            o += 4
            yr[o], yi[o] = er * w1r - ei * w1i, er * w1i + ei * w1r
            er, ei = sr - ur, si - ui
            o += 4
            yr[o], yi[o] = er * w2r - ei * w2i, er * w2i + ei * w2r
            er, ei = tr - vi, ti + vr
            o += 4
            yr[o], yi[o] = er * w3r - ei * w3i, er * w3i + ei * w3r


@kernel_apart
def _middle_stage(xr: Floats, xi: Floats, yr: Floats, yi: Floats, w: Floats, stride: int) -> None:
    # Neighbours share their twiddles.
    quarter = xr.size // 4
    m = quarter // stride
    for p in range(m):
        w1r, w1i, w2r = w[p], w[p + m], w[p + 2 * m]
        w2i, w3r, w3i = w[p + 3 * m], w[p + 4 * m], w[p + 5 * m]
        for q in range(stride):
            i = stride * p + q
            o = 4 * stride * p + q
            ar, ai, br, bi = xr[i], xi[i], xr[i + quarter], xi[i + quarter]
            cr, ci = xr[i + 2 * quarter], xi[i + 2 * quarter]
            dr, di = xr[i + 3 * quarter], xi[i + 3 * quarter]
            sr, si, tr, ti = ar + cr, ai + ci, ar - cr, ai - ci
            ur, ui, vr, vi = br + dr, bi + di, br - dr, bi - di
            yr[o], yi[o] = sr + ur, si + ui
            er, ei = tr + vi, ti - vr
            o += stride
            yr[o], yi[o] = er * w1r - ei * w1i, er * w1i + ei * w1r
            er, ei = sr - ur, si - ui
            o += stride
            yr[o], yi[o] = er * w2r - ei * w2i, er * w2i + ei * w2r
            er, ei = tr - vi, ti + vr
            o += stride
            yr[o], yi[o] = er * w3r - ei * w3i, er * w3i + ei * w3r


@kernel_apart
def _last_stage(xr: Floats, xi: Floats, yr: Floats, yi: Floats) -> None:
    # All twiddles are one, input and output lie alike.
    s = xr.size // 4
    for q in range(s):
        ar, ai, br, bi = xr[q], xi[q], xr[q + s], xi[q + s]
        cr, ci, dr, di = xr[q + 2 * s], xi[q + 2 * s], xr[q + 3 * s], xi[q + 3 * s]
        sr, si, tr, ti = ar + cr, ai + ci, ar - cr, ai - ci
        ur, ui, vr, vi = br + dr, bi + di, br - dr, bi - di
        yr[q], yi[q] = sr + ur, si + ui
        yr[q + s], yi[q + s] = tr + vi, ti - vr
        yr[q + 2 * s], yi[q + 2 * s] = sr - ur, si - ui
        yr[q + 3 * s], yi[q + 3 * s] = tr - vi, ti + vr


@kernel_apart
def _halving_stage(xr: Floats, xi: Floats, yr: Floats, yi: Floats) -> None:
    s = xr.size // 2
    for q in range(s):
        ar, ai, br, bi = xr[q], xi[q], xr[q + s], xi[q + s]
        yr[q], yi[q] = ar + br, ai + bi
        yr[q + s], yi[q + s] = ar - br, ai - bi


@kernel
def _transform(work: Floats, tables: Floats) -> int:
    """Complex FFT of work[:points], work[points:2 * points]; return where the result begins."""
    points = work.size // 4
    here = 0
    n = points
    stride = 1
    first = points
    while n > 1:
        there = 2 * points - here
        xr, xi = borrow(work, here, points), borrow(work, here + points, points)
        yr, yi = borrow(work, there, points), borrow(work, there + points, points)
        w = borrow(tables, first, tables.size - first)
        if n == 2:
            _halving_stage(xr, xi, yr, yi)
        elif n == 4:
            _last_stage(xr, xi, yr, yi)
        elif stride == 1:
            _first_stage(xr, xi, yr, yi, w)
        elif stride == 4:
            _second_stage(xr, xi, yr, yi, w)
        else:
            _middle_stage(xr, xi, yr, yi, w, stride)
        first += 6 * (n // 4)
        n //= 4
        stride *= 4
        here = there
    return here


@kernel
def _floor(part: Any) -> Any:
    return _ZERO if abs(part) < SPEC_FLOOR else part


@kernel_apart
def _split(
    zr: Floats, zi: Floats, yr: Floats, yi: Floats, w: Floats, xr: Floats, xi: Floats, vr: Floats, vi: Floats
) -> None:
    n = zr.size
    for k in range(n):
        j = n - 1 - k
        er, ei = _HALF * (zr[k] + yr[j]), _HALF * (zi[k] - yi[j])
        dr, di = _HALF * (zi[k] + yi[j]), _HALF * (yr[j] - zr[k])
        tr, ti = dr * w[k] - di * w[k + n + 1], dr * w[k + n + 1] + di * w[k]
        xr[k], xi[k] = _floor(er + tr), _floor(ei + ti)
        vr[j], vi[j] = _floor(er - tr), _floor(ti - ei)


@kernel_apart
def _merge(
    xr: Floats, xi: Floats, vr: Floats, vi: Floats, w: Floats, zr: Floats, zi: Floats, yr: Floats, yi: Floats
) -> None:
    n = zr.size
    scale = np.float32(0.25) / np.float32(n + 1)
    for k in range(n):
        j = n - 1 - k
        er, ei = scale * (xr[k] + vr[j]), scale * (xi[k] - vi[j])
        dr, di = scale * (xr[k] - vr[j]), scale * (xi[k] + vi[j])
        tr, ti = dr * w[k] + di * w[k + n + 1], di * w[k] - dr * w[k + n + 1]
        zr[k], zi[k] = er - ti, -(ei + tr)
        yr[j], yi[j] = er + ti, ei - tr


@kernel
def forward(work: Floats, tables: Floats, spec_re: Floats, spec_im: Floats) -> None:
    """Real FFT of the even samples work[:n_fft / 2] and the odd ones behind them.

    Args:
        work: (work_size(n_fft),) float32; overwritten.
        tables: `fft_tables(n_fft)`.
        spec_re: (n_fft / 2 + 1,) float32, receives the real parts.
        spec_im: (n_fft / 2 + 1,) float32, receives the imaginary parts.
    """
    points = work.size // 4
    half = points // 2
    here = _transform(work, tables)
    there = here + points
    spec_re[0], spec_im[0] = _floor(work[here] + work[there]), _ZERO
    spec_re[points], spec_im[points] = _floor(work[here] - work[there]), _ZERO
    spec_re[half], spec_im[half] = _floor(work[here + half]), _floor(-work[there + half])
    _split(
        borrow(work, here + 1, half - 1),
        borrow(work, there + 1, half - 1),
        borrow(work, here + half + 1, half - 1),
        borrow(work, there + half + 1, half - 1),
        borrow(tables, 1, points - 1),
        borrow(spec_re, 1, half - 1),
        borrow(spec_im, 1, half - 1),
        borrow(spec_re, half + 1, half - 1),
        borrow(spec_im, half + 1, half - 1),
    )


@kernel
def inverse(spec_re: Floats, spec_im: Floats, tables: Floats, work: Floats) -> int:
    """Undo `forward`; the imaginary parts of the first and last bin count for nothing.

    Args:
        spec_re: (n_fft / 2 + 1,) float32, read.
        spec_im: (n_fft / 2 + 1,) float32, read.
        tables: `fft_tables(n_fft)`.
        work: (work_size(n_fft),) float32; overwritten.

    Returns:
        Where in `work` the even samples begin; n_fft / 2 further lie the odd
        ones, with their sign turned.
    """
    points = work.size // 4
    half = points // 2
    scale = np.float32(1.0) / np.float32(2 * points)
    work[0] = (spec_re[0] + spec_re[points]) * scale
    work[points] = (spec_re[points] - spec_re[0]) * scale
    # The conjugate goes in, so that the forward transform gives the inverse's conjugate.
    work[half] = 2 * scale * spec_re[half]
    work[points + half] = 2 * scale * spec_im[half]
    _merge(
        borrow(spec_re, 1, half - 1),
        borrow(spec_im, 1, half - 1),
        borrow(spec_re, half + 1, half - 1),
        borrow(spec_im, half + 1, half - 1),
        borrow(tables, 1, points - 1),
        borrow(work, 1, half - 1),
        borrow(work, points + 1, half - 1),
        borrow(work, half + 1, half - 1),
        borrow(work, points + half + 1, half - 1),
    )
    return _transform(work, tables)
