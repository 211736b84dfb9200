"""The one object that owns a stream: samples in by any block, stems out, always as many."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rtmtass.config import PRECISIONS, TORCH_PRECISIONS, ModelConfig
from rtmtass.errors import BlockSizeError, InputError, UsageError
from rtmtass.runtime.protocols import CHUNK, BatchRuntime, Runtime
from rtmtass.runtime.tta import TtaStream, extra_delay
from rtmtass.weights import DEFAULT, Model, open_model

Samples = NDArray[np.float32]

RUNTIMES = {"numba": PRECISIONS, "torch": TORCH_PRECISIONS}
"""The runtimes, and the precisions each has."""
COMPILE_HINT_S = 1.5
"""A cached start is over by then: what still runs is compiling."""


class Separator:
    """Splits one stream of sound into stems, block by block, and never sees the future.

    The stems always sum to the input. One network can serve many separators,
    see `fork`. Not thread-safe: one stream, one thread at a time.

    Args:
        config: the model's.
        runtime: what runs it.
        block: the lengths of all blocks will be multiples of this. 1 takes any
            length; whole hops (256) give the smallest `delay`.
        channels: of the sound. Several are linked: one set of masks, from their
            mean, is applied to each, so that the image stays where it is.
        passes: how often everything is heard, 1, 2 or 4: better stems for as many
            times the work. 2 hears it upside down, too; 4 both also with frames half a
            hop later, and is that much later.

    Attributes:
        stems: names of the stems, in the order of the output's first axis.
        sample_rate: Hz of input and output.
        hop: samples between frames.
        delay: samples the output is late, exactly.
        algorithmic_latency: samples from capture to playback if computing took
            no time: `delay` and the samples a block must wait for.
        precision: what the runtime keeps the weights in.
        weight_bytes: bytes of weights that one pass over a hop reads.
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
            raise UsageError(f"block and channels count from 1, got {block} and {channels}")
        self.config, self.channels, self.block, self.passes = config, channels, block, passes
        self.stems = config.stems
        self.sample_rate, self.hop = config.stft.sample_rate, config.stft.hop
        self.grain = math.gcd(block, self.hop)
        later = extra_delay(passes, self.hop)
        self.delay = config.delay + later + self.hop - self.grain
        self.algorithmic_latency = config.algorithmic_latency + later
        self.precision, self.weight_bytes = runtime.precision, runtime.weight_bytes
        self._runtime = runtime
        chunk = CHUNK if block % self.hop else min(CHUNK, block // self.hop)
        if passes == 1:
            self._stream = runtime.stream(channels, chunk)
        else:
            self._stream = TtaStream(config, runtime, channels, chunk, passes)
        n_stems, capacity = len(self.stems), CHUNK * self.hop
        self._inbox = np.zeros((capacity, channels), np.float32)
        self._fresh = np.zeros((n_stems, capacity, channels), np.float32)
        self._fresh_highband_weights = np.zeros((n_stems, capacity), np.float32)
        self._outbox = np.zeros((n_stems, capacity + 2 * self.hop, channels), np.float32)
        self._outbox_highband_weights = np.zeros(self._outbox.shape[:2], np.float32)
        self._clear()

    def _clear(self) -> None:
        self._filled = 0
        self._waiting = self.hop - self.grain
        self._outbox[:] = 0
        self._outbox_highband_weights[:] = 1 / len(self.stems)

    def process(self, block: ArrayLike) -> Samples:
        """Take the next samples and return as many of each stem, `delay` samples late.

        Args:
            block: (n,), or (n, C) for C channels; any n that is a multiple of
                `grain` (1 unless the separator was opened for longer blocks).
                Full scale is 1.0.

        Returns:
            (S, n), or (S, n, C): a new array.

        Raises:
            BlockSizeError: the shape isn't what this separator was opened for.
            InputError: a sample is not finite.
        """
        return self.process_with_highband(block)[0]

    def process_with_highband(self, block: ArrayLike) -> tuple[Samples, Samples]:
        """As `process`, and tell who owns the top of the band.

        Returns:
            the stems, and (S, n): each stem's smooth share of the mixture's
            highest band, 0..1, summing to one, in step with the stems. It
            decides for what lies above the model's band.
        """
        given = self._checked(block)
        n = len(given)
        out = np.empty((len(self.stems), n, self.channels), np.float32)
        highband_weights = np.empty((len(self.stems), n), np.float32)
        self.process_into(given, out, highband_weights)
        flat = self.channels == 1 and np.ndim(block) == 1
        return (out[:, :, 0] if flat else out), highband_weights

    def process_into(self, block: Samples, out: Samples, highband_weights: Samples) -> None:
        """As `process_with_highband`, without checks and into given arrays.

        Args:
            block: (n, C) float32, finite.
            out: (S, n, C) float32, receives the stems.
            highband_weights: (S, n) float32, receives the shares.
        """
        position = 0
        while position < len(block):
            take = min(len(block) - position, len(self._inbox) - self._filled)
            end = position + take
            self._inbox[self._filled : self._filled + take] = block[position:end]
            self._filled += take
            done = self._run()
            if done == take and not self._waiting:
                out[:, position:end] = self._fresh[:, :done]
                highband_weights[:, position:end] = self._fresh_highband_weights[:, :done]
            else:
                self._through_outbox(done, out[:, position:end], highband_weights[:, position:end])
            position = end

    def _run(self) -> int:
        """Separate the whole hops of the inbox into `_fresh`; return how many samples."""
        hops = self._filled // self.hop
        done = hops * self.hop
        if hops:
            self._stream.run(self._inbox, self._fresh, self._fresh_highband_weights, hops)
            self._filled -= done
            self._inbox[: self._filled] = self._inbox[done : done + self._filled]
        return done

    def _through_outbox(self, done: int, out: Samples, highband_weights: Samples) -> None:
        """Queue `done` fresh samples, hand out as many as `out` holds."""
        n, end = out.shape[1], self._waiting + done
        for queue, fresh, target in (
            (self._outbox, self._fresh, out),
            (self._outbox_highband_weights, self._fresh_highband_weights, highband_weights),
        ):
            queue[:, self._waiting : end] = fresh[:, :done]
            target[:] = queue[:, :n]
            queue[:, : end - n] = queue[:, n:end].copy()
        self._waiting = end - n

    def flush(self) -> Samples:
        """Return what is still inside, (S, delay) or (S, delay, C), and `reset`."""
        return self.flush_with_highband()[0]

    def flush_with_highband(self) -> tuple[Samples, Samples]:
        """As `flush`, with the shares of `process_with_highband`."""
        shape = (self.delay,) if self.channels == 1 else (self.delay, self.channels)
        rest = self.process_with_highband(np.zeros(shape, np.float32))
        self.reset()
        return rest

    def reset(self) -> None:
        """Forget everything heard: the next sample is the first."""
        self._stream.reset()
        self._clear()

    def fork(self, *, block: int | None = None, channels: int | None = None) -> Separator:
        """Return an independent stream on the same network, blank, alike unless told otherwise."""
        return Separator(
            self.config,
            self._runtime,
            block=self.block if block is None else block,
            channels=self.channels if channels is None else channels,
            passes=self.passes,
        )

    def separate(self, mixture: ArrayLike) -> Samples:
        """Separate a whole array: the same path as `process`, the delay taken out.

        This separator's own stream is not touched.

        Args:
            mixture: (N,), or (N, C).

        Returns:
            (S, N), or (S, N, C): aligned with the mixture, of equal length.

        Raises:
            BlockSizeError, InputError: as `process`.
        """
        given = self._checked(mixture, grain=1)
        stream = self.fork(block=self.hop * CHUNK)
        delay, n = stream.delay, len(given)
        padded = -(-(n + delay) // self.hop) * self.hop
        out = np.empty((len(self.stems), n, self.channels), np.float32)
        for start in range(0, padded, CHUNK * self.hop):
            piece = given[start : start + CHUNK * self.hop]
            room = min(CHUNK * self.hop, padded - start) - len(piece)
            if room:
                piece = np.concatenate([piece, np.zeros((room, self.channels), np.float32)])
            stems = stream.process(piece).reshape(len(self.stems), -1, self.channels)
            first = max(start - delay, 0)
            skip = first - (start - delay)
            last = min(start - delay + len(piece), n)
            if last > first:
                out[:, first:last] = stems[:, skip : skip + last - first]
        return out[:, :, 0] if np.ndim(mixture) == 1 else out

    def _checked(self, block: ArrayLike, grain: int | None = None) -> Samples:
        given = np.asarray(block, np.float32)
        if given.ndim == 1 and self.channels == 1:
            given = given[:, None]
        if given.ndim != 2 or given.shape[1] != self.channels:
            wanted = "(n,)" if self.channels == 1 else f"(n, {self.channels})"
            raise BlockSizeError(
                f"a block of shape {np.shape(block)} was given, {wanted} expected;"
                " open the separator with load(channels=…) for other channel counts"
            )
        if len(given) % (grain or self.grain):
            raise BlockSizeError(
                f"a block of {len(given)} samples was given, but this separator was opened for"
                f" multiples of {self.grain}; open it with load(block=1) to take any length"
            )
        if not np.isfinite(given).all():
            where = int(np.argmin(np.isfinite(given).all(axis=1)))
            raise InputError(
                f"sample {where} of the block is {given[where].tolist()}, not a finite number;"
                " clean the input first"
            )
        return given


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
        model: the name of a released model, or a folder with one.
        runtime: "numba", or "torch" (needs the extra `torch`).
        device: "cpu", or "cuda" with the torch runtime.
        precision: what the weights are kept in: "f32", "bf16" or "int8"; on torch
            "f32", "tf32" or "bf16". "auto" is "int8" on the numba runtime, whose cost
            in the released models is within a hundredth of a dB, and "f32" on torch.
        block: the lengths of all blocks will be multiples of this, see `Separator`.
        channels: of the sound; several are linked.
        passes: how often everything is heard, 1, 2 or 4: better stems for as many
            times the work; 4 is half a hop later. See `Separator`.
        on_compile: called once if the machine code has to be compiled now, which
            happens on the first run after an installation and takes some ten seconds.

    Raises:
        ModelError: no such model, or its files were altered.
        UsageError: no such runtime, device, precision or number of passes.
        MissingPartError: torch is asked for and not installed.
    """
    opened = open_model(model)
    with compile_hint(on_compile):
        engine = open_runtime(opened, runtime, device, precision)
        separator = Separator(opened.config, engine, block=block, channels=channels, passes=passes)
        separator.process(np.zeros((separator.hop, channels), np.float32))
        separator.reset()
    return separator


@contextmanager
def compile_hint(on_compile: Callable[[], None] | None) -> Iterator[None]:
    """Call `on_compile` if what is done within takes longer than a cached start."""
    hint = threading.Timer(COMPILE_HINT_S, on_compile or (lambda: None))
    hint.daemon = True
    hint.start()
    try:
        yield
    finally:
        hint.cancel()


def open_runtime(opened: Model, runtime: str, device: str, precision: str = "auto") -> BatchRuntime:
    """Make the runtime of that name; its room is imported only now.

    Raises:
        UsageError: no such runtime, device or precision, or not together.
    """
    if runtime not in RUNTIMES:
        raise UsageError(f"no runtime {runtime!r}: there are {', '.join(RUNTIMES)}")
    known = RUNTIMES[runtime]
    if precision not in ("auto", *known):
        raise UsageError(
            f"the {runtime} runtime has no precision {precision!r}: it has auto, {', '.join(known)}"
        )
    if runtime == "torch":
        from rtmtass.runtime.torch.runtime import TorchRuntime

        chosen = "f32" if precision == "auto" else precision
        return TorchRuntime(opened.config, opened.weights, device, chosen)
    if device != "cpu":
        raise UsageError(f"the numba runtime runs on the cpu, not on {device!r}: add runtime torch")
    from rtmtass.runtime.compiled.runtime import CompiledRuntime

    chosen = "int8" if precision == "auto" else precision
    return CompiledRuntime(opened.config, opened.weights, chosen)
