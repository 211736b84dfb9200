"""Runs a mono model of fixed sample rate on streams of any sample rate and channel count."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from rtmtass.amplitude import LARGEST, check_block, check_kind
from rtmtass.dsp.resample import LowLatencyResampler, Resampler
from rtmtass.errors import BlockSizeError, UsageError
from rtmtass.io.encodings import CHANNEL_MODES
from rtmtass.types import Samples

BLOCK_S = 1.0
"""Seconds of a recording that are separated at a time."""


class StreamSeparator(Protocol):
    """The part of `rtmtass.Separator` that this module uses; see there."""

    @property
    def stems(self) -> tuple[str, ...]:
        """Names of the stems, in order."""

    @property
    def sample_rate(self) -> int:
        """The model's sample rate in Hz."""

    @property
    def hop(self) -> int:
        """Samples between frames."""

    @property
    def delay(self) -> int:
        """Offset of the output against the input, in samples."""

    @property
    def algorithmic_latency(self) -> int:
        """Samples from capture to playback with an infinitely fast computer."""

    def process(self, block: Samples) -> Samples:
        """Process (n,) or (n, C) into stems, (S, n) or (S, n, C), `delay` samples late."""

    def process_with_highband(self, block: Samples) -> tuple[Samples, Samples]:
        """As `process`, and return (S, n): each stem's weight in the model's top band."""

    def flush(self) -> Samples:
        """Return the last `delay` samples, then reset."""

    def flush_with_highband(self) -> tuple[Samples, Samples]:
        """As `flush`, and return the highband weights."""

    def reset(self) -> None:
        """Reset the state."""

    def fork(self, *, block: int | None = None, channels: int | None = None) -> StreamSeparator:
        """Return a new stream on the same network."""


class FullBandSeparator:
    """A separator for streams of any sample rate and any number of channels.

    At the model's sample rate it passes blocks on to the `Separator`. At any other, it
    separates at the model's rate, resamples the stems back, and distributes what that
    path loses (the band above the model's, the resamplers' transition bands):

        out_i = up(stem_i) + w_i * (mixture - sum_j up(stem_j))

    The highband weight w_i, 0 to 1, is the smoothed fraction of stem i in the model's
    top band (6 to 7.3 kHz): a stem that dominates the top of the separated band is
    assumed to dominate above it. The weights sum to one, so the stems sum to the mixture.

    Channels: "linked" computes one set of masks from the mean of the channels and
    applies it to each, which preserves the stereo image; "independent" separates each
    channel on its own; "mono" mixes them down to one.

    Args:
        separator: provides the network; its own stream isn't used.
        sample_rate: of the blocks, in Hz.
        channels: of the blocks.
        mode: one of `CHANNEL_MODES`.
        low_latency: resample with a short delay, for live monitoring.

    Attributes:
        channels_in, channels: number of input and output channels.
        delay: offset of the output against the input, in samples at `sample_rate`.
        algorithmic_latency: samples from capture to playback with an infinitely fast
            computer, at `sample_rate`.

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
            raise UsageError(
                f"unknown channel mode {mode!r}; choose from {', '.join(CHANNEL_MODES)}"
            )
        if channels < 1:
            raise UsageError(f"channels must be 1 or more, got {channels}")
        self.sample_rate = sample_rate
        self.channels_in = channels
        self.channels = 1 if mode == "mono" else channels
        self._mixes_down = mode == "mono" and channels > 1
        self._streams = _open_streams(separator, self.channels, mode)
        first = self._streams[0]
        self.stems = first.stems
        self._model_rate = first.sample_rate
        self._model_delay = first.delay
        self._needs_resampling = sample_rate != first.sample_rate
        self.delay = first.delay
        self.algorithmic_latency = first.algorithmic_latency
        if self._needs_resampling:
            n_stem_channels = len(self.stems) * self.channels
            kind = LowLatencyResampler if low_latency else Resampler
            self._down = kind(sample_rate, first.sample_rate, self.channels)
            self._up = kind(first.sample_rate, sample_rate, n_stem_channels)
            self.delay = self._with_resamplers(first.delay)
            self.algorithmic_latency = self._with_resamplers(first.algorithmic_latency)
        self._clear()

    def process(self, block: Samples) -> Samples:
        """Process the next block.

        Args:
            block: (n, channels_in) float32, any n.

        Returns:
            (S, n, channels) float32, `delay` samples late; the stream starts with
            `delay` zeros.

        Raises:
            BlockSizeError: the shape isn't (n, channels_in).
            InputError: a sample is NaN, Inf or beyond 1e9; the state is unchanged.
        """
        if block.ndim != 2 or block.shape[1] != self.channels_in:
            raise BlockSizeError(
                f"got a block of shape {block.shape}, expected (n, {self.channels_in});"
                " set channels to the number of columns"
            )
        check_block(block)
        if self._mixes_down:
            block = block.mean(axis=1, dtype=np.float32, keepdims=True)
        if not self._needs_resampling:
            return self._separate(block)
        self._dry = np.concatenate((self._dry, block))
        stems, highband_weights = self._separate_with_highband(_bounded(self._down.process(block)))
        self._finish(*self._drop_delay(stems, highband_weights))
        return self._take(len(block))

    def flush(self) -> Samples:
        """Return the last `delay` samples, (S, delay, channels), then reset."""
        if not self._needs_resampling:
            return _stack([stream.flush() for stream in self._streams])
        stems, highband_weights = self._separate_with_highband(_bounded(self._down.flush()))
        self._finish(*self._drop_delay(stems, highband_weights))
        tails = [stream.flush_with_highband() for stream in self._streams]
        last = self._drop_delay(_stack([s for s, _ in tails]), _stack([w for _, w in tails]))
        self._finish(*last, is_last=True)
        tail = self._take(self.delay)
        self.reset()
        return tail

    def separate_blocks(self, blocks: Iterable[Samples]) -> Iterator[Samples]:
        """Separate a whole recording, and remove the delay.

        The first `delay` samples of the output are dropped, and the flush at the end returns
        as many, so that all stems together are aligned with the blocks and as long.

        Args:
            blocks: (n, channels_in) float32 each, any n; the separator is at its initial state.

        Yields:
            (S, m, channels) float32; m is 0 for the first blocks, and `delay` at the end.

        Raises:
            BlockSizeError: as `process`.
        """
        to_drop = self.delay
        for block in blocks:
            stems = self.process(block)
            dropped = min(to_drop, len(block))
            to_drop -= dropped
            yield stems[:, dropped:]
        yield self.flush()[:, to_drop:]

    def reset(self) -> None:
        """Reset the state: the next sample is the first of a new stream."""
        for stream in self._streams:
            stream.reset()
        if self._needs_resampling:
            self._down.reset()
            self._up.reset()
        self._clear()

    def _clear(self) -> None:
        n_stems = len(self.stems)
        self._to_drop = self._model_delay
        self._position = 0
        self._dry = np.zeros((0, self.channels), np.float32)
        self._ready = np.zeros((n_stems, self.delay, self.channels), np.float32)
        self._highband_weights = np.zeros((n_stems, 0, len(self._streams)), np.float32)
        self._first_weight = 0

    def _with_resamplers(self, model_samples: int) -> int:
        """Return a delay at the model's rate as one at ours, including both resamplers'."""
        upsampled = model_samples + self._up.delay + 1
        return self._down.delay + -(-upsampled * self.sample_rate // self._model_rate) + 1

    def _separate(self, block: Samples) -> Samples:
        pairs = zip(self._streams, self._split_channels(block), strict=True)
        return _stack([stream.process(part) for stream, part in pairs])

    def _separate_with_highband(self, block: Samples) -> tuple[Samples, Samples]:
        results = [
            stream.process_with_highband(part)
            for stream, part in zip(self._streams, self._split_channels(block), strict=True)
        ]
        return _stack([stems for stems, _ in results]), _stack([weights for _, weights in results])

    def _split_channels(self, block: Samples) -> list[Samples]:
        """Return each stream's input, in the shape that it expects."""
        if len(self._streams) == 1:
            return [block if self.channels > 1 else block[:, 0]]
        return [np.ascontiguousarray(block[:, c]) for c in range(self.channels)]

    def _drop_delay(self, stems: Samples, highband_weights: Samples) -> tuple[Samples, Samples]:
        """Drop the model's delay from the front of the stream."""
        n = min(self._to_drop, stems.shape[1])
        self._to_drop -= n
        return stems[:, n:], highband_weights[:, n:]

    def _finish(self, stems: Samples, highband_weights: Samples, *, is_last: bool = False) -> None:
        """Resample stems that are aligned with the mixture, and distribute the residual."""
        self._highband_weights = np.concatenate((self._highband_weights, highband_weights), axis=1)
        n_stems, n, _ = stems.shape
        flat = self._up.process(stems.transpose(1, 0, 2).reshape(n, n_stems * self.channels))
        if is_last:
            flat = np.concatenate((flat, self._up.flush()))[: len(self._dry)]
        count = len(flat)
        out = flat.reshape(count, n_stems, self.channels).transpose(1, 0, 2)
        residual = self._dry[:count] - out.sum(axis=0)
        out = out + self._next_weights(count) * residual
        self._dry = self._dry[count:]
        self._ready = np.concatenate((self._ready, out), axis=1)

    def _next_weights(self, count: int) -> Samples:
        """Interpolate the highband weights at the next `count` samples of the stream."""
        step = np.arange(self._position, self._position + count, dtype=np.int64)
        step *= self._model_rate
        index = step // self.sample_rate - self._first_weight
        fraction = ((step % self.sample_rate) / self.sample_rate).astype(np.float32)
        last = self._highband_weights.shape[1] - 1
        before = self._highband_weights[:, np.minimum(index, last)]
        after = self._highband_weights[:, np.minimum(index + 1, last)]
        self._position += count
        done = min(self._position * self._model_rate // self.sample_rate - self._first_weight, last)
        if done > 0:
            self._highband_weights = self._highband_weights[:, done:]
            self._first_weight += done
        return before + fraction[:, None] * (after - before)

    def _take(self, count: int) -> Samples:
        assert self._ready.shape[1] >= count, "delay is too small for the resamplers"
        taken = self._ready[:, :count].copy()
        self._ready = self._ready[:, count:]
        return taken


def separate_array(
    separator: StreamSeparator, mixture: ArrayLike, sample_rate: int, mode: str = "linked"
) -> Samples:
    """Separate an array of any sample rate, as `rtmtass separate` does a file.

    Args:
        separator: provides the network; its own stream isn't used.
        mixture: (N,) or (N, C), any N, finite. Full scale is 1.0.
        sample_rate: in Hz.
        mode: one of `CHANNEL_MODES`.

    Returns:
        (S, N), or (S, N, C) for (N, C); "mono" gives (S, N, 1) for it. Aligned with the
        mixture and of equal length.

    Raises:
        BlockSizeError: the mixture has other dimensions.
        InputError: a sample is NaN, Inf or beyond 1e9.
        UsageError: `sample_rate` or `mode` isn't supported.
    """
    from rtmtass.io.files import MAX_RATE_HZ, MIN_RATE_HZ

    if not MIN_RATE_HZ <= sample_rate <= MAX_RATE_HZ or sample_rate != int(sample_rate):
        raise UsageError(
            f"sample_rate is {sample_rate!r}, expected a whole number of Hz from {MIN_RATE_HZ}"
            f" to {MAX_RATE_HZ}"
        )
    check_kind(mixture)
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes Inf, and is refused
        samples = np.asarray(mixture, np.float32)
    if samples.ndim not in (1, 2) or 0 in samples.shape[1:]:
        raise BlockSizeError(
            f"got a mixture of shape {samples.shape}, expected (N,) or (N, channels)"
        )
    check_block(samples)  # of all, so that the index in the message is the mixture's
    columns = samples[:, None] if samples.ndim == 1 else samples
    stream = FullBandSeparator(separator, int(sample_rate), columns.shape[1], mode)
    size = int(sample_rate * BLOCK_S)
    blocks = (columns[at : at + size] for at in range(0, len(columns), size))
    stems = np.concatenate(list(stream.separate_blocks(blocks)), axis=1)
    return stems[:, :, 0] if samples.ndim == 1 else stems


def _open_streams(separator: StreamSeparator, channels: int, mode: str) -> list[StreamSeparator]:
    if mode == "independent":
        return [separator.fork(block=1, channels=1) for _ in range(channels)]
    return [separator.fork(block=1, channels=channels)]


def _bounded(resampled: Samples) -> Samples:
    """Clip what a filter's overshoot made larger than any input; the residual makes up for it."""
    return np.clip(resampled, -LARGEST, LARGEST)


def _stack(parts: list[Samples]) -> Samples:
    """Join the outputs of the streams, each (S, n) or (S, n, C), into (S, n, channels)."""
    if len(parts) == 1:
        only = parts[0]
        return only if only.ndim == 3 else only[:, :, None]
    return np.stack(parts, axis=2)
