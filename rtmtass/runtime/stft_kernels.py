"""STFT and inverse for all channels and stems of a stream, a chunk of hops a call.

Every runtime runs its network between `analyse` and `synthesise`: the compiled one inside
one call per chunk, the others from Python.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rtmtass.config import ModelConfig
from rtmtass.dsp.fft import fft_tables, work_size
from rtmtass.dsp.stft import analyse_hop, synthesise_hop, windows
from rtmtass.jit.compiler import borrow, kernel
from rtmtass.jit.simd import complex_product, dot, fma
from rtmtass.types import Floats, Longs

TOP_BAND_HZ = (6000.0, 7300.0)
"""The highest band that resampling leaves intact; its masks are used for all above it."""
TOP_DECAY = np.float32(0.6)
"""Fraction of the top band's power that is kept from frame to frame: 31 ms of smoothing."""
MID_FLOOR = np.float32(1e-6)
"""Power of the mid signal, relative to the channels', below which a bin's masks fade out."""
MASK_FLOOR = np.float32(1e-4)
TINY = np.float32(1e-20)
_ZERO = np.float32(0.0)
_ONE = np.float32(1.0)

(
    N_FFT,
    HOP,
    SYNTHESIS,
    BINS,
    IMAG_OFFSET,
    STEMS,
    CHANNELS,
    RING,
    TOP,
    TOP_END,
    LOOKAHEAD,
    WORK,
) = range(12)
"""Indices into `Frames.sizes`."""


@dataclass(frozen=True)
class Frames:
    """Sizes and tables of the STFT, the same for all streams of one shape.

    Attributes:
        sizes: int64, indexed by the names above.
        analysis, synthesis: the windows.
        product: (synthesis,), product of both windows; overlap-adds to one.
        tables: constants of the FFT.
    """

    sizes: Longs
    analysis: Floats
    synthesis: Floats
    product: Floats
    tables: Floats

    @classmethod
    def of(cls, config: ModelConfig, imag_offset: int, chunk: int, channels: int) -> Frames:
        """Compute the sizes and tables of streams that run `chunk` hops a call."""
        stft = config.stft
        ring = config.net.lookahead + chunk
        top = [round(f * stft.n_fft / stft.sample_rate) for f in TOP_BAND_HZ]
        top_start, top_end = (min(k, stft.n_bins) for k in top)
        analysis, synthesis = windows(stft)
        return cls(
            sizes=np.array(
                [
                    stft.n_fft, stft.hop, stft.synthesis, stft.n_bins, imag_offset,
                    len(config.stems), channels, ring, top_start, top_end, config.net.lookahead,
                    work_size(stft.n_fft),
                ],
                np.int64,
            ),
            analysis=analysis,
            synthesis=synthesis,
            product=analysis[stft.n_fft - stft.synthesis :] * synthesis,
            tables=fft_tables(stft.n_fft),
        )  # fmt: skip

    @property
    def state_size(self) -> int:
        """Floats of STFT state per stream."""
        return stft_state_size(self.sizes)

    @property
    def scratch_size(self) -> int:
        """Floats of scratch space; streams may use the same."""
        return stft_scratch_size(self.sizes)

    def silence(self) -> Floats:
        """Return the state before the first sample: `highband_overlap`, then zeros."""
        state = np.zeros(self.state_size, np.float32)
        overlap = self.highband_overlap()
        state[: overlap.size] = overlap.ravel()
        return state

    def highband_overlap(self) -> Floats:
        """Return (S, synthesis): the tails of frames before the first, of equal weights."""
        n_stems, synthesis, hop = (int(self.sizes[i]) for i in (STEMS, SYNTHESIS, HOP))
        overlap = np.zeros((n_stems, synthesis), np.float32)
        for start in range(hop, synthesis, hop):
            overlap[:, : synthesis - start] += self.product[start:] / n_stems
        return overlap


@kernel
def stft_state_size(sizes: Longs) -> int:
    """Return the floats of STFT state of a stream; `sizes` are those of `Frames`."""
    overlaps = sizes[STEMS] * sizes[SYNTHESIS]
    per_channel = sizes[N_FFT] + overlaps + sizes[RING] * 2 * sizes[IMAG_OFFSET]
    size: int = sizes[CHANNELS] * per_channel + overlaps + sizes[STEMS] + 1
    return size


@kernel
def stft_scratch_size(sizes: Longs) -> int:
    """Return the floats of scratch space of a stream; `sizes` are those of `Frames`."""
    size: int = sizes[WORK] + 2 * sizes[HOP] + (2 * sizes[STEMS] + 2) * sizes[IMAG_OFFSET]
    return size


@kernel
def analyse(
    samples: Floats,
    first: int,
    frames: int,
    clock: int,
    sizes: Longs,
    window: Floats,
    tables: Floats,
    state: Floats,
    scratch: Floats,
    mixture: Floats,
) -> None:
    """Write the spectra of the next `frames` hops, averaged over the channels.

    Args:
        samples: (n, C), of which the hops from sample `first` on are read.
        first: first sample of the chunk.
        frames: hops in the chunk.
        clock: number of its first frame in the stream.
        sizes, window, tables: of `Frames`.
        state, scratch: of the stream.
        mixture: (>= frames, 2 * imag_offset), receives [re | im].
    """
    n_fft, hop, bins, imag_offset, channels = (
        sizes[N_FFT], sizes[HOP], sizes[BINS], sizes[IMAG_OFFSET], sizes[CHANNELS],
    )  # fmt: skip
    at = sizes[WORK]
    work = scratch[:at]
    block = scratch[at : at + hop]
    histories = sizes[STEMS] * sizes[SYNTHESIS] + sizes[STEMS] + 1
    rings = histories + channels * (n_fft + sizes[STEMS] * sizes[SYNTHESIS])
    for t in range(frames):
        row = mixture[t]
        for c in range(channels):
            for i in range(hop):
                block[i] = samples[first + t * hop + i, c]
            history = state[histories + c * n_fft : histories + (c + 1) * n_fft]
            if channels == 1:
                analyse_hop(
                    block,
                    history,
                    window,
                    tables,
                    work,
                    row[:bins],
                    row[imag_offset : imag_offset + bins],
                )
                continue
            at = rings + (c * sizes[RING] + (clock + t) % sizes[RING]) * 2 * imag_offset
            re = state[at : at + bins]
            im = state[at + imag_offset : at + imag_offset + bins]
            analyse_hop(block, history, window, tables, work, re, im)
            scale = _ONE / np.float32(channels)
            for k in range(bins):
                if c == 0:
                    row[k] = _ZERO
                    row[imag_offset + k] = _ZERO
                row[k] = fma(scale, re[k], row[k])
                row[imag_offset + k] = fma(scale, im[k], row[imag_offset + k])


@kernel
def synthesise(
    aligned: Floats,
    stems: Floats,
    out: Floats,
    highband_weights: Floats,
    first: int,
    frames: int,
    clock: int,
    sizes: Longs,
    window: Floats,
    product: Floats,
    tables: Floats,
    state: Floats,
    scratch: Floats,
) -> None:
    """Turn the stems' spectra of a chunk into samples and highband weights.

    Args:
        aligned: (>= frames, 2 * imag_offset), the mixture's spectra that belong to the stems.
        stems: (>= frames, S * 2 * imag_offset).
        out: (S, n, C), receives the stems from sample `first` on.
        highband_weights: (S, n), receives each stem's fraction of the top band; sums to one.
        first, frames, clock, sizes, tables, state, scratch: as for `analyse`.
        window: the synthesis window.
        product: product of both windows.
    """
    n_fft, hop, length, bins, imag_offset, n_stems, channels = (
        sizes[N_FFT], sizes[HOP], sizes[SYNTHESIS], sizes[BINS], sizes[IMAG_OFFSET], sizes[STEMS],
        sizes[CHANNELS],
    )  # fmt: skip
    at = sizes[WORK]
    work = scratch[:at]
    block = scratch[at + hop : at + 2 * hop]
    masks = scratch[at + 2 * hop : at + 2 * hop + 2 * n_stems * imag_offset]
    spec = scratch[at + 2 * hop + 2 * n_stems * imag_offset :]
    histories = n_stems * length + n_stems + 1
    overlaps = histories + channels * n_fft
    rings = overlaps + channels * n_stems * length
    for t in range(frames):
        start = first + t * hop
        _weigh_top_band(aligned[t], stems[t], highband_weights, start, sizes, product, state)
        if channels > 1:
            at = rings + ((clock + t - sizes[LOOKAHEAD]) % sizes[RING]) * 2 * imag_offset
            _recover_masks(aligned[t], stems[t], masks, sizes, state, at)
        for c in range(channels):
            at = (
                rings
                + (c * sizes[RING] + (clock + t - sizes[LOOKAHEAD]) % sizes[RING]) * 2 * imag_offset
            )
            for s in range(n_stems):
                re = stems[t, 2 * s * imag_offset : 2 * s * imag_offset + bins]
                im = stems[t, (2 * s + 1) * imag_offset : (2 * s + 1) * imag_offset + bins]
                if channels > 1:
                    x_re = state[at : at + bins]
                    x_im = state[at + imag_offset : at + imag_offset + bins]
                    m_re = masks[2 * s * imag_offset : 2 * s * imag_offset + bins]
                    m_im = masks[(2 * s + 1) * imag_offset : (2 * s + 1) * imag_offset + bins]
                    re = spec[:bins]
                    im = spec[imag_offset : imag_offset + bins]
                    for k in range(bins):
                        re[k], im[k] = complex_product(m_re[k], m_im[k], x_re[k], x_im[k])
                o = overlaps + (c * n_stems + s) * length
                synthesise_hop(re, im, state[o : o + length], window, tables, work, block)
                for i in range(hop):
                    out[s, start + i, c] = block[i]


@kernel
def _weigh_top_band(
    mixture: Floats,
    stems: Floats,
    highband_weights: Floats,
    start: int,
    sizes: Longs,
    product: Floats,
    state: Floats,
) -> None:
    """Compute each stem's fraction of the mixture's top band, cross-faded over the frames."""
    hop, length, imag_offset, n_stems = (
        sizes[HOP],
        sizes[SYNTHESIS],
        sizes[IMAG_OFFSET],
        sizes[STEMS],
    )
    sums = state[n_stems * length : n_stems * length + n_stems + 1]
    top, n_top = sizes[TOP], sizes[TOP_END] - sizes[TOP]
    re, im = borrow(mixture, top, n_top), borrow(mixture, imag_offset + top, n_top)
    sums[n_stems] = max(fma(TOP_DECAY, sums[n_stems], dot(re, re) + dot(im, im)), TINY)
    total = _ZERO
    for s in range(n_stems):
        at = 2 * s * imag_offset + top
        inner = dot(borrow(stems, at, n_top), re) + dot(borrow(stems, at + imag_offset, n_top), im)
        sums[s] = fma(TOP_DECAY, sums[s], inner)
        if abs(sums[s]) < TINY:
            sums[s] = _ZERO
        total += max(sums[s], _ZERO)
    for s in range(n_stems):
        fraction = _ONE / np.float32(n_stems)
        if total > TINY:
            fraction = max(sums[s], _ZERO) / total
        overlap = state[s * length : (s + 1) * length]
        for i in range(hop):
            highband_weights[s, start + i] = fma(fraction, product[i], overlap[i])
        for i in range(length - hop):
            overlap[i] = fma(fraction, product[i + hop], overlap[i + hop])
        for i in range(length - hop, length):
            overlap[i] = _ZERO


@kernel
def _recover_masks(
    mid: Floats, stems: Floats, masks: Floats, sizes: Longs, state: Floats, ring: int
) -> None:
    """Recover the masks of the mid signal, for use on every channel; they sum to one."""
    bins, imag_offset, n_stems, channels = (
        sizes[BINS],
        sizes[IMAG_OFFSET],
        sizes[STEMS],
        sizes[CHANNELS],
    )
    step = sizes[RING] * 2 * imag_offset
    for k in range(bins):
        a = mid[k]
        b = mid[imag_offset + k]
        power = _ZERO
        for c in range(channels):
            at = ring + c * step + k
            power = fma(state[at], state[at], power)
            power = fma(state[at + imag_offset], state[at + imag_offset], power)
        scale = _ONE / fma(a, a, fma(b, b, fma(MID_FLOOR, power, TINY)))
        residual_re = _ONE
        residual_im = _ZERO
        total = _ZERO
        for s in range(n_stems):
            re = stems[2 * s * imag_offset + k]
            im = stems[(2 * s + 1) * imag_offset + k]
            mask_re = fma(re, a, im * b) * scale
            mask_im = fma(im, a, -(re * b)) * scale
            masks[2 * s * imag_offset + k] = mask_re
            masks[(2 * s + 1) * imag_offset + k] = mask_im
            residual_re -= mask_re
            residual_im -= mask_im
            total += fma(mask_re, mask_re, fma(mask_im, mask_im, MASK_FLOOR))
        for s in range(n_stems):
            at = 2 * s * imag_offset + k
            mask_re, mask_im = masks[at], masks[at + imag_offset]
            fraction = fma(mask_re, mask_re, fma(mask_im, mask_im, MASK_FLOOR)) / total
            masks[at] = fma(fraction, residual_re, mask_re)
            masks[at + imag_offset] = fma(fraction, residual_im, mask_im)
