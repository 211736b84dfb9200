"""Keeps a remix below full scale: a true-peak limiter with lookahead."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from rtmtass.types import Samples

CEILING_DB = -1.0
"""Highest true peak of a limited remix, in dBTP; lossy encoders need the room above."""

_MARGIN_DB = 0.5  # for meters with yet other filters, which matters on white noise only
_LOOKAHEAD_S = 0.005
_RELEASE_S = 0.1
_REACH = 32  # samples before and behind a peak between samples that decide on its height
_OVERSAMPLING = 4
_SMALLEST = 1e-3  # an attenuation below it, 0.009 dB, is over

_BS1770 = np.array(
    [
        [0.001708984375, 0.010986328125, -0.0196533203125, 0.033203125, -0.0594482421875,
         0.1373291015625, 0.97216796875, -0.102294921875, 0.047607421875, -0.026611328125,
         0.014892578125, -0.00830078125],
        [-0.0291748046875, 0.029296875, -0.0517578125, 0.089111328125, -0.16650390625,
         0.465087890625, 0.77978515625, -0.2003173828125, 0.1015625, -0.0582275390625,
         0.0330810546875, -0.0189208984375],
    ]
)  # fmt: skip
"""Phases 0 and 1 of the filter in annex 2; phases 3 and 2 are these, reversed."""

Gains = NDArray[np.float64]


@dataclass(frozen=True)
class Limiting:
    """What a limiter did.

    Attributes:
        times: it acted.
        deepest_db: the largest reduction of the level, in dB.
        seconds: with a reduced level.
    """

    times: int = 0
    deepest_db: float = 0.0
    seconds: float = 0.0

    def to_dict(self) -> dict[str, float]:
        """Return plain values for JSON."""
        return {
            "ceiling_dbtp": CEILING_DB,
            "times": self.times,
            "deepest_db": round(self.deepest_db, 2),
            "seconds": round(self.seconds, 3),
        }


class Limiter:
    """Lowers the level around true peaks above `CEILING_DB`, all channels by the same gain.

    Between peaks nothing changes, to the bit. The gain falls within 5 ms before a peak,
    smoothly, and returns with a time constant of 100 ms.

    Peaks are those of the band-limited signal between the samples, at 4 times the sample
    rate. The gain needed is held over the lookahead, then averaged over it: an average
    of values that all suffice for the peak suffices too.

    Args:
        sample_rate: in Hz.
        channels: of the blocks.

    Source: ITU-R BS.1770-5, annex 2, for the true peak.
    """

    def __init__(self, sample_rate: int, channels: int) -> None:
        self._rate = sample_rate
        self._ceiling = 10.0 ** ((CEILING_DB - _MARGIN_DB) / 20.0)
        self._half = max(1, round(_LOOKAHEAD_S * sample_rate / 2))
        self._lookahead = 2 * self._half
        self._taps = _interpolators()
        self._gain_of_taps = float(np.abs(self._taps).sum(axis=0).max())
        self._unmeasured = np.zeros((_REACH, channels), np.float32)
        # Silence before the first sample, so that the gain can fall in time for that one too.
        self._delayed = np.zeros((self._lookahead, channels), np.float32)
        self._needed = np.zeros(self._lookahead)
        self._to_drop = self._lookahead
        self._held = np.zeros(self._lookahead)
        self._times, self._deepest, self._frames, self._received = 0, 0.0, 0, 0

    @property
    def limiting(self) -> Limiting:
        """What was done so far."""
        depth_db = 20.0 * float(np.log10(1.0 / (1.0 - self._deepest)))
        return Limiting(self._times, depth_db, min(self._frames, self._received) / self._rate)

    def process(self, block: Samples) -> Samples:
        """Limit the next block.

        Args:
            block: (n, channels) float32.

        Returns:
            (m, channels): the samples that are ready, some 5 ms late.
        """
        self._received += len(block)
        return self._advance(block)

    def _advance(self, block: Samples) -> Samples:
        self._delayed = np.concatenate((self._delayed, block))
        self._unmeasured = np.concatenate((self._unmeasured, block))
        if len(self._unmeasured) > 2 * _REACH:
            peaks = self._true_peaks(self._unmeasured)
            self._unmeasured = self._unmeasured[len(peaks) :]
            needed = 1.0 - self._ceiling / np.maximum(peaks, self._ceiling)
            self._needed = np.concatenate((self._needed, needed))
        n = len(self._needed) - self._lookahead
        if n <= 0:
            return self._delayed[:0]
        ahead = _running_max(self._needed, self._lookahead + 1)
        self._needed = self._needed[n:]
        out = self._delayed[:n] * self._gains(ahead)[:, None]
        self._delayed = self._delayed[n:]
        dropped = min(self._to_drop, n)
        self._to_drop -= dropped
        return out[dropped:]

    def flush(self) -> Samples:
        """Return the samples that are still inside; the second time none."""
        n, channels = self._delayed.shape
        n = max(0, n - self._to_drop)
        rest = self._advance(np.zeros((_REACH + self._lookahead, channels), np.float32))[:n]
        self._delayed = self._delayed[:0]
        return rest

    def _true_peaks(self, x: Samples) -> Gains:
        """Return the highest value at and around each sample but `_REACH` at either end."""
        peaks = np.abs(x).max(axis=1).astype(np.float64)
        possible = _running_max(peaks, 2 * _REACH) * self._gain_of_taps
        at = np.flatnonzero(possible > self._ceiling)  # others can't exceed the ceiling
        between = np.zeros(len(possible))
        windows = sliding_window_view(x, 2 * _REACH, axis=0)[at]
        between[at] = np.abs(windows @ self._taps).max(axis=(1, 2))
        highest: Gains = np.maximum(peaks[_REACH:-_REACH], np.maximum(between[:-1], between[1:]))
        return highest

    def _gains(self, ahead: Gains) -> Samples:
        """Return the gains for attenuations that are needed by the end of the lookahead."""
        last = self._held[-1]
        if not (ahead.any() or self._held.any()):
            return np.ones(len(ahead), np.float32)
        held = _release(ahead, last, np.exp(-1.0 / (_RELEASE_S * self._rate)))
        is_active = np.append(last, held) > 0
        self._times += int(np.count_nonzero(is_active[1:] & ~is_active[:-1]))
        self._frames += int(np.count_nonzero(held))
        self._deepest = max(self._deepest, float(held.max()))
        line = np.concatenate((self._held, held))
        self._held = line[-self._lookahead :]
        smooth = _running_mean(_running_mean(line, self._half + 1), self._half + 1)
        gains: Samples = (1.0 - smooth).astype(np.float32)
        return gains


def _interpolators() -> Samples:
    """Return (2 * _REACH, 11): filters for points between two samples, as meters have them.

    Meters agree on most signals; close to half the sample rate, their filters differ by up to
    1 dB. So there are three kinds: full band, with a roll-off, and that of BS.1770.
    """
    quarters = np.arange(_OVERSAMPLING) / _OVERSAMPLING
    kinds = [_windowed_sinc(quarters[1:], 1.0), _windowed_sinc(quarters, 0.95)]
    standard = np.zeros((2 * _REACH, _OVERSAMPLING))
    standard[_REACH - 6 : _REACH + 6] = np.array([*_BS1770, *_BS1770[::-1, ::-1]]).T
    taps: Samples = np.concatenate([*kinds, standard], axis=1).astype(np.float32)
    return taps


def _windowed_sinc(positions: Gains, cutoff: float) -> Gains:
    """Return (2 * _REACH, len(positions)); the cutoff is a fraction of half the sample rate."""
    distances = np.arange(1 - _REACH, _REACH + 1)[:, None] - positions
    window = np.i0(3.0 * np.sqrt(1.0 - (distances / _REACH) ** 2))
    taps: Gains = np.sinc(cutoff * distances) * window
    taps /= taps.sum(axis=0)
    return taps


def _running_max(x: Gains, width: int) -> Gains:
    """Return the maxima of `width` neighbours, of len(x) - width + 1 places."""
    span = 1
    while span < width:
        step = min(span, width - span)
        x = np.maximum(x[:-step], x[step:])
        span += step
    return x


def _running_mean(x: Gains, width: int) -> Gains:
    """Return the means of `width` neighbours, of len(x) - width + 1 places."""
    sums = np.cumsum(np.append(0.0, x))
    means: Gains = (sums[width:] - sums[:-width]) / width
    return means


def _release(x: Gains, last: float, decay: float) -> Gains:
    """Return y[n] = max(x[n], decay * y[n - 1]), with `last` before the first."""
    out = np.empty_like(x)
    size = max(1, int(-20.0 / np.log(decay)))  # e**20 is within the range that divides well
    for at in range(0, len(x), size):
        part = x[at : at + size]
        growth = decay ** -np.arange(1.0, len(part) + 1.0)
        y = np.maximum(np.maximum.accumulate(part * growth), last) / growth
        y[y < _SMALLEST] = 0.0
        out[at : at + size] = y
        last = y[-1]
    return out
