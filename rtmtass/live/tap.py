"""Copies the stems of a running stream, for pictures of them; the audio path only copies."""

from __future__ import annotations

import numpy as np

from rtmtass.dsp.ring import Ring
from rtmtass.types import Floats

_BUFFER_S = 1.0


class StemTap:
    """A ring of stems at the model's rate, before their gains.

    `add_stems` is called from the engine's thread, `read` from one other. What isn't read in
    time is dropped, hop by hop.

    Args:
        n_stems: number of stems.
        channels: of each.
        hop: samples of a hop.
        sample_rate: of the model, in Hz.

    Attributes:
        hop: samples of a hop.
    """

    def __init__(self, n_stems: int, channels: int, hop: int, sample_rate: int) -> None:
        self.hop, self._channels = hop, channels
        n_columns = n_stems * channels
        n_hops = max(2, round(_BUFFER_S * sample_rate / hop))
        self._ring = Ring(n_hops * hop, n_columns)
        self._interleaved = np.zeros((hop, n_columns), np.float32)
        self._read = np.zeros((n_hops * hop, n_columns), np.float32)

    def add_stems(self, stems: Floats) -> None:
        """Add a hop, (S, H, C); allocates nothing."""
        if self._ring.free < self.hop:
            return
        for index, stem in enumerate(stems):
            self._interleaved[:, index * self._channels : (index + 1) * self._channels] = stem
        self._ring.write(self._interleaved)

    def read(self) -> Floats:
        """Return what has come since the last call, (n, S * C), stem by stem its channels.

        A view, valid until the next call; n is a multiple of the hop, and may be 0.
        """
        n = min(self._ring.available // self.hop * self.hop, len(self._read))
        self._ring.read(self._read[:n])
        return self._read[:n]
