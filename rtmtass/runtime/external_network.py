"""Our transform around a network that another library runs: torch or onnxruntime.

In the compiled runtime the network runs between `analyse` and `synthesise` inside one
call; here it is any object that takes spectra and returns spectra.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from rtmtass.config import ModelConfig
from rtmtass.jit.compiler import kernel
from rtmtass.runtime.protocols import CHUNK
from rtmtass.runtime.stft_kernels import HOP, Frames, analyse, synthesise
from rtmtass.types import Floats, Longs


class Network(Protocol):
    """A network and the state of its streams."""

    def advance(self, mixture: Floats) -> Floats:
        """Process the next frames of all streams.

        Args:
            mixture: (B, T, 2F) float32, [re | im] of T >= 1 frames; read, not kept.

        Returns:
            (B, T, S 2F), valid until the next call.
        """

    def reset(self, stream: int | None = None) -> None:
        """Reset the state of one stream, or of all."""


@kernel
def _analyse_all(
    samples: Floats,
    first: int,
    frames: int,
    clock: int,
    sizes: Longs,
    window: Floats,
    tables: Floats,
    memory: Floats,
    scratch: Floats,
    mixture: Floats,
) -> None:
    """As `analyse` for samples (B, n, C), memory (B, M), mixture (B, >= frames, 2F)."""
    for b in range(samples.shape[0]):
        analyse(
            samples[b], first, frames, clock, sizes, window, tables, memory[b], scratch, mixture[b]
        )


@kernel
def _synthesise_all(
    aligned: Floats,
    stems: Floats,
    out: Floats,
    highband_weights: Floats,
    first: int,
    frames: int,
    clock: int,
    sizes: Longs,
    window: Floats,
    product: Floats,
    tables: Floats,
    memory: Floats,
    scratch: Floats,
) -> None:
    """As `synthesise` for out (B, S, n, C); `highband_weights` are those of the last stream."""
    for b in range(out.shape[0]):
        synthesise(
            aligned[b], stems[b], out[b], highband_weights, first, frames, clock, sizes, window,
            product, tables, memory[b], scratch,
        )  # fmt: skip


class _Spectral:
    """Transform, alignment and buffers of one stream or many, around one network."""

    def __init__(
        self, config: ModelConfig, network: Network, streams: int, channels: int, chunk: int
    ) -> None:
        bins = config.stft.n_bins
        self._network, self._chunk = network, chunk
        self._lookahead = config.net.lookahead
        self._frames = Frames.of(config, bins, chunk, channels)
        self._scratch = np.zeros(self._frames.scratch_size, np.float32)
        self._mixture = np.zeros(streams * chunk * 2 * bins, np.float32)
        self._waiting = np.zeros((streams, self._lookahead + chunk, 2 * bins), np.float32)
        self._stft_state = np.stack([self._frames.silence()] * streams)
        self._clock = 0

    def _reset(self, stream: int | None) -> None:
        which = slice(None) if stream is None else stream
        self._network.reset(stream)
        self._stft_state[which] = self._frames.silence()
        self._waiting[which] = 0

    def _run(self, samples: Floats, out: Floats, highband_weights: Floats, hops: int) -> None:
        """Separate samples (B, n, C) into out (B, S, n, C), `chunk` frames a network step."""
        frames, sizes, late = self._frames, self._frames.sizes, self._lookahead
        hop, waiting, streams = int(sizes[HOP]), self._waiting, len(samples)
        for done in range(0, hops, self._chunk):
            n = min(self._chunk, hops - done)
            # Contiguous for any n, or numba would compile once more.
            size = streams * n * waiting.shape[2]
            mixture = self._mixture[:size].reshape(streams, n, -1)
            _analyse_all(
                samples, done * hop, n, self._clock, sizes, frames.analysis, frames.tables,
                self._stft_state, self._scratch, mixture,
            )  # fmt: skip
            stems = self._network.advance(mixture)
            waiting[:, late : late + n] = mixture
            _synthesise_all(
                waiting, stems, out, highband_weights, done * hop, n, self._clock, sizes,
                frames.synthesis, frames.product, frames.tables, self._stft_state, self._scratch,
            )  # fmt: skip
            waiting[:, :late] = waiting[:, n : n + late].copy()
            self._clock += n


class SpectralStream(_Spectral):
    """One stream around a network; see `protocols.Stream`."""

    def __init__(self, config: ModelConfig, network: Network, channels: int, chunk: int) -> None:
        super().__init__(config, network, 1, channels, chunk)

    def reset(self) -> None:
        """Return to silence before the stream."""
        self._reset(None)
        self._clock = 0

    def run(self, samples: Floats, out: Floats, highband_weights: Floats, hops: int) -> None:
        """Separate `hops` hops, up to `chunk` frames a step of the network."""
        self._run(samples[None], out[None], highband_weights, hops)


class SpectralBatch(_Spectral):
    """Many mono streams in step around one network; see `protocols.BatchStream`."""

    def __init__(self, config: ModelConfig, network: Network, streams: int) -> None:
        super().__init__(config, network, streams, 1, CHUNK)
        self._highband_weights = np.zeros((len(config.stems), 0), np.float32)

    def reset(self, stream: int | None = None) -> None:
        """Reset one stream, or all."""
        self._reset(stream)

    def run(self, samples: Floats, out: Floats, hops: int) -> None:
        """Separate `hops` hops of every stream, up to `CHUNK` frames a step of the network."""
        if self._highband_weights.shape[1] < out.shape[2]:
            self._highband_weights = np.zeros((out.shape[1], out.shape[2]), np.float32)
        self._run(samples[..., None], out[..., None], self._highband_weights, hops)
