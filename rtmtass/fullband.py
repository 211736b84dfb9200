"""Brings any sample rate and any number of channels to a model that knows one of each."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from rtmtass.dsp.resample import LowLatencyResampler, Resampler
from rtmtass.errors import BlockSizeError, UsageError
from rtmtass.io.encodings import CHANNEL_MODES

Samples = npt.NDArray[np.float32]


class StreamSeparator(Protocol):
    """What this room needs of `rtmtass.Separator`; its docstrings say what each does."""

    @property
    def stems(self) -> tuple[str, ...]:
        """Names of the stems, in order."""

    @property
    def sample_rate(self) -> int:
        """The model's, in Hz."""

    @property
    def hop(self) -> int:
        """Samples between frames."""

    @property
    def delay(self) -> int:
        """Output against input, in samples."""

    @property
    def algorithmic_latency(self) -> int:
        """Capture to playback with an infinitely fast computer, in samples."""

    def process(self, block: Samples) -> Samples:
        """(n,) or (n, C) in, (S, n) or (S, n, C) out, `delay` late."""

    def process_with_highband(self, block: Samples) -> tuple[Samples, Samples]:
        """Also return (S, n): the stems' shares of the model's top band."""

    def flush(self) -> Samples:
        """Return the last `delay` samples, then reset."""

    def flush_with_highband(self) -> tuple[Samples, Samples]:
        """Return what `flush` does, with shares."""

    def reset(self) -> None:
        """Forget the stream."""

    def fork(self, *, block: int | None = None, channels: int | None = None) -> StreamSeparator:
        """Return another stream on the same network."""


class FullBandSeparator:
    """A Separator for recordings of any rate and any number of channels.

    At the model's own rate this is the Separator. At another, the stems are
    separated at the model's rate and resampled back, and what that path loses
    (everything above the model's band, the resamplers' slopes) is dealt out:

        out_i = up(stem_i) + share_i * (mixture - sum_j up(stem_j))

    where share_i, between 0 and 1, is the smoothed part of stem i in the model's
    top band (6 to 7.3 kHz): a sound that rules the top of the known band is taken
    to rule what lies above. The shares sum to one, so the stems sum to the mixture.

    Channels: "linked" computes one set of masks from the mean of the channels and
    applies it to each, so the image stays put; "independent" separates each by
    itself; "mono" mixes them to one.

    Args:
        separator: whose network is used; its own stream is left alone.
        sample_rate: of the blocks, in Hz.
        channels: of the blocks.
        mode: one of CHANNEL_MODES.
        low_latency: resample with little delay, for who listens while it runs.

    Raises:
        UsageError: unknown mode, or less than one channel.
    """

    _dry: Samples
    _ready: Samples
    _highband_weights: Samples

    def __init__(
        self,
        separator: StreamSeparator,
        sample_rate: int,
        channels: int,
        mode: str = "linked",
        *,
        low_latency: bool = False,
    ) -> None:
        if mode not in CHANNEL_MODES:
            raise UsageError(f"channels can be {', '.join(CHANNEL_MODES)}, not {mode!r}")
        if channels < 1:
            raise UsageError(f"a recording has one channel or more, not {channels}")
        self.sample_rate = sample_rate
        self.channels_in = channels
        self.channels = 1 if mode == "mono" else channels
        self._mixes_down = mode == "mono" and channels > 1
        self._streams = _open_streams(separator, self.channels, mode)
        first = self._streams[0]
        self.stems = first.stems
        self._model_rate = first.sample_rate
        self._wait = first.delay
        self._needs_resampling = sample_rate != first.sample_rate
        self.delay = first.delay
        self.algorithmic_latency = first.algorithmic_latency
        if self._needs_resampling:
            n_stem_channels = len(self.stems) * self.channels
            kind = LowLatencyResampler if low_latency else Resampler
            self._down = kind(sample_rate, first.sample_rate, self.channels)
            self._up = kind(first.sample_rate, sample_rate, n_stem_channels)
            self.delay = self._in_own_samples(first.delay)
            self.algorithmic_latency = self._in_own_samples(first.algorithmic_latency)
        self._forget()

    def process(self, block: Samples) -> Samples:
        """Separate the next samples.

        Args:
            block: (n, channels_in) float32, any n.

        Returns:
            (S, n, channels) float32, `delay` samples late: first that many zeros.

        Raises:
            BlockSizeError: not (n, channels_in).
        """
        if block.ndim != 2 or block.shape[1] != self.channels_in:
            raise BlockSizeError(
                f"blocks must be of shape (n, {self.channels_in}), not {block.shape}"
            )
        if self._mixes_down:
            block = block.mean(axis=1, dtype=np.float32, keepdims=True)
        if not self._needs_resampling:
            return self._separate(block)
        self._dry = np.concatenate((self._dry, block))
        stems, highband_weights = self._separate_with_shares(self._down.process(block))
        self._finish(*self._drop_wait(stems, highband_weights))
        return self._take(len(block))

    def flush(self) -> Samples:
        """Return the last (S, delay, channels) of the stream, then start anew."""
        if not self._needs_resampling:
            return _stack([stream.flush() for stream in self._streams])
        stems, highband_weights = self._separate_with_shares(self._down.flush())
        self._finish(*self._drop_wait(stems, highband_weights))
        rest = [stream.flush_with_highband() for stream in self._streams]
        last = self._drop_wait(_stack([s for s, _ in rest]), _stack([g for _, g in rest]))
        self._finish(*last, is_last=True)
        tail = self._take(self.delay)
        self.reset()
        return tail

    def reset(self) -> None:
        """Forget the stream; the next sample is the first."""
        for stream in self._streams:
            stream.reset()
        if self._needs_resampling:
            self._down.reset()
            self._up.reset()
        self._forget()

    def _forget(self) -> None:
        n_stems = len(self.stems)
        self._to_drop = self._wait
        self._position = 0
        self._dry = np.zeros((0, self.channels), np.float32)
        self._ready = np.zeros((n_stems, self.delay, self.channels), np.float32)
        self._highband_weights = np.zeros((n_stems, 0, len(self._streams)), np.float32)
        self._first_share = 0

    def _in_own_samples(self, model_samples: int) -> int:
        wait = model_samples + self._up.delay + 1
        return self._down.delay + -(-wait * self.sample_rate // self._model_rate) + 1

    def _separate(self, block: Samples) -> Samples:
        pairs = zip(self._streams, self._parts(block), strict=True)
        return _stack([stream.process(part) for stream, part in pairs])

    def _separate_with_shares(self, block: Samples) -> tuple[Samples, Samples]:
        pairs = [
            stream.process_with_highband(part)
            for stream, part in zip(self._streams, self._parts(block), strict=True)
        ]
        return _stack([stems for stems, _ in pairs]), _stack(
            [highband_weights for _, highband_weights in pairs]
        )

    def _parts(self, block: Samples) -> list[Samples]:
        if len(self._streams) == 1:
            return [block if self.channels > 1 else block[:, 0]]
        return [np.ascontiguousarray(block[:, c]) for c in range(self.channels)]

    def _drop_wait(self, stems: Samples, highband_weights: Samples) -> tuple[Samples, Samples]:
        n = min(self._to_drop, stems.shape[1])
        self._to_drop -= n
        return stems[:, n:], highband_weights[:, n:]

    def _finish(self, stems: Samples, highband_weights: Samples, *, is_last: bool = False) -> None:
        """Resample the stems, which are in time with the mixture now, and deal out the rest."""
        self._highband_weights = np.concatenate((self._highband_weights, highband_weights), axis=1)
        n_stems, n, _ = stems.shape
        flat = self._up.process(stems.transpose(1, 0, 2).reshape(n, n_stems * self.channels))
        if is_last:
            flat = np.concatenate((flat, self._up.flush()))[: len(self._dry)]
        count = len(flat)
        out = flat.reshape(count, n_stems, self.channels).transpose(1, 0, 2)
        rest = self._dry[:count] - out.sum(axis=0)
        out = out + self._shares_at(count) * rest
        self._dry = self._dry[count:]
        self._ready = np.concatenate((self._ready, out), axis=1)

    def _shares_at(self, count: int) -> Samples:
        """Interpolate the shares at the next `count` samples of the recording."""
        step = np.arange(self._position, self._position + count, dtype=np.int64)
        step *= self._model_rate
        index = step // self.sample_rate - self._first_share
        fraction = ((step % self.sample_rate) / self.sample_rate).astype(np.float32)
        last = self._highband_weights.shape[1] - 1
        before = self._highband_weights[:, np.minimum(index, last)]
        after = self._highband_weights[:, np.minimum(index + 1, last)]
        self._position += count
        done = min(self._position * self._model_rate // self.sample_rate - self._first_share, last)
        if done > 0:
            self._highband_weights = self._highband_weights[:, done:]
            self._first_share += done
        return before + fraction[:, None] * (after - before)

    def _take(self, count: int) -> Samples:
        assert self._ready.shape[1] >= count, "delay is too small for the resamplers"
        taken = self._ready[:, :count].copy()
        self._ready = self._ready[:, count:]
        return taken


def _open_streams(separator: StreamSeparator, channels: int, mode: str) -> list[StreamSeparator]:
    if mode == "independent":
        return [separator.fork(block=1, channels=1) for _ in range(channels)]
    return [separator.fork(block=1, channels=channels)]


def _stack(parts: list[Samples]) -> Samples:
    """Join the streams' outputs, each (S, n) or (S, n, C), to (S, n, channels)."""
    if len(parts) == 1:
        only = parts[0]
        return only if only.ndim == 3 else only[:, :, None]
    return np.stack(parts, axis=2)
