"""The runtime people get: STFT, network and inverse in one compiled call, without torch."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from rtmtass.config import ModelConfig
from rtmtass.dsp.compiling import LOOSE, kernel
from rtmtass.runtime.machine import execute
from rtmtass.runtime.plan import Plan, Weights, build
from rtmtass.runtime.transform import HOP, Frames, analyse, synthesise

Floats = NDArray[np.float32]
Longs = NDArray[np.int64]


@kernel(fastmath=LOOSE)
def run_hops(
    samples: Floats,
    out: Floats,
    shares: Floats,
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
        shares: (S, n).
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
        execute(rows, weights, state, work, now, frames)
        synthesise(
            aligned, stems, out, shares, first, frames, now, sizes, synthesis, product, tables,
            memory, scratch,
        )  # fmt: skip
        clock[0] = now + frames
        done += frames


class NumbaStream:
    """One stream's memory on the compiled runtime; see `base.Stream`."""

    def __init__(self, plan: Plan, channels: int) -> None:
        self._plan = plan
        self._frames = Frames.of(plan.config, plan.part, plan.chunk, channels)
        places = [*plan.mixture[:2], *plan.aligned[:2], *plan.stems[:2], plan.chunk]
        self._places = np.array(places, np.int64)
        self._windows = (
            self._frames.analysis,
            self._frames.synthesis,
            self._frames.product,
            self._frames.tables,
        )
        self._state = np.zeros(plan.state_size, np.float32)
        self._work = np.zeros(plan.work_size, np.float32)
        self._memory = self._frames.silence()
        self._scratch = np.zeros(self._frames.scratch_size, np.float32)
        self._clock = np.zeros(1, np.int64)

    def run(self, samples: Floats, out: Floats, shares: Floats, hops: int) -> None:
        """Separate `hops` hops in one compiled call."""
        run_hops(
            samples,
            out,
            shares,
            hops,
            self._plan.rows,
            self._plan.weights,
            self._places,
            self._frames.sizes,
            self._windows,
            (self._state, self._work, self._memory, self._scratch),
            self._clock,
        )

    def reset(self) -> None:
        """Forget everything heard, without a new allocation of the arenas."""
        self._state[:] = 0
        self._memory[:] = self._frames.silence()
        self._clock[:] = 0


class NumbaRuntime:
    """A network folded and packed for the machine of this room; streams share its weights."""

    def __init__(self, config: ModelConfig, weights: Weights) -> None:
        self._config, self._weights = config, weights
        self._plans: dict[int, Plan] = {}

    def plan(self, chunk: int) -> Plan:
        """Return the plan for `chunk` hops a pass, made once."""
        if chunk not in self._plans:
            plan = build(self._config, self._weights, chunk)
            for known in self._plans.values():
                plan = dataclasses.replace(plan, weights=known.weights)
            self._plans[chunk] = plan
        return self._plans[chunk]

    def stream(self, channels: int = 1, chunk: int = 1) -> NumbaStream:
        """Return a new stream; see `base.Runtime`."""
        return NumbaStream(self.plan(chunk), channels)
