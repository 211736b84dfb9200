"""Spectrogram and level of a stream of any length, in bounded memory."""

from __future__ import annotations

import math

import numpy as np

from rtmtass.report.page import COLUMNS, ROWS, shrink
from rtmtass.types import Floats, Samples

_WINDOW_S = 0.032
_SILENCE = 1e-14  # power, so that the logarithm of silence is finite


class Timeline:
    """Means over equal spans of a stream; when there are too many, neighbours are joined.

    Args:
        sample_rate: in Hz.

    Attributes:
        peak: largest absolute sample.
    """

    def __init__(self, sample_rate: int) -> None:
        self._n_fft = 1 << math.ceil(math.log2(sample_rate * _WINDOW_S))
        self._hop = self._n_fft // 2
        self._window = np.hanning(self._n_fft).astype(np.float32)
        self._pending = np.zeros(self._hop, np.float32)  # silence before the first sample
        self._span = 1  # frames per column
        self._rest: Floats | None = None
        self._columns: Floats | None = None
        self._energy, self._n_samples = 0.0, 0
        self.peak = 0.0

    def add(self, block: Samples) -> None:
        """Add the next block, (n,), any n."""
        if not len(block):
            return
        self._energy += float(np.square(block, dtype=np.float64).sum())
        self._n_samples += len(block)
        self.peak = max(self.peak, float(np.abs(block).max()))
        self._analyse(block)

    def columns(self) -> tuple[Floats, Floats]:
        """Return the spectrogram (T, F) in dB and the RMS level (T,) in dBFS, T from 1 to 959.

        A sine of amplitude 1.0 reads 0 dB in the spectrogram and -3 dBFS as level.
        """
        rows = [rows for rows in (self._columns, self._rest) if rows is not None and len(rows)]
        if not rows:  # shorter than a window
            self._analyse(np.zeros(self._n_fft, np.float32))
            return self.columns()
        last = rows[-1].mean(axis=0, keepdims=True) if rows[-1] is self._rest else rows[-1]
        table = np.concatenate([rows[0], last]) if len(rows) > 1 else last
        return table[:, :-1], 10 * np.log10(table[:, -1] + _SILENCE)

    @property
    def level_db(self) -> float:
        """RMS level of the whole stream in dBFS."""
        return 10 * math.log10(self._energy / max(1, self._n_samples) + _SILENCE)

    def _analyse(self, block: Samples) -> None:
        """Append a row per hop: `ROWS` levels in dB, then the mean square of the hop."""
        x = np.concatenate((self._pending, block))
        count = max(0, (len(x) - self._n_fft) // self._hop + 1)
        self._pending = x[count * self._hop :]
        if not count:
            return
        frames = np.lib.stride_tricks.sliding_window_view(x, self._n_fft)[:: self._hop][:count]
        magnitude = np.abs(np.fft.rfft(frames * self._window)) * (2 / self._window.sum())
        level_db = 20 * np.log10(magnitude.astype(np.float32) + 1e-7)
        power = np.square(frames[:, self._hop :]).mean(axis=1, keepdims=True)
        self._append(np.concatenate((shrink(level_db.T, ROWS).T, power), axis=1))

    def _append(self, rows: Floats) -> None:
        if self._rest is not None:
            rows = np.concatenate((self._rest, rows))
        whole = len(rows) // self._span * self._span
        columns = rows[:whole].reshape(-1, self._span, rows.shape[1]).mean(axis=1)
        self._rest = rows[whole:]
        if self._columns is not None:
            columns = np.concatenate((self._columns, columns))
        while len(columns) >= 2 * COLUMNS:
            if len(columns) % 2:  # the last one waits for its neighbour, as rows of equal mean
                again = np.repeat(columns[-1:], self._span, axis=0)
                self._rest = np.concatenate((again, self._rest))
                columns = columns[:-1]
            columns = columns.reshape(-1, 2, rows.shape[1]).mean(axis=1)
            self._span *= 2
        self._columns = columns
