"""Streaming STFT and its inverse, one hop at a time.

The kernels allocate nothing and keep nothing: state, tables and scratch space are
arguments, so that a larger kernel can run a whole hop in one call. `StreamingStft` holds
them for callers in Python.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rtmtass.config import StftConfig
from rtmtass.dsp.fft import fft_tables, forward, inverse, work_size
from rtmtass.dsp.windows import windows
from rtmtass.errors import BlockSizeError
from rtmtass.jit.compiler import borrow, kernel, kernel_noalias
from rtmtass.jit.simd import fma
from rtmtass.types import Floats

__all__ = [
    "SAMPLE_FLOOR",
    "StreamingStft",
    "analyse_hop",
    "analyse_hops",
    "apply_window",
    "fft_tables",
    "synthesise_hop",
    "synthesise_hops",
    "windows",
    "work_size",
]


SAMPLE_FLOOR = np.float32(1e-12)
"""Smaller input samples (-240 dB of full scale) become zero: they could turn into denormals."""

_ZERO = np.float32(0.0)


@kernel_noalias
def apply_window(history: Floats, window: Floats, even: Floats, odd: Floats) -> None:
    """Write the even and the odd samples of a windowed frame, as the FFT takes them."""
    for i in range(even.size):
        even[i] = history[2 * i] * window[2 * i]
        odd[i] = history[2 * i + 1] * window[2 * i + 1]


@kernel_noalias
def _append(block: Floats, newest: Floats) -> None:
    for i in range(block.size):
        sample = block[i]
        newest[i] = _ZERO if abs(sample) < SAMPLE_FLOOR else sample


@kernel_noalias
def _copy(source: Floats, target: Floats) -> None:
    for i in range(source.size):
        target[i] = source[i]


@kernel_noalias
def _interleave(even: Floats, minus_odd: Floats, frame: Floats) -> None:
    for i in range(even.size):
        frame[2 * i] = even[i]
        frame[2 * i + 1] = -minus_odd[i]


@kernel_noalias
def _overlap_add(overlap: Floats, window: Floats, frame: Floats, target: Floats) -> None:
    for i in range(target.size):
        target[i] = fma(window[i], frame[i], overlap[i])


@kernel
def analyse_hop(
    block: Floats,
    history: Floats,
    window: Floats,
    tables: Floats,
    work: Floats,
    spec_re: Floats,
    spec_im: Floats,
) -> None:
    """Turn the next hop into one spectral frame, which covers the newest n_fft samples.

    Args:
        block: (hop,) float32, read. Samples below `SAMPLE_FLOOR` become zero.
        history: (n_fft,) float32, the newest samples; zeros before the stream. Updated.
        window: (n_fft,) float32, the first of `windows`.
        tables: `fft_tables(n_fft)`.
        work: (work_size(n_fft),) float32 scratch space.
        spec_re: (F,) float32, receives the real parts, F = n_fft // 2 + 1.
        spec_im: (F,) float32, receives the imaginary parts.
    """
    n_fft = history.size
    points = n_fft // 2
    region = work.size // 4
    hop = block.size
    # Counted, because a step of zero would raise, and a native library can't.
    for number in range(n_fft // hop - 1):
        start = number * hop
        _copy(borrow(history, start + hop, hop), borrow(history, start, hop))
    _append(block, borrow(history, n_fft - hop, hop))
    apply_window(history, window, borrow(work, 0, points), borrow(work, region, points))
    forward(work, tables, spec_re, spec_im)


@kernel
def synthesise_hop(
    spec_re: Floats,
    spec_im: Floats,
    overlap: Floats,
    window: Floats,
    tables: Floats,
    work: Floats,
    out: Floats,
) -> None:
    """Turn one spectral frame into the next hop of samples, by weighted overlap-add.

    Args:
        spec_re: (F,) float32, read.
        spec_im: (F,) float32, read; ignored in the first and last bin.
        overlap: (synthesis,) float32, the tails of earlier frames; zeros at first. Updated.
        window: (synthesis,) float32, the second of `windows`.
        tables: `fft_tables(n_fft)`.
        work: (work_size(n_fft),) float32 scratch space.
        out: (hop,) float32, receives the samples.

    Source: weighted overlap-add, R. Crochiere, IEEE Trans. ASSP 28(1), 1980.
    """
    points = spec_re.size - 1
    region = work.size // 4
    synthesis = overlap.size
    hop = out.size
    here = inverse(spec_re, spec_im, tables, work)
    # Only the last `synthesis` samples of the frame are used; they go to an unused region.
    first = points - (synthesis + 1) // 2
    even = borrow(work, here * region + first, points - first)
    minus_odd = borrow(work, (here + 1) * region + first, points - first)
    frame = (2 - here) * region
    _interleave(even, minus_odd, borrow(work, frame, 2 * (points - first)))
    frame += synthesis % 2
    _overlap_add(overlap, window, borrow(work, frame, hop), out)
    for number in range(1, synthesis // hop):
        start = number * hop
        _overlap_add(
            borrow(overlap, start, hop),
            borrow(window, start, hop),
            borrow(work, frame + start, hop),
            borrow(overlap, start - hop, hop),
        )
    for i in range(synthesis - hop, synthesis):
        overlap[i] = _ZERO


@kernel
def analyse_hops(
    samples: Floats,
    history: Floats,
    window: Floats,
    tables: Floats,
    work: Floats,
    specs_re: Floats,
    specs_im: Floats,
) -> None:
    """As `analyse_hop`, T times: samples (T * hop,) into specs_re and specs_im (T, F)."""
    n_frames = specs_re.shape[0]
    hop = samples.size // max(n_frames, 1)
    for t in range(n_frames):
        block = borrow(samples, t * hop, hop)
        analyse_hop(block, history, window, tables, work, specs_re[t], specs_im[t])


@kernel
def synthesise_hops(
    specs_re: Floats,
    specs_im: Floats,
    overlap: Floats,
    window: Floats,
    tables: Floats,
    work: Floats,
    out: Floats,
) -> None:
    """As `synthesise_hop`, T times: specs_re and specs_im (T, F) into out (T * hop,)."""
    n_frames = specs_re.shape[0]
    hop = out.size // max(n_frames, 1)
    for t in range(n_frames):
        block = borrow(out, t * hop, hop)
        synthesise_hop(specs_re[t], specs_im[t], overlap, window, tables, work, block)


@kernel
def _join(spec_re: Floats, spec_im: Floats, spec: NDArray[np.complex64]) -> None:
    for k in range(spec.size):
        spec[k] = np.complex64(complex(spec_re[k], spec_im[k]))


@kernel
def _part(spec: NDArray[np.complex64], spec_re: Floats, spec_im: Floats) -> None:
    for k in range(spec.size):
        spec_re[k] = spec[k].real
        spec_im[k] = spec[k].imag


class StreamingStft:
    """STFT and inverse of one stream, with all its state and buffers.

    For callers in Python: `step` and `inverse` only wrap the kernels of this module.
    """

    def __init__(self, config: StftConfig) -> None:
        self.config = config
        self._analysis, self._synthesis = windows(config)
        self._tables = fft_tables(config.n_fft)
        self._work = np.zeros(work_size(config.n_fft), np.float32)
        self._history = np.zeros(config.n_fft, np.float32)
        self._overlap = np.zeros(config.synthesis, np.float32)
        self._spec_re = np.zeros(config.n_bins, np.float32)
        self._spec_im = np.zeros(config.n_bins, np.float32)
        self._spec = np.zeros(config.n_bins, np.complex64)
        # Input is copied here first, so that its memory layout causes no compilation.
        self._spec_in = np.zeros(config.n_bins, np.complex64)
        self._block = np.zeros(config.hop, np.float32)
        self._out = np.zeros(config.hop, np.float32)

    @property
    def delay(self) -> int:
        """Samples by which `inverse(step(block))` lags `block`."""
        return self.config.delay

    def step(self, block: Floats) -> NDArray[np.complex64]:
        """Turn the next `hop` samples into one spectral frame.

        The frame covers the newest `n_fft` samples: this block and the
        `n_fft - hop` before it. Before the stream began there was silence.

        Args:
            block: (hop,) float32, full scale is 1.0. Read, not kept.

        Returns:
            (F,) complex64, F = n_fft // 2 + 1; bin k lies at k * sample_rate / n_fft Hz.
            A view into this object: copy it to keep it past the next call.

        Raises:
            BlockSizeError: `block` does not hold exactly `hop` samples of float32.
        """
        if block.shape != self._block.shape or block.dtype != np.float32:
            raise BlockSizeError(
                f"step takes blocks of shape ({self.config.hop},) and type float32,"
                f" not {block.shape} and {block.dtype}: collect whole hops first"
            )
        self._block[:] = block
        analyse_hop(
            self._block,
            self._history,
            self._analysis,
            self._tables,
            self._work,
            self._spec_re,
            self._spec_im,
        )
        _join(self._spec_re, self._spec_im, self._spec)
        return self._spec

    def inverse(self, spec: NDArray[np.complex64]) -> Floats:
        """Turn one spectral frame into the next `hop` samples, `delay` samples late.

        Args:
            spec: (F,) complex64, read, not kept. The imaginary parts of the
                first and last bin are ignored.

        Returns:
            (hop,) float32, a view into this object: copy it to keep it past the next call.

        Raises:
            BlockSizeError: `spec` does not hold exactly F bins of complex64.
        """
        if spec.shape != self._spec_in.shape or spec.dtype != np.complex64:
            raise BlockSizeError(
                f"inverse takes specs of shape ({self.config.n_bins},) and type complex64,"
                f" not {spec.shape} and {spec.dtype}: pass the array that step returned, masked"
            )
        self._spec_in[:] = spec
        _part(self._spec_in, self._spec_re, self._spec_im)
        synthesise_hop(
            self._spec_re,
            self._spec_im,
            self._overlap,
            self._synthesis,
            self._tables,
            self._work,
            self._out,
        )
        return self._out

    def reset(self) -> None:
        """Clear the state: the next block begins a new stream."""
        self._history[:] = 0.0
        self._overlap[:] = 0.0
