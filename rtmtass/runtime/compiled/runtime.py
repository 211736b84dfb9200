"""The runtime people get: STFT, network and inverse in one compiled call, without torch."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from rtmtass.config import ModelConfig
from rtmtass.jit.compiler import LOOSE, kernel
from rtmtass.runtime.compiled.interpreter import execute
from rtmtass.runtime.compiled.lowering import build
from rtmtass.runtime.compiled.program import Program
from rtmtass.runtime.folding import Weights
from rtmtass.runtime.protocols import CHUNK
from rtmtass.runtime.stft_kernels import HOP, Frames, analyse, synthesise

Floats = NDArray[np.float32]
Longs = NDArray[np.int64]


@kernel(fastmath=LOOSE)
def run_hops(
    samples: Floats,
    out: Floats,
    highband_weights: Floats,
    hops: int,
    rows: Longs,
    weights: Floats,
    places: Longs,
    sizes: Longs,
    windows: tuple[Floats, Floats, Floats, Floats],
    arenas: tuple[Floats, Floats, Floats, Floats],
    clock: Longs,
) -> None:
    """Separate whole hops, chunk by chunk; allocates nothing.

    Args:
        samples: (n, C), n >= hops * hop.
        out: (S, n, C).
        highband_weights: (S, n).
        hops: how many of them to run.
        rows, weights: of the plan.
        places: int64: address and stride of mixture, aligned and stems; chunk.
        sizes: of `Frames`.
        windows: analysis, synthesis, their product, FFT tables.
        arenas: the stream's network state and work space, transform memory and scratch.
        clock: (1,), frames run so far.
    """
    analysis, synthesis, product, tables = windows
    state, work, memory, scratch = arenas
    chunk = places[6]
    hop = sizes[HOP]
    mixture = work[places[0] : places[0] + chunk * places[1]].reshape((chunk, places[1]))
    aligned = work[places[2] : places[2] + chunk * places[3]].reshape((chunk, places[3]))
    stems = work[places[4] : places[4] + chunk * places[5]].reshape((chunk, places[5]))
    done = 0
    while done < hops:
        frames = min(chunk, hops - done)
        now = clock[0]
        first = done * hop
        analyse(samples, first, frames, now, sizes, analysis, tables, memory, scratch, mixture)
        execute(rows, weights, state, work, now, frames, 0)
        synthesise(
            aligned, stems, out, highband_weights, first, frames, now, sizes, synthesis, product,
            tables, memory, scratch,
        )  # fmt: skip
        clock[0] = now + frames
        done += frames


@kernel(fastmath=LOOSE)
def run_batch(
    samples: Floats,
    out: Floats,
    highband_weights: Floats,
    hops: int,
    rows: Longs,
    weights: Floats,
    places: Longs,
    sizes: Longs,
    windows: tuple[Floats, Floats, Floats, Floats],
    arenas: tuple[Floats, Floats, Floats, Floats],
    clock: Longs,
) -> None:
    """Separate whole hops of many streams, all of them hop by hop; as `run_hops`.

    Args:
        samples: (B, n, 1), n >= hops * hop.
        out: (B, S, n, 1).
        highband_weights: (S, n), overwritten.
        hops, rows, weights, places, sizes, windows, clock: as `run_hops`.
        arenas: the streams' network states (B, size) and work space, transform
            memories (B, size) and scratch.
    """
    analysis, synthesis, product, tables = windows
    state, work, memory, scratch = arenas
    streams = samples.shape[0]
    stream_stride = state.size // streams
    each = memory.size // streams
    hop = sizes[HOP]
    for done in range(hops):
        now = clock[0]
        for b in range(streams):
            at = places[0] + b * places[1]
            mixture = work[at : at + places[1]].reshape((1, places[1]))
            own = memory[b * each : (b + 1) * each]
            analyse(samples[b], done * hop, 1, now, sizes, analysis, tables, own, scratch, mixture)
        execute(rows, weights, state, work, now, streams, stream_stride)
        for b in range(streams):
            at = places[2] + b * places[3]
            aligned = work[at : at + places[3]].reshape((1, places[3]))
            at = places[4] + b * places[5]
            stems = work[at : at + places[5]].reshape((1, places[5]))
            own = memory[b * each : (b + 1) * each]
            synthesise(
                aligned, stems, out[b], highband_weights, done * hop, 1, now, sizes, synthesis,
                product, tables, own, scratch,
            )  # fmt: skip
        clock[0] = now + 1


class _Arenas:
    """What one stream, or many that run together, work in."""

    def __init__(self, plan: Program, frames: Frames, streams: int = 1) -> None:
        self._frames, self._streams = frames, streams
        self._state = np.zeros(streams * plan.state_size, np.float32)
        self._work = np.zeros(plan.work_size, np.float32)
        self._memory = np.tile(frames.silence(), streams)
        self._clock = np.zeros(1, np.int64)
        places = [*plan.mixture[:2], *plan.aligned[:2], *plan.stems[:2], plan.chunk]
        scratch = np.zeros(frames.scratch_size, np.float32)
        self._arguments = (
            plan.instructions,
            plan.weights,
            np.array(places, np.int64),
            frames.sizes,
            (frames.analysis, frames.synthesis, frames.product, frames.tables),
            (self._state, self._work, self._memory, scratch),
            self._clock,
        )


class CompiledStream(_Arenas):
    """One stream's memory on the compiled runtime; see `base.Stream`."""

    def __init__(self, plan: Program, channels: int) -> None:
        super().__init__(plan, Frames.of(plan.config, plan.imag_offset, plan.chunk, channels))

    def run(self, samples: Floats, out: Floats, highband_weights: Floats, hops: int) -> None:
        """Separate `hops` hops in one compiled call."""
        run_hops(samples, out, highband_weights, hops, *self._arguments)

    def reset(self) -> None:
        """Forget everything heard, without a new allocation of the arenas."""
        self._state[:] = 0
        self._memory[:] = self._frames.silence()
        self._clock[:] = 0


class CompiledBatch(_Arenas):
    """Many streams' memories on the compiled runtime; see `base.BatchStream`."""

    def __init__(self, plan: Program, streams: int) -> None:
        super().__init__(plan, Frames.of(plan.config, plan.imag_offset, 1, 1), streams)
        n_stems = len(plan.config.stems)
        self._highband_weights = np.zeros((n_stems, CHUNK * plan.config.stft.hop), np.float32)

    def run(self, samples: Floats, out: Floats, hops: int) -> None:
        """Separate `hops` hops of every stream, up to `CHUNK` in one compiled call."""
        run_batch(
            samples[..., None], out[..., None], self._highband_weights, hops, *self._arguments
        )

    def reset(self, stream: int | None = None) -> None:
        """Forget everything heard in one stream, or in all."""
        chosen = slice(None) if stream is None else stream
        self._state.reshape(self._streams, -1)[chosen] = 0
        self._memory.reshape(self._streams, -1)[chosen] = self._frames.silence()


class CompiledRuntime:
    """A network folded and packed for the machine of this room; streams share its weights.

    Args:
        config: the model.
        weights: its arrays by name.
        precision: what the weights of products are kept in, of `config.PRECISIONS`.
    """

    def __init__(self, config: ModelConfig, weights: Weights, precision: str = "f32") -> None:
        self._config, self._weights, self._precision = config, weights, precision
        self._plans: dict[tuple[int, int], Program] = {}

    @property
    def precision(self) -> str:
        """See `base.Runtime`."""
        return self._precision

    @property
    def weight_bytes(self) -> int:
        """See `base.Runtime`."""
        return int(self.plan(1).weights.nbytes)

    def plan(self, chunk: int, streams: int = 1) -> Program:
        """Return the plan for `chunk` hops or `streams` streams a pass, made once."""
        key = (chunk, streams)
        if key not in self._plans:
            plan = build(self._config, self._weights, chunk, self._precision, streams)
            for known in self._plans.values():
                plan = dataclasses.replace(plan, weights=known.weights)
            self._plans[key] = plan
        return self._plans[key]

    def stream(self, channels: int = 1, chunk: int = 1) -> CompiledStream:
        """Return a new stream; see `base.Runtime`."""
        return CompiledStream(self.plan(chunk), channels)

    def batch(self, streams: int) -> CompiledBatch:
        """Return many new streams that run in one call; see `base.Runtime`."""
        return CompiledBatch(self.plan(1, streams), streams)
