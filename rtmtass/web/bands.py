"""The spectrogram of the page: 64 bands of equal width on the mel scale, as bytes.

A frame of two hops, under a periodic Hann window, has the power p[k] in bin k; the sum over all
bins is its mean square (Parseval), so that a sine of amplitude 1.0 reads -3.01 dBFS. A bin's power
goes to the bands that its width lies in. A byte holds 0 to 255 for -100 to 0 dBFS.
"""

from __future__ import annotations

import functools
import struct

import numpy as np

from rtmtass.types import Bytes, Floats, Samples

BANDS = 64
LOW_HZ, HIGH_HZ = 60.0, 8000.0
_RANGE_DB = 100.0
_LARGEST = 255


def band_powers(frames: Samples, sample_rate: int) -> Floats:
    """Return (…, BANDS) powers of (…, n_fft) frames, full scale is 1.0."""
    n_fft = frames.shape[-1]
    window, weights = _analysis(n_fft, sample_rate)
    spectrum = np.fft.rfft(frames * window)
    powers: Floats = np.square(spectrum.real) + np.square(spectrum.imag)
    flat = powers.astype(np.float32, copy=False).reshape(
        -1, powers.shape[-1]
    )  # BLAS takes two axes
    return (flat @ weights).reshape(*frames.shape[:-1], BANDS)


def picture_bytes(powers: Floats) -> Bytes:
    """Return powers as bytes on the scale of the page."""
    level_db = 10 * np.log10(np.maximum(powers, 1e-20))
    return np.clip(np.rint(_LARGEST * (level_db / _RANGE_DB + 1)), 0, _LARGEST).astype(np.uint8)


def picture_header(columns: int, rows: int) -> bytes:
    """Return what precedes the bytes of a picture."""
    return struct.pack("<HBB", columns, rows, BANDS)


@functools.cache
def _analysis(n_fft: int, sample_rate: int) -> tuple[Floats, Floats]:
    """Return the window (n_fft,) and the weights of each bin in each band (F, BANDS)."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    width_hz = sample_rate / n_fft
    low, high = (2595 * np.log10(1 + hz / 700) for hz in (LOW_HZ, HIGH_HZ))
    edges_hz = 700 * (10 ** (np.linspace(low, high, BANDS + 1) / 2595) - 1)
    centres_hz = np.arange(n_fft // 2 + 1)[:, None] * width_hz
    overlap_hz = np.minimum(centres_hz + width_hz / 2, edges_hz[1:]) - np.maximum(
        centres_hz - width_hz / 2, edges_hz[:-1]
    )
    weights = np.maximum(overlap_hz, 0) / width_hz
    sides = np.full((len(weights), 1), 2.0)  # negative frequencies
    sides[[0, -1]] = 1.0
    weights *= sides / (n_fft * np.square(window).sum())
    return window.astype(np.float32), weights.astype(np.float32)
