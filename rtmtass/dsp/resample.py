"""Streaming resamplers between the recording's sample rate and the model's."""

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
    """Resamples a stream; output and input are aligned at their first sample.

    Output sample k lies at k / out_rate seconds of the input. It is returned once the
    filter has enough input: after n inputs at least `floor((n - delay) * out_rate / in_rate)`
    samples have been returned, and with `flush` exactly `ceil(n * out_rate / in_rate)`.
    The samples don't depend on the block sizes.

    Args:
        in_rate: of the input, in Hz.
        out_rate: of the output, in Hz.
        channels: of both.

    Source: soxr 1.1 (libsoxr 0.1.3, R. Sykes), linear phase, its "HQ" recipe.
    """

    def __init__(self, in_rate: int, out_rate: int, channels: int) -> None:
        self.in_rate = in_rate
        self.out_rate = out_rate
        self.channels = channels
        self.delay = _max_delay(in_rate, out_rate)
        self.reset()

    def process(self, block: Samples) -> Samples:
        """Process any number of samples; return those that are ready.

        Args:
            block: (n, channels) float32; n may be 0. Read, not kept.

        Returns:
            (m, channels) float32, a new array.

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
        """Return the remaining samples, as if silence followed, then reset.

        Returns:
            (m, channels) float32; with it the total length is exact.
        """
        remaining = -(-self._n_in * self.out_rate // self.in_rate) - self._n_out
        silence = np.zeros((self.delay + 1, self.channels), np.float32)
        tail: Samples = self._stream.resample_chunk(silence, last=True)[:remaining]
        self.reset()
        return tail

    def reset(self) -> None:
        """Clear the state; the next sample is the first of a new stream."""
        self._stream = soxr.ResampleStream(
            self.in_rate, self.out_rate, self.channels, "float32", _QUALITY
        )
        self._n_in = 0
        self._n_out = 0


@lru_cache(maxsize=64)
def _max_delay(in_rate: int, out_rate: int) -> int:
    """Return the largest delay of the output, in input samples.

    soxr filters in blocks of an undocumented length, so this is measured. Its output
    depends on the total input only, never on the block sizes.
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
    """As `Resampler`, for live use: a delay of 1.5 ms at the lower rate instead of 40.

    Its shorter filter falls off earlier, at 7.4 kHz instead of 7.8 for the model's rate.
    What it removes goes to the stems with the rest of the high band.
    """

    _MAX_BLOCK = 4096

    def __init__(self, in_rate: int, out_rate: int, channels: int) -> None:
        self.in_rate, self.out_rate, self.channels = in_rate, out_rate, channels
        self._converter = Converter(in_rate, out_rate, channels, self._MAX_BLOCK)
        self._buffer = np.zeros((self._converter.room, channels), np.float32)
        self.delay = self._converter.wait + 1
        self.reset()

    def process(self, block: Samples) -> Samples:
        """See `Resampler.process`."""
        if block.ndim != 2 or block.shape[1] != self.channels:
            raise BlockSizeError(
                f"the resampler takes blocks of shape (n, {self.channels}), not {block.shape}"
            )
        parts = [np.zeros((0, self.channels), np.float32)]
        for start in range(0, len(block), self._MAX_BLOCK):
            piece = np.ascontiguousarray(block[start : start + self._MAX_BLOCK], np.float32)
            parts.append(self._buffer[: self._converter.process(piece, self._buffer)].copy())
        self._n_in += len(block)
        self._n_out += sum(map(len, parts))
        return np.concatenate(parts)

    def flush(self) -> Samples:
        """See `Resampler.flush`."""
        remaining = -(-self._n_in * self.out_rate // self.in_rate) - self._n_out
        tail = self.process(np.zeros((self.delay + 1, self.channels), np.float32))[:remaining]
        self.reset()
        return tail

    def reset(self) -> None:
        """See `Resampler.reset`."""
        self._converter.reset()
        self._n_in = self._n_out = 0
