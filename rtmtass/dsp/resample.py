"""Carries a stream between the recording's sample rate and the model's, to the sample."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import soxr

from rtmtass.dsp.live_resample import Converter
from rtmtass.errors import BlockSizeError

Samples = npt.NDArray[np.float32]

_QUALITY = "HQ"
_PROBE_S = 0.6  # several of soxr's internal blocks at every rate from 4 to 384 kHz


class Resampler:
    """A stream at `in_rate` becomes one at `out_rate`, aligned: both begin at the same instant.

    Output sample k lies at k / out_rate seconds of the input. It comes once the
    filter has heard enough, so `process` returns as many samples as are ready:
    after n inputs at least `floor((n - delay) * out_rate / in_rate)`, and with
    `flush` exactly `ceil(n * out_rate / in_rate)`, every instant before the end.
    The samples don't depend on how the input was cut into blocks.

    Args:
        in_rate: of what comes in, in Hz.
        out_rate: of what goes out, in Hz.
        channels: of both.

    Source: soxr 1.1 (libsoxr 0.1.3, R. Sykes), linear phase, its "HQ" recipe.
    """

    def __init__(self, in_rate: int, out_rate: int, channels: int) -> None:
        self.in_rate = in_rate
        self.out_rate = out_rate
        self.channels = channels
        self.delay = _longest_wait(in_rate, out_rate)
        self.reset()

    def process(self, block: Samples) -> Samples:
        """Take any number of samples, return those that are ready.

        Args:
            block: (n, channels) float32; n may be 0. Read, not kept.

        Returns:
            (m, channels) float32, a fresh array.

        Raises:
            BlockSizeError: `block` isn't (n, channels).
        """
        if block.ndim != 2 or block.shape[1] != self.channels:
            raise BlockSizeError(
                f"the resampler takes blocks of shape (n, {self.channels}), not {block.shape}"
            )
        if not len(block):
            return np.zeros((0, self.channels), np.float32)
        self._n_in += len(block)
        ready: Samples = self._stream.resample_chunk(np.ascontiguousarray(block, np.float32))
        self._n_out += len(ready)
        return ready

    def flush(self) -> Samples:
        """Return what is still inside, as if silence followed, then start anew.

        Returns:
            (m, channels) float32, which makes the total exact.
        """
        owed = -(-self._n_in * self.out_rate // self.in_rate) - self._n_out
        silence = np.zeros((self.delay + 1, self.channels), np.float32)
        rest: Samples = self._stream.resample_chunk(silence, last=True)[:owed]
        self.reset()
        return rest

    def reset(self) -> None:
        """Forget the stream; the next sample is the first."""
        self._stream = soxr.ResampleStream(
            self.in_rate, self.out_rate, self.channels, "float32", _QUALITY
        )
        self._n_in = 0
        self._n_out = 0


@lru_cache(maxsize=64)
def _longest_wait(in_rate: int, out_rate: int) -> int:
    """Return by how many input samples the output can be behind, at worst.

    soxr filters in blocks of a length it keeps to itself, so we watch it work. What
    it hands over depends only on how much it has heard, never on how that was cut.
    """
    stream = soxr.ResampleStream(in_rate, out_rate, 1, "float32", _QUALITY)
    step = max(1, in_rate // 4000)
    silence = np.zeros((step, 1), np.float32)
    worst, n_out = 0, 0
    for n_in in range(step, int(in_rate * _PROBE_S), step):
        n_out += len(stream.resample_chunk(silence))
        worst = max(worst, n_in - n_out * in_rate // out_rate)
    return worst + step


class LowLatencyResampler:
    """As `Resampler`, for who listens while it runs: 1.5 ms late at the lower rate, not 40.

    The filter is shorter, so it falls off earlier: 7.4 kHz instead of 7.8 for the
    model's rate. What it takes is dealt out with what lies above the band.
    """

    _LONGEST = 4096

    def __init__(self, in_rate: int, out_rate: int, channels: int) -> None:
        self.in_rate, self.out_rate, self.channels = in_rate, out_rate, channels
        self._converter = Converter(in_rate, out_rate, channels, self._LONGEST)
        self._made = np.zeros((self._converter.room, channels), np.float32)
        self.delay = self._converter.wait + 1
        self.reset()

    def process(self, block: Samples) -> Samples:
        """See `Resampler.process`."""
        if block.ndim != 2 or block.shape[1] != self.channels:
            raise BlockSizeError(
                f"the resampler takes blocks of shape (n, {self.channels}), not {block.shape}"
            )
        parts = [np.zeros((0, self.channels), np.float32)]
        for start in range(0, len(block), self._LONGEST):
            piece = np.ascontiguousarray(block[start : start + self._LONGEST], np.float32)
            parts.append(self._made[: self._converter.process(piece, self._made)].copy())
        self._n_in += len(block)
        self._n_out += sum(map(len, parts))
        return np.concatenate(parts)

    def flush(self) -> Samples:
        """See `Resampler.flush`."""
        owed = -(-self._n_in * self.out_rate // self.in_rate) - self._n_out
        rest = self.process(np.zeros((self.delay + 1, self.channels), np.float32))[:owed]
        self.reset()
        return rest

    def reset(self) -> None:
        """See `Resampler.reset`."""
        self._converter.reset()
        self._n_in = self._n_out = 0
