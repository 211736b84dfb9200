"""The default runtime: STFT, network and inverse STFT in one compiled call, without torch."""

from __future__ import annotations

import dataclasses

import numpy as np

from rtmtass.config import ModelConfig
from rtmtass.jit.compiler import borrow_rows, kernel
from rtmtass.runtime.compiled.interpreter import execute
from rtmtass.runtime.compiled.lowering import build
from rtmtass.runtime.compiled.program import Program
from rtmtass.runtime.folding import Weights
from rtmtass.runtime.protocols import CHUNK
from rtmtass.runtime.stft_kernels import HOP, Frames, analyse, synthesise
from rtmtass.types import Floats, Longs


@kernel
def run_hops(
    samples: Floats,
    out: Floats,
    highband_weights: Floats,
    hops: int,
    instructions: Longs,
    weights: Floats,
    registers: Longs,
    sizes: Longs,
    windows: tuple[Floats, Floats, Floats, Floats],
    arenas: tuple[Floats, Floats, Floats, Floats],
    clock: Longs,
) -> None:
    """Separate whole hops of one stream, chunk by chunk, or of many, hop by hop.

    Allocates nothing.

    Args:
        samples: (B, n, C), n >= hops * hop; C = 1 where B > 1.
        out: (B, S, n, C).
        highband_weights: (S, n), those of the last stream.
        hops: how many to run.
        instructions, weights: of the program.
        registers: int64: address and stride of mixture, aligned and stems; chunk (1 for B > 1).
        sizes: of `Frames`.
        windows: analysis, synthesis, their product, FFT tables.
        arenas: the streams' network states (B * size,), work, transform states (B * size,),
            scratch.
        clock: (1,), frames run so far.
    """
    analysis, synthesis, product, tables = windows
    state, work, stft_state, scratch = arenas
    streams, chunk, hop = samples.shape[0], registers[6], sizes[HOP]
    stream_stride = state.size // streams if streams > 1 else 0
    stft_stride = stft_state.size // streams
    done = 0
    while done < hops:
        frames = min(chunk, hops - done)
        now = clock[0]
        first = done * hop
        for b in range(streams):
            mixture = _register(work, registers[0], registers[1], b, chunk)
            memory = stft_state[b * stft_stride : (b + 1) * stft_stride]
            analyse(
                samples[b], first, frames, now, sizes, analysis, tables, memory, scratch, mixture
            )
        execute(instructions, weights, state, work, now, frames * streams, stream_stride)
        for b in range(streams):
            aligned = _register(work, registers[2], registers[3], b, chunk)
            stems = _register(work, registers[4], registers[5], b, chunk)
            memory = stft_state[b * stft_stride : (b + 1) * stft_stride]
            synthesise(
                aligned, stems, out[b], highband_weights, first, frames, now, sizes, synthesis,
                product, tables, memory, scratch,
            )  # fmt: skip
        clock[0] = now + frames
        done += frames


@kernel
def _register(work: Floats, at: int, stride: int, stream: int, chunk: int) -> Floats:
    """Return a register's frames of one stream as a view, (chunk, stride)."""
    return borrow_rows(work, at + stream * chunk * stride, chunk, stride)


class _Arenas:
    """Buffers and arguments of one stream, or of many that run together."""

    def __init__(self, program: Program, frames: Frames, streams: int = 1) -> None:
        self._frames, self._streams = frames, streams
        self._state = np.zeros(streams * program.state_size, np.float32)
        self._work = np.zeros(program.work_size, np.float32)
        self._stft_state = np.tile(frames.silence(), streams)
        self._clock = np.zeros(1, np.int64)
        registers = [*program.mixture[:2], *program.aligned[:2], *program.stems[:2], program.chunk]
        scratch = np.zeros(frames.scratch_size, np.float32)
        self._arguments = (
            program.instructions,
            program.weights,
            np.array(registers, np.int64),
            frames.sizes,
            (frames.analysis, frames.synthesis, frames.product, frames.tables),
            (self._state, self._work, self._stft_state, scratch),
            self._clock,
        )


class CompiledStream(_Arenas):
    """One stream on the compiled runtime; see `protocols.Stream`."""

    def __init__(self, program: Program, channels: int) -> None:
        frames = Frames.of(program.config, program.imag_offset, program.chunk, channels)
        super().__init__(program, frames)

    def run(self, samples: Floats, out: Floats, highband_weights: Floats, hops: int) -> None:
        """Separate `hops` hops in one compiled call."""
        run_hops(samples[None], out[None], highband_weights, hops, *self._arguments)

    def reset(self) -> None:
        """Return to silence before the stream, in place."""
        self._state[:] = 0
        self._stft_state[:] = self._frames.silence()
        self._clock[:] = 0


class CompiledBatch(_Arenas):
    """Many streams on the compiled runtime; see `protocols.BatchStream`."""

    def __init__(self, program: Program, streams: int) -> None:
        super().__init__(program, Frames.of(program.config, program.imag_offset, 1, 1), streams)
        n_stems, hop = len(program.config.stems), program.config.stft.hop
        self._highband_weights = np.zeros((n_stems, CHUNK * hop), np.float32)

    def run(self, samples: Floats, out: Floats, hops: int) -> None:
        """Separate `hops` hops of every stream, up to `CHUNK`, in one compiled call."""
        run_hops(samples[..., None], out[..., None], self._highband_weights, hops, *self._arguments)

    def reset(self, stream: int | None = None) -> None:
        """Return one stream, or all, to silence."""
        which = slice(None) if stream is None else stream
        self._state.reshape(self._streams, -1)[which] = 0
        self._stft_state.reshape(self._streams, -1)[which] = self._frames.silence()


class CompiledRuntime:
    """A network folded, packed and lowered to a program; streams share its weights.

    Args:
        config: the model.
        weights: its arrays by name.
        precision: of the matmuls' weights, one of `config.PRECISIONS`.
    """

    def __init__(self, config: ModelConfig, weights: Weights, precision: str = "f32") -> None:
        self._config, self._weights, self._precision = config, weights, precision
        self._programs: dict[tuple[int, int], Program] = {}

    @property
    def precision(self) -> str:
        """See `protocols.Runtime`."""
        return self._precision

    @property
    def weight_bytes(self) -> int:
        """See `protocols.Runtime`."""
        return int(self.program(1).weights.nbytes)

    def program(self, chunk: int, streams: int = 1) -> Program:
        """Return the program for `chunk` hops or `streams` streams a pass, built once."""
        key = (chunk, streams)
        if key not in self._programs:
            program = build(self._config, self._weights, chunk, self._precision, streams)
            for earlier in self._programs.values():  # the same weights, kept once
                program = dataclasses.replace(program, weights=earlier.weights)
            self._programs[key] = program
        return self._programs[key]

    def stream(self, channels: int = 1, chunk: int = 1) -> CompiledStream:
        """Return a new stream; see `protocols.Runtime`."""
        return CompiledStream(self.program(chunk), channels)

    def batch(self, streams: int) -> CompiledBatch:
        """Return new streams that run in one call; see `protocols.BatchRuntime`."""
        return CompiledBatch(self.program(1, streams), streams)
