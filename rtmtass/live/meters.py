"""Meters of a stream: stems before their gains, clipping, and the levels of the whole run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from rtmtass.types import Floats

FLOOR_DB = -120.0
"""Below it a level counts as silence: -inf."""
METER_MS = 60.0
"""Time constant of powers and peaks."""
CLIP_HOLD_S = 3.0
"""How long clipping is shown."""
FULL_SCALE = 32767 / 32768
"""The largest sample of 16 bits: a device that clips reaches it."""
_FLOOR = 10 ** (FLOOR_DB / 20)


def level_db(value: float) -> float:
    """Return an amplitude in dBFS; -inf below `FLOOR_DB`."""
    return 20 * math.log10(value) if value >= _FLOOR else -math.inf


@dataclass(frozen=True)
class RunLevels:
    """Levels since the start, by meter: the stems before their gains, mixture, output.

    Attributes:
        levels: (RMS, peak) in dBFS.
        clipped: blocks with a sample of full scale or more.
    """

    levels: dict[str, tuple[float, float]] = field(default_factory=dict)
    clipped: dict[str, int] = field(default_factory=dict)


class StreamMeters:
    """Meters stems before their gains, mixture and output; one thread updates, any may read.

    Args:
        stems: names.
        sample_rate: in Hz.
    """

    def __init__(self, stems: Sequence[str], sample_rate: int) -> None:
        self.names = (*stems, "mixture", "output")
        self._n_stems, self._sample_rate = len(stems), sample_rate
        n = len(self.names)
        self._amplitudes = np.zeros((n, 0, 0), np.float32)
        self._peaks, self._powers = np.zeros(n, np.float32), np.zeros(n, np.float32)
        self._meters = np.zeros((n, 2))
        self._totals = np.zeros((n, 2))
        self._clipped = np.zeros(n, np.int64)
        self._clipped_at = np.full(n, -math.inf)
        self._n_samples = 0

    def update(self, stems: Floats, mixture: Floats, out: Floats) -> None:
        """Add a block; allocates only for one longer than any before.

        Args:
            stems: (S, n, C), before the gains; zeros where they are missing.
            mixture: (n, C).
            out: (R, n, C), rows that add up to the output.
        """
        n, channels = mixture.shape
        if self._amplitudes.shape[1] < n or self._amplitudes.shape[2] != channels:
            self._amplitudes = np.zeros((len(self.names), n, channels), np.float32)
        if not mixture.size:
            return
        x = self._amplitudes[:, :n]
        x[: self._n_stems], x[-2] = stems, mixture
        np.sum(out, axis=0, out=x[-1])
        np.abs(x, out=x)
        np.max(x, axis=(1, 2), out=self._peaks)
        np.multiply(x, x, out=x)
        np.mean(x, axis=(1, 2), out=self._powers)
        hold = math.exp(-n / (METER_MS / 1000 * self._sample_rate))
        meters, totals = self._meters, self._totals
        meters *= hold
        self._n_samples += n
        for row, (power, peak) in enumerate(
            zip(self._powers.tolist(), self._peaks.tolist(), strict=True)
        ):
            meters[row, 0] += (1 - hold) * power
            meters[row, 1] = max(meters[row, 1], peak)
            totals[row, 0] += n * power
            totals[row, 1] = max(totals[row, 1], peak)
            if peak >= FULL_SCALE:
                self._clipped[row] += 1
                self._clipped_at[row] = self._n_samples

    def separated(self) -> dict[str, tuple[float, float]]:
        """Return (RMS, peak) in dBFS of each stem before its gain."""
        rows = self._meters[: self._n_stems].tolist()
        return {
            name: (level_db(math.sqrt(power)), level_db(peak))
            for name, (power, peak) in zip(self.names, rows, strict=False)
        }

    def clipped(self) -> tuple[str, ...]:
        """Return which of mixture and output reached full scale in the last `CLIP_HOLD_S`."""
        since = self._n_samples - CLIP_HOLD_S * self._sample_rate
        rows = zip(self.names, self._clipped_at.tolist(), strict=True)
        return tuple(name for name, at in list(rows)[-2:] if at > since)

    def run_levels(self) -> RunLevels:
        """Return the levels since the start."""
        n = max(self._n_samples, 1)
        levels = {
            name: (level_db(math.sqrt(total / n)), level_db(peak))
            for name, (total, peak) in zip(self.names, self._totals.tolist(), strict=True)
        }
        counts = dict(zip(self.names, self._clipped.tolist(), strict=True))
        return RunLevels(levels, {name: counts[name] for name in self.names[-2:]})
