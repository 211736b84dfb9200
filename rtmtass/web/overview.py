"""Peaks and spectrogram over a whole recording, computed block by block in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rtmtass.types import Bytes, Floats, Samples
from rtmtass.web.bands import BANDS, band_powers, picture_bytes, picture_header

COLUMNS = 2000
"""Columns of an overview or a picture at most."""
MIXTURE = "mixture"
"""Name of the first track: the sum of the stems."""
_FULL = 127  # of a peak at full scale
_HOP_S = 0.016


class Spans:
    """Values over equal spans of a stream; when there are too many, neighbours are joined.

    Args:
        join: of two spans' values: `np.maximum` or `np.add`.
        shape: of a value.
    """

    def __init__(self, join: np.ufunc, shape: tuple[int, ...]) -> None:
        self._join = join
        self._span = 1  # units per row
        self._rows = np.zeros((0, *shape), np.float32)
        self._rest = np.zeros(shape, np.float32)  # of the last row, which isn't complete
        self._n_rest = 0
        self.units = 0

    def add(self, values: Floats) -> None:
        """Append (n, …) values, one per unit."""
        self.units += len(values)
        if self._n_rest:
            taken = min(self._span - self._n_rest, len(values))
            self._keep(values[:taken])
            values = values[taken:]
        whole = len(values) // self._span * self._span
        rows = values[:whole].reshape(-1, self._span, *values.shape[1:])
        self._append(self._join.reduce(rows, axis=1))
        self._keep(values[whole:])

    def columns(self, count: int) -> Floats:
        """Return (count, …): each unit's value, joined over equal parts of the whole stream.

        A row that two columns share counts for both.
        """
        rows = self._rows
        if self._n_rest:
            rows = np.concatenate((rows, self._rest[None]))
        edges = np.linspace(0, self.units / self._span, count + 1)
        starts, ends = np.floor(edges[:-1]).astype(int), np.ceil(edges[1:]).astype(int)
        pairs = zip(starts, np.maximum(ends, starts + 1), strict=True)
        return np.stack([self._join.reduce(rows[a:b], axis=0) for a, b in pairs])

    def _keep(self, values: Floats) -> None:
        """Join values with those of the incomplete row, and complete it if they suffice."""
        if not len(values):
            return
        joined = self._join.reduce(values, axis=0)
        self._rest = self._join(self._rest, joined) if self._n_rest else joined
        self._n_rest += len(values)
        if self._n_rest == self._span:
            self._n_rest = 0
            self._append(self._rest[None])

    def _append(self, rows: Floats) -> None:
        self._rows = np.concatenate((self._rows, rows))
        while len(self._rows) >= 4 * COLUMNS:
            if len(self._rows) % 2:
                last = self._rows[-1]
                self._rest = self._join(self._rest, last) if self._n_rest else last
                self._n_rest += self._span
                self._rows = self._rows[:-1]
            self._rows = self._join(self._rows[::2], self._rows[1::2])
            self._span *= 2


class Overview:
    """Peaks and spectrogram of the mixture and the stems of one recording.

    Args:
        stems: names.
        sample_rate: in Hz.
        channels: of each track.
    """

    def __init__(self, stems: Sequence[str], sample_rate: int, channels: int) -> None:
        n_tracks = 1 + len(stems)
        self._rate = sample_rate
        self._hop = max(1, round(_HOP_S * sample_rate))
        self._peaks = Spans(np.maximum, (n_tracks,))
        self._powers = Spans(np.add, (n_tracks, BANDS + 1))  # the last counts the frames
        self._pending = np.zeros((n_tracks, channels, self._hop), np.float32)  # silence before

    def add(self, tracks: Samples) -> None:
        """Add the next block: (K, n, channels), mixture and stems."""
        self._peaks.add(np.abs(tracks).max(axis=2).T)
        self._analyse(tracks.transpose(0, 2, 1))

    def peaks(self) -> bytes:
        """Return int8, 127 at full scale: `data[column * K + track]`."""
        count = min(COLUMNS, self._peaks.units)
        peaks = np.minimum(np.rint(self._peaks.columns(count) * _FULL), _FULL)
        return peaks.astype(np.int8).tobytes()

    def picture(self) -> bytes:
        """Return the spectrogram as the page takes it, see `bands`; call it once, at the end."""
        rest = -self._peaks.units % self._hop  # the last hop is complete with silence
        self._analyse(np.zeros((*self._pending.shape[:2], rest), np.float32))
        count = min(COLUMNS, self._powers.units)
        powers = self._powers.columns(count)
        data: Bytes = picture_bytes(powers[..., :BANDS] / powers[..., BANDS:])
        return picture_header(count, powers.shape[1]) + data.tobytes()

    def _analyse(self, tracks: Samples) -> None:
        """Add the powers of all frames of two hops that (K, channels, n) more samples complete."""
        x = np.concatenate((self._pending, tracks), axis=2)
        count = max(0, x.shape[2] // self._hop - 1)
        self._pending = x[..., count * self._hop :]
        if not count:
            return
        frames = np.lib.stride_tricks.sliding_window_view(x, 2 * self._hop, axis=2)
        powers = band_powers(frames[..., :: self._hop, :][:, :, :count], self._rate).mean(axis=1)
        ones = np.ones((*powers.shape[:2], 1), np.float32)
        self._powers.add(np.concatenate((powers, ones), axis=2).transpose(1, 0, 2))
