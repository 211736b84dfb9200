"""Pictures of a running stream: a column of the mixture's and the stems' bands for each hop."""

from __future__ import annotations

import numpy as np

from rtmtass.types import Bytes, Samples
from rtmtass.web.bands import band_powers, picture_bytes, picture_header

_HOPS_PER_WINDOW = 2


def encode_picture(columns: Bytes) -> bytes:
    """Return a frame of the WebSocket with (columns, rows, bands), the newest column last."""
    return picture_header(*columns.shape[:2]) + columns.tobytes()


class Pictures:
    """Turns a stream of stems into columns; a column covers the hop that ends and the one before.

    Args:
        n_stems: number of stems.
        channels: of each; a band's power is their mean.
        sample_rate: in Hz.
        hop: samples per column.
    """

    def __init__(self, n_stems: int, channels: int, sample_rate: int, hop: int) -> None:
        self._shape, self._sample_rate, self._hop = (n_stems, channels), sample_rate, hop
        # Before the stream began there was silence.
        self._kept = np.zeros((n_stems * channels, hop), np.float32)

    def add(self, stems: Samples) -> Bytes:
        """Add the next samples and return the columns that they complete.

        Args:
            stems: (n, S * C), stem by stem its channels; any n.

        Returns:
            (columns, 1 + S, bands): the mixture, which is the sum of the stems, and the stems.
        """
        samples = np.concatenate((self._kept, stems.T), axis=1)
        window = _HOPS_PER_WINDOW * self._hop
        starts = range(0, samples.shape[1] - window + 1, self._hop)
        self._kept = samples[:, len(starts) * self._hop :]
        frames = np.empty((len(starts), *self._shape, window), np.float32)
        for frame, start in zip(frames, starts, strict=True):
            frame[:] = samples[:, start : start + window].reshape(frame.shape)
        tracks = np.concatenate((frames.sum(axis=1, keepdims=True), frames), axis=1)
        return picture_bytes(band_powers(tracks, self._sample_rate).mean(axis=2))
