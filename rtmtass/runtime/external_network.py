"""Our transform around a network that somebody else computes: torch, or onnxruntime.

The compiled runtime has its network between `analyse` and `synthesise` within
one call; here it is any object that takes spectra and answers with spectra.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rtmtass.config import ModelConfig
from rtmtass.jit.compiler import LOOSE, kernel
from rtmtass.runtime.protocols import CHUNK
from rtmtass.runtime.stft_kernels import HOP, PART, Frames, analyse, synthesise

Floats = NDArray[np.float32]
Longs = NDArray[np.int64]


class Network(Protocol):
    """A network and the memory of the streams it hears."""

    def advance(self, mixture: Floats) -> Floats:
        """Answer the next frames of all streams.

        Args:
            mixture: (B, T, 2F) float32, [re | im] of T >= 1 frames; read, not kept.

        Returns:
            (B, T, S 2F), good until the next call.
        """

    def reset(self, stream: int | None = None) -> None:
        """Forget what one stream heard, or all."""


class SpectralStream:
    """One stream's transform and alignment around a network; see `base.Stream`."""

    def __init__(self, config: ModelConfig, network: Network, channels: int, chunk: int) -> None:
        bins = config.stft.n_bins
        self._network, self._chunk = network, chunk
        self._lookahead = config.net.lookahead
        self._frames = Frames.of(config, bins, chunk, channels)
        self._scratch = np.zeros(self._frames.scratch_size, np.float32)
        self._mixture = np.zeros((1, chunk, 2 * bins), np.float32)
        self._waiting = np.zeros((self._lookahead + chunk, 2 * bins), np.float32)
        self._memory = self._frames.silence()
        self._clock = 0

    def reset(self) -> None:
        """Forget everything heard."""
        self._network.reset()
        self._memory[:] = self._frames.silence()
        self._waiting[:] = 0
        self._clock = 0

    def run(self, samples: Floats, out: Floats, highband_weights: Floats, hops: int) -> None:
        """Separate `hops` hops, up to `chunk` frames a step of the network."""
        frames, sizes, late = self._frames, self._frames.sizes, self._lookahead
        hop, waiting = int(sizes[HOP]), self._waiting
        for done in range(0, hops, self._chunk):
            n = min(self._chunk, hops - done)
            mixture = self._mixture[:, :n]
            analyse(
                samples, done * hop, n, self._clock, sizes, frames.analysis, frames.tables,
                self._memory, self._scratch, mixture[0],
            )  # fmt: skip
            stems = self._network.advance(mixture)[0]
            waiting[late : late + n] = mixture[0]
            synthesise(
                waiting[:n], stems, out, highband_weights, done * hop, n, self._clock, sizes,
                frames.synthesis, frames.product, frames.tables, self._memory, self._scratch,
            )  # fmt: skip
            waiting[:late] = waiting[n : n + late].copy()
            self._clock += n


@kernel(fastmath=LOOSE)
def _analyse_all(
    samples: Floats,
    first: int,
    frames: int,
    sizes: Longs,
    window: Floats,
    tables: Floats,
    memory: Floats,
    scratch: Floats,
    mixture: Floats,
) -> None:
    """As `analyse` for samples (B, n), memory (B, M), mixture (B, >= frames, 2 part)."""
    for b in range(samples.shape[0]):
        one = samples[b].reshape((samples.shape[1], 1))
        analyse(one, first, frames, 0, sizes, window, tables, memory[b], scratch, mixture[b])


@kernel(fastmath=LOOSE)
def _synthesise_all(
    aligned: Floats,
    stems: Floats,
    out: Floats,
    highband_weights: Floats,
    first: int,
    frames: int,
    sizes: Longs,
    window: Floats,
    product: Floats,
    tables: Floats,
    memory: Floats,
    scratch: Floats,
) -> None:
    """As `synthesise` for out (B, S, n); nobody reads the shares, all write the same."""
    for b in range(out.shape[0]):
        one = out[b].reshape((out.shape[1], out.shape[2], 1))
        synthesise(
            aligned[b], stems[b], one, highband_weights, first, frames, 0, sizes, window, product,
            tables, memory[b], scratch,
        )  # fmt: skip


class SpectralBatch:
    """Many mono streams in step around one network; see `base.BatchStream`."""

    def __init__(self, config: ModelConfig, network: Network, streams: int) -> None:
        bins = config.stft.n_bins
        self._network, self._lookahead = network, config.net.lookahead
        self._frames = Frames.of(config, bins, CHUNK, 1)
        self._scratch = np.zeros(self._frames.scratch_size, np.float32)
        self._waiting = np.zeros((streams, self._lookahead + CHUNK, 2 * bins), np.float32)
        self._memory = np.stack([self._frames.silence()] * streams)
        self._highband_weights = np.zeros((len(config.stems), 0), np.float32)

    def reset(self, stream: int | None = None) -> None:
        """Forget what one stream heard, or all."""
        which = slice(None) if stream is None else stream
        self._network.reset(stream)
        self._memory[which] = self._frames.silence()
        self._waiting[which] = 0

    def run(self, samples: Floats, out: Floats, hops: int) -> None:
        """Separate `hops` hops of every stream, up to `CHUNK` frames a step of the network."""
        frames, sizes, late = self._frames, self._frames.sizes, self._lookahead
        hop, waiting = int(sizes[HOP]), self._waiting
        if self._highband_weights.shape[1] < out.shape[2]:
            self._highband_weights = np.zeros((out.shape[1], out.shape[2]), np.float32)
        for done in range(0, hops, CHUNK):
            n = min(CHUNK, hops - done)
            mixture = np.empty((len(samples), n, 2 * int(sizes[PART])), np.float32)
            _analyse_all(
                samples, done * hop, n, sizes, frames.analysis, frames.tables, self._memory,
                self._scratch, mixture,
            )  # fmt: skip
            stems = self._network.advance(mixture)
            waiting[:, late : late + n] = mixture
            _synthesise_all(
                waiting, stems, out, self._highband_weights, done * hop, n, sizes, frames.synthesis,
                frames.product, frames.tables, self._memory, self._scratch,
            )  # fmt: skip
            waiting[:, :late] = waiting[:, n : n + late].copy()
