"""Streams that keep their own pace in one batch: a hop is run for those that have one.

`rtmtass.batch.StreamBatch` steps all of its streams in every call. Clients send when they like,
so here the same compiled call runs on neighbouring slots only, and a slot that sits out a hop
keeps its state. The network's rings are indexed by the batch's clock; a slot that has fallen
behind that clock is turned to it before it runs again.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence, Set

import numpy as np

from rtmtass.config import ModelConfig
from rtmtass.runtime.compiled.program import LEVEL, OP_LEVEL, OP_TAPS, TAPS, Program
from rtmtass.runtime.compiled.runtime import CompiledRuntime, run_hops
from rtmtass.runtime.stft_kernels import STEMS, SYNTHESIS, Frames, _weigh_top_band
from rtmtass.serve.sound import quantise
from rtmtass.types import Floats

WIDTH = 64
"""Most slots that run in one call: beyond it the work arena no longer fits the cache, and a
stream costs more (see benchmarks/streams.py)."""


class Slots:
    """The states of `n` mono streams, any of which can be stepped by a hop.

    Each slot's output is bit-identical to that of a `Separator` that was given the same hops.
    Use it from one thread at a time.

    Args:
        config: the model's config.
        runtime: of that model.
        n: number of slots.
        width: most slots of one call.

    Attributes:
        stems, sample_rate, hop, delay, algorithmic_latency: as in `Separator`, opened for
            blocks of whole hops.
        inputs: (n, H), the next hop of each slot; written by the caller.
        outputs: (n, S, H), the stems of each slot's last hop, `delay` samples late.
        highband_weights: (n, S, H), see Separator; of the slots for which they were requested.
        pcm16: (n, H, S), `outputs` as PCM16; of the slots for which it was requested.
    """

    def __init__(
        self, config: ModelConfig, runtime: CompiledRuntime, n: int, width: int = WIDTH
    ) -> None:
        self.stems = config.stems
        self.sample_rate, self.hop = config.stft.sample_rate, config.stft.hop
        self.delay, self.algorithmic_latency = config.delay, config.algorithmic_latency
        self.n, self.width = n, min(n, width)
        self._program = program = runtime.program(1, self.width)
        self._frames = frames = Frames.of(config, program.imag_offset, 1, 1)
        n_stems = len(self.stems)
        self.inputs = np.zeros((n, self.hop), np.float32)
        self.outputs = np.zeros((n, n_stems, self.hop), np.float32)
        self.highband_weights = np.zeros_like(self.outputs)
        self.pcm16 = np.zeros((n, self.hop, n_stems), "<i2")
        self._scaled = np.zeros((self.width, self.hop, n_stems), np.float32)
        self._state = np.zeros((n, program.state_size), np.float32)
        self._stft = np.tile(frames.silence(), (n, 1))
        self._work = np.zeros(program.work_size, np.float32)
        self._scratch = np.zeros(frames.scratch_size, np.float32)
        registers = [*program.mixture[:2], *program.aligned[:2], *program.stems[:2], program.chunk]
        self._registers = np.array(registers, np.int64)
        self._windows = frames.analysis, frames.synthesis, frames.product, frames.tables
        self._newest_weights = np.zeros((n_stems, self.hop), np.float32)
        self._now = np.zeros(1, np.int64)
        self._rings = list(_rings(program))
        self._period = math.lcm(*(size for _, _, size in self._rings))
        self._clocks = np.zeros(n, np.int64)
        self._turns: dict[int, np.ndarray] = {}

    def run(
        self,
        active: Sequence[int],
        weighted: Collection[int] = (),
        quantised: Set[int] = frozenset(),
    ) -> None:
        """Step slots by a hop, from `inputs` to `outputs`.

        Args:
            active: their numbers, ascending.
            weighted: those of them whose `highband_weights` are wanted.
            quantised: those of them whose `pcm16` is wanted.
        """
        for first, end in _ranges(active, self.width):
            clocks = self._clocks[first:end]
            clock = int(np.bincount(clocks).argmax())
            for i in np.flatnonzero(clocks != clock):
                self._turn(first + int(i), (clock - int(clocks[i])) % self._period)
            chosen = [slot for slot in range(first, end) if slot in weighted] if weighted else []
            earlier = {slot: self._stft[slot, : self._n_sums].copy() for slot in chosen}
            self._run_range(first, end, clock)
            for slot in chosen:
                self._weigh(slot, slot - first, earlier[slot])
            clocks[:] = (clock + 1) % self._period
            if not quantised.isdisjoint(range(first, end)):
                # All neighbours at once: a conversion for each would cost three times as much.
                frames = self.outputs[first:end].transpose(0, 2, 1)
                quantise(frames, self._scaled[: end - first], self.pcm16[first:end])

    def reset(self, slot: int) -> None:
        """Return a slot to silence before a stream."""
        self._state[slot] = 0
        self._stft[slot] = self._frames.silence()

    def swap(self, a: int, b: int) -> None:
        """Exchange the states of two slots; what they last put in and out stays."""
        for array in (self._state, self._stft, self._clocks):
            array[[a, b]] = array[[b, a]]

    def _run_range(self, first: int, end: int, clock: int) -> None:
        self._now[0] = clock
        run_hops(
            self.inputs[first:end, :, None],
            self.outputs[first:end, :, :, None],
            self._newest_weights,
            1,
            self._program.instructions,
            self._program.weights,
            self._registers,
            self._frames.sizes,
            self._windows,
            (
                self._state[first:end].reshape(-1),
                self._work,
                self._stft[first:end].reshape(-1),
                self._scratch,
            ),
            self._now,
        )

    @property
    def _n_sums(self) -> int:
        """Return the floats of STFT state that the highband weights depend on."""
        n_stems = int(self._frames.sizes[STEMS])
        return n_stems * int(self._frames.sizes[SYNTHESIS]) + n_stems + 1

    def _weigh(self, slot: int, row: int, state: Floats) -> None:
        """Compute a slot's highband weights; `run_hops` returns those of its last stream only.

        Args:
            slot: its number.
            row: of the work arena, which still holds the hop's spectra.
            state: the slot's STFT state before the hop; changed.
        """
        aligned, stems = (
            self._work[register.at + row * register.stride :][: register.stride]
            for register in (self._program.aligned, self._program.stems)
        )
        _weigh_top_band(
            aligned, stems, self.highband_weights[slot], 0, self._frames.sizes,
            self._frames.product, state,
        )  # fmt: skip

    def _turn(self, slot: int, hops: int) -> None:
        """Move what is in a slot's rings by `hops` places, as if its clock had been later."""
        if hops not in self._turns:
            source = np.arange(self._program.state_size)
            for at, width, size in self._rings:
                places = (np.arange(size)[:, None] - hops) % size * width + np.arange(width)
                source[at : at + size * width] = at + places.ravel()
            self._turns[hops] = source
        self._state[slot] = self._state[slot][self._turns[hops]]


def _rings(program: Program) -> Iterator[tuple[int, int, int]]:
    """Yield address, width and size of each ring in a stream's state that the clock indexes."""
    yield 0, 0, 1
    for op in program.instructions:
        if op[0] == OP_TAPS:
            yield int(op[TAPS.ring]), int(op[TAPS.width]), int(op[TAPS.mask]) + 1
        elif op[0] == OP_LEVEL and op[LEVEL.window]:
            yield int(op[LEVEL.state]) + 3, 1, int(op[LEVEL.window])


def _ranges(active: Sequence[int], width: int) -> Iterator[tuple[int, int]]:
    """Yield (first, end) of runs of neighbouring numbers, each at most `width` long."""
    first = end = -1
    for number in active:
        if number != end or end - first == width:
            if end > first:
                yield first, end
            first = number
        end = number + 1
    if end > first:
        yield first, end
