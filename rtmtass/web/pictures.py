"""Pictures of stems: the levels of mel bands in 8 bits, a column per hop, for spectrograms.

The definition is the same wherever a page gets its pictures from. A column covers the newest
`WINDOW` samples, times the periodic Hann window w. With its spectrum X the power of bin k is

    p[k] = c[k] |X[k]|² / (WINDOW Σ w²),   c = 1 at 0 Hz and at half the rate, else 2

so that Σ p is the windowed mean square (Parseval): -3 dBFS for a sine of amplitude 1. A bin
covers the frequencies from half a bin below its centre to half a bin above; each of the `BANDS`
bands, of equal width on the mel scale 2595 log10(1 + f / 700), gets of each bin the part that
lies within it. A band's value is round(255 (dB + 100) / 100), within 0 and 255.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from rtmtass.types import Doubles, Floats

WINDOW, BANDS = 512, 64
LOWEST_HZ, HIGHEST_HZ = 60.0, 8000.0
RANGE_DB = 100.0
"""Levels from -100 to 0 dBFS are told apart."""
Columns = NDArray[np.uint8]
"""(columns, tracks, bands), the newest column last, the lowest band first."""


def band_edges_hz() -> Doubles:
    """Return the edges of the bands, (BANDS + 1,)."""
    low, high = (2595 * np.log10(1 + hz / 700) for hz in (LOWEST_HZ, HIGHEST_HZ))
    edges: Doubles = 700 * (10 ** (np.linspace(low, high, BANDS + 1) / 2595) - 1)
    return edges


def band_weights(sample_rate: int) -> Doubles:
    """Return (bins, BANDS): the part of each bin that lies in each band, 0 to 1."""
    width = sample_rate / WINDOW
    centres = np.arange(WINDOW // 2 + 1)[:, None] * width
    edges = band_edges_hz()
    low = np.maximum(centres - width / 2, edges[:-1])
    high = np.minimum(centres + width / 2, edges[1:])
    weights: Doubles = np.maximum(high - low, 0) / width
    return weights


def to_values(powers: Floats | Doubles) -> Columns:
    """Return powers, 1.0 being 0 dBFS, as values from 0 to 255."""
    level_db = 10 * np.log10(np.maximum(powers, 1e-30))
    values = np.round(255 / RANGE_DB * (level_db + RANGE_DB))
    return np.clip(values, 0, 255).astype(np.uint8)


def encode(columns: Columns) -> bytes:
    """Return the frame of the WebSocket: columns, tracks and bands as u16, u8, u8, then values."""
    return struct.pack("<HBB", *columns.shape) + columns.tobytes()


class Pictures:
    """Turns a stream of stems into columns for mixture and stems.

    Args:
        n_stems: number of stems.
        channels: of each; a band's power is their mean.
        sample_rate: in Hz.
        hop: samples per column.
    """

    def __init__(self, n_stems: int, channels: int, sample_rate: int, hop: int) -> None:
        self._hop, self._shape = hop, (n_stems, channels)
        window = np.sin(np.pi * np.arange(WINDOW) / WINDOW) ** 2
        self._window = window.astype(np.float32)[:, None]
        scale = np.full(WINDOW // 2 + 1, 2.0)
        scale[[0, -1]] = 1.0
        scale /= WINDOW * np.sum(window**2)
        self._weights = (band_weights(sample_rate) * scale[:, None]).astype(np.float32)
        # Before the stream began there was silence.
        self._kept = np.zeros((WINDOW - hop, n_stems * channels), np.float32)

    def add(self, stems: Floats) -> Columns:
        """Add the next samples and return the columns that they complete.

        Args:
            stems: (n, S * C), stem by stem its channels; any n.

        Returns:
            (columns, 1 + S, BANDS), the mixture first: the sum of the stems.
        """
        n_stems, channels = self._shape
        samples = np.concatenate((self._kept, stems))
        n_columns = max(0, (len(samples) - WINDOW) // self._hop + 1)
        self._kept = samples[n_columns * self._hop :]
        spectra = np.empty((n_columns, WINDOW // 2 + 1, n_stems, channels), np.complex64)
        for index in range(n_columns):
            frame = samples[index * self._hop :][:WINDOW] * self._window
            spectra[index] = np.fft.rfft(frame, axis=0).reshape(-1, n_stems, channels)
        tracks = np.concatenate((spectra.sum(axis=2, keepdims=True), spectra), axis=2)
        powers = np.mean(tracks.real**2 + tracks.imag**2, axis=3)
        return to_values(np.einsum("nkt,kb->ntb", powers, self._weights))
