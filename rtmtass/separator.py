"""`Separator` processes one stream: blocks of any length in, equally long stems out."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from rtmtass.amplitude import check_block, check_kind
from rtmtass.config import PRECISIONS, TORCH_PRECISIONS, ModelConfig
from rtmtass.errors import BlockSizeError, UsageError
from rtmtass.fullband import separate_array
from rtmtass.runtime.protocols import CHUNK, BatchRuntime, Runtime
from rtmtass.runtime.tta import TtaStream, extra_delay
from rtmtass.types import Samples
from rtmtass.weights import DEFAULT, Model, open_model

RUNTIMES = {"numba": PRECISIONS, "torch": TORCH_PRECISIONS}
"""The precisions of each runtime, by its name."""
IN_USE = (
    "another thread is using this separator, which holds one stream; give each thread its own,"
    " on the same network: separator.fork()"
)


class Separator:
    """Splits one audio stream into stems, block by block and causally.

    The stems sum to the input. Several separators can share one network, see
    `fork`. Use a separator from one thread at a time; a call during another's is an error.

    Args:
        config: the model's config.
        runtime: a runtime of that model.
        block: block lengths will be multiples of this, in samples. 1 allows any
            length; a whole number of hops gives the smallest `delay`.
        channels: number of channels, C. They are linked: one set of masks, computed
            from their mean, is applied to each, which preserves the stereo image.
        passes: TTA passes, 1, 2 or 4: better stems for a proportional cost. 2 adds
            polarity inversion; 4 adds a half-hop shift of both, and half a hop of delay.

    Attributes:
        stems: names of the stems, in the order of the output's first axis.
        sample_rate: of input and output, in Hz.
        hop: samples between frames.
        grain: block lengths must be multiples of this many samples.
        delay: offset of the output against the input, in samples.
        algorithmic_latency: samples from capture to playback with an infinitely fast
            computer: `delay` plus the samples that a block must wait for.
        precision: the runtime's weight format.
        weight_bytes: bytes of weights read per pass over a hop.

    Raises:
        UsageError: `block`, `channels` or `passes` is out of range; or, from any method that
            changes the stream, another thread is inside one.
    """

    def __init__(
        self,
        config: ModelConfig,
        runtime: Runtime,
        *,
        block: int = 1,
        channels: int = 1,
        passes: int = 1,
    ) -> None:
        if block < 1 or channels < 1:
            raise UsageError(f"block and channels must be 1 or more, got {block} and {channels}")
        self.config, self.channels, self.block, self.passes = config, channels, block, passes
        self.stems = config.stems
        self.sample_rate, self.hop = config.stft.sample_rate, config.stft.hop
        self.grain = math.gcd(block, self.hop)
        tta_delay = extra_delay(passes, self.hop)
        self.delay = config.delay + tta_delay + self.hop - self.grain
        self.algorithmic_latency = config.algorithmic_latency + tta_delay
        self.precision, self.weight_bytes = runtime.precision, runtime.weight_bytes
        self._runtime = runtime
        self._in_use = threading.Lock()
        chunk = CHUNK if block % self.hop else min(CHUNK, block // self.hop)
        if passes == 1:
            self._stream = runtime.stream(channels, chunk)
        else:
            self._stream = TtaStream(config, runtime, channels, chunk, passes)
        n_stems, capacity = len(self.stems), CHUNK * self.hop
        self._input = np.zeros((capacity, channels), np.float32)
        self._separated = np.zeros((n_stems, capacity, channels), np.float32)
        self._separated_weights = np.zeros((n_stems, capacity), np.float32)
        self._queue = np.zeros((n_stems, capacity + 2 * self.hop, channels), np.float32)
        self._queue_weights = np.zeros(self._queue.shape[:2], np.float32)
        self._clear()

    def _clear(self) -> None:
        self._n_input = 0
        self._n_queued = self.hop - self.grain
        self._queue[:] = 0
        self._queue_weights[:] = 1 / len(self.stems)

    def process(self, block: ArrayLike) -> Samples:
        """Process the next block.

        Args:
            block: (n,), or (n, C) for C channels; n is any multiple of `grain`, which
                is 1 unless the separator was opened for longer blocks. Full scale is 1.0.

        Returns:
            (S, n), or (S, n, C): the stems, `delay` samples late, in a new array.

        Raises:
            BlockSizeError: the shape isn't the one this separator was opened for.
            InputError: a sample is NaN, Inf or beyond 1e9. The state is unchanged: the stream
                goes on as if the block had not been given.
        """
        return self.process_with_highband(block)[0]

    def process_with_highband(self, block: ArrayLike) -> tuple[Samples, Samples]:
        """As `process`, and return each stem's weight in the model's top band.

        Returns:
            the stems, and (S, n): for each stem the smoothed fraction, 0 to 1, of the
            mixture in the model's highest band, aligned with the stems and summing to
            one. `FullBandSeparator` splits the band above the model's with them.
        """
        samples = self._checked(block)
        n = len(samples)
        out = np.empty((len(self.stems), n, self.channels), np.float32)
        highband_weights = np.empty((len(self.stems), n), np.float32)
        self.process_into(samples, out, highband_weights)
        flat = self.channels == 1 and np.ndim(block) == 1
        return (out[:, :, 0] if flat else out), highband_weights

    def process_into(self, block: Samples, out: Samples, highband_weights: Samples) -> None:
        """As `process_with_highband`, without checks and into existing arrays.

        Args:
            block: (n, C) float32, finite.
            out: (S, n, C) float32, receives the stems.
            highband_weights: (S, n) float32, receives the highband weights.
        """
        # Compiled code has no bounds checks: two threads at once would write anywhere.
        if not self._in_use.acquire(False):
            raise UsageError(IN_USE)
        try:
            self._process_into(block, out, highband_weights)
        finally:
            self._in_use.release()

    def _process_into(self, block: Samples, out: Samples, highband_weights: Samples) -> None:
        position = 0
        while position < len(block):
            take = min(len(block) - position, len(self._input) - self._n_input)
            end = position + take
            self._input[self._n_input : self._n_input + take] = block[position:end]
            self._n_input += take
            done = self._run()
            if done == take and not self._n_queued:
                out[:, position:end] = self._separated[:, :done]
                highband_weights[:, position:end] = self._separated_weights[:, :done]
            else:
                self._through_queue(done, out[:, position:end], highband_weights[:, position:end])
            position = end

    def _run(self) -> int:
        """Separate the buffered whole hops into `_separated`; return their length in samples."""
        hops = self._n_input // self.hop
        done = hops * self.hop
        if hops:
            self._stream.run(self._input, self._separated, self._separated_weights, hops)
            self._n_input -= done
            self._input[: self._n_input] = self._input[done : done + self._n_input]
        return done

    def _through_queue(self, done: int, out: Samples, highband_weights: Samples) -> None:
        """Append `done` separated samples to the queue, then fill `out` from its front."""
        n, end = out.shape[1], self._n_queued + done
        for queue, separated, target in (
            (self._queue, self._separated, out),
            (self._queue_weights, self._separated_weights, highband_weights),
        ):
            queue[:, self._n_queued : end] = separated[:, :done]
            target[:] = queue[:, :n]
            queue[:, : end - n] = queue[:, n:end].copy()
        self._n_queued = end - n

    def flush(self) -> Samples:
        """Return the last `delay` samples, (S, delay) or (S, delay, C), then reset."""
        return self.flush_with_highband()[0]

    def flush_with_highband(self) -> tuple[Samples, Samples]:
        """As `flush`, and return the highband weights, see `process_with_highband`."""
        shape = (self.delay,) if self.channels == 1 else (self.delay, self.channels)
        tail = self.process_with_highband(np.zeros(shape, np.float32))
        self.reset()
        return tail

    def reset(self) -> None:
        """Reset the state: the next sample is the first of a new stream."""
        if not self._in_use.acquire(False):
            raise UsageError(IN_USE)
        try:
            self._stream.reset()
            self._clear()
        finally:
            self._in_use.release()

    def fork(self, *, block: int | None = None, channels: int | None = None) -> Separator:
        """Return a new, independent stream on the same network.

        Args:
            block, channels: as in the constructor; None keeps this separator's.
        """
        return Separator(
            self.config,
            self._runtime,
            block=self.block if block is None else block,
            channels=self.channels if channels is None else channels,
            passes=self.passes,
        )

    def separate(
        self, mixture: ArrayLike, sample_rate: int | None = None, *, channel_mode: str = "linked"
    ) -> Samples:
        """Separate a whole recording, by `process` in a new stream, and remove the delay.

        The state of this separator isn't changed. With a `sample_rate` the stems are those of
        `rtmtass separate`: of the full band, for any number of channels.

        Args:
            mixture: (N,), or (N, C), any N. Full scale is 1.0.
            sample_rate: of the mixture, in Hz; None for the model's, and for as many channels
                as this separator was opened with.
            channel_mode: with a `sample_rate`: "linked", "independent" or "mono", see
                `FullBandSeparator`.

        Returns:
            (S, N), or (S, N, C): aligned with the mixture and of equal length; C is 1 for "mono".

        Raises:
            BlockSizeError, InputError: as `process`.
            UsageError: the rate or the mode isn't supported.
        """
        if sample_rate is not None:
            return separate_array(self, mixture, sample_rate, channel_mode)
        samples = self._checked(mixture, grain=1)
        stream = self.fork(block=self.hop * CHUNK)
        delay, n = stream.delay, len(samples)
        padded = -(-(n + delay) // self.hop) * self.hop
        out = np.empty((len(self.stems), n, self.channels), np.float32)
        for start in range(0, padded, CHUNK * self.hop):
            block = samples[start : start + CHUNK * self.hop]
            missing = min(CHUNK * self.hop, padded - start) - len(block)
            if missing:
                block = np.concatenate([block, np.zeros((missing, self.channels), np.float32)])
            stems = stream.process(block).reshape(len(self.stems), -1, self.channels)
            first = max(start - delay, 0)
            skip = first - (start - delay)
            last = min(start - delay + len(block), n)
            if last > first:
                out[:, first:last] = stems[:, skip : skip + last - first]
        return out[:, :, 0] if np.ndim(mixture) == 1 else out

    def _checked(self, block: ArrayLike, grain: int | None = None) -> Samples:
        """Return `block` as (n, C) float32.

        Raises:
            BlockSizeError, InputError: as `process`.
        """
        check_kind(block)
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes Inf, and is refused
            samples = np.asarray(block, np.float32)
        if samples.ndim == 1 and self.channels == 1:
            samples = samples[:, None]
        if samples.ndim != 2 or samples.shape[1] != self.channels:
            expected = "(n,)" if self.channels == 1 else f"(n, {self.channels})"
            raise BlockSizeError(
                f"got a block of shape {np.shape(block)}, expected {expected};"
                " for another number of channels, open the separator with load(channels=…)"
            )
        if len(samples) % (grain or self.grain):
            raise BlockSizeError(
                f"got a block of {len(samples)} samples, expected a multiple of {self.grain};"
                " to process blocks of any length, open the separator with load(block=1)"
            )
        check_block(samples)
        return samples


def load(
    model: str = DEFAULT,
    *,
    runtime: str = "numba",
    device: str = "cpu",
    precision: str = "auto",
    block: int = 1,
    channels: int = 1,
    passes: int = 1,
    on_compile: Callable[[], None] | None = None,
) -> Separator:
    """Open a model, ready to separate.

    Args:
        model: name of a released model, or a folder with one.
        runtime: "numba", or "torch" (needs the extra `torch`).
        device: "cpu", or "cuda" with the torch runtime.
        precision: weight format: "f32", "bf16" or "int8"; on torch "f32", "tf32" or
            "bf16". "auto" is "int8" on the numba runtime, which costs the released
            models less than 0.01 dB, and "f32" on torch.
        block: block lengths will be multiples of this, see `Separator`.
        channels: number of linked channels.
        passes: TTA passes, 1, 2 or 4, see `Separator`.
        on_compile: called once if machine code has to be compiled, which happens on
            the first run after an installation and takes about ten seconds.

    Raises:
        ModelError: no such model, or its files were altered.
        UsageError: no such runtime, device, precision or number of passes.
        MissingPartError: torch was requested and isn't installed.
    """
    opened = open_model(model)
    from rtmtass.jit.compiler import compile_once

    with compile_once(on_compile):
        loaded = open_runtime(opened, runtime, device, precision)
        separator = Separator(opened.config, loaded, block=block, channels=channels, passes=passes)
        separator.process(np.zeros((separator.hop, channels), np.float32))
        separator.reset()
    return separator


def open_runtime(opened: Model, runtime: str, device: str, precision: str = "auto") -> BatchRuntime:
    """Open a runtime by name; its module is imported here, not before.

    Raises:
        UsageError: no such runtime, device or precision, or an unsupported combination.
    """
    if runtime not in RUNTIMES:
        raise UsageError(f"unknown runtime {runtime!r}; choose from {', '.join(RUNTIMES)}")
    precisions = RUNTIMES[runtime]
    if precision not in ("auto", *precisions):
        raise UsageError(
            f"the {runtime} runtime has no precision {precision!r}; choose from"
            f" auto, {', '.join(precisions)}"
        )
    if runtime == "torch":
        from rtmtass.runtime.torch.runtime import TorchRuntime

        chosen = "f32" if precision == "auto" else precision
        return TorchRuntime(opened.config, opened.weights, device, chosen)
    if device != "cpu":
        raise UsageError(
            f"the numba runtime runs on the CPU, not on {device!r}; set runtime to torch"
        )
    from rtmtass.runtime.compiled.runtime import CompiledRuntime

    chosen = "int8" if precision == "auto" else precision
    return CompiledRuntime(opened.config, opened.weights, chosen)
