"""Many streams on one network, processed together so that the weights are read once for all."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from rtmtass.amplitude import LARGEST, first_damaged
from rtmtass.config import ModelConfig
from rtmtass.errors import BlockSizeError, InputError, UsageError
from rtmtass.runtime.protocols import CHUNK, BatchRuntime
from rtmtass.separator import open_runtime
from rtmtass.types import Samples
from rtmtass.weights import DEFAULT, open_model

_IN_USE = "another thread is using this batch; give each thread its own with load_batch()"


class StreamBatch:
    """Separates B independent mono streams in one call.

    Each stream's output is bit-identical to that of a `Separator`. Use a batch
    from one thread at a time; a call during another's is an error.

    Args:
        config: the model's config.
        runtime: a runtime of that model.
        streams: number of streams, B.

    Attributes:
        stems, sample_rate, hop: as in `Separator`.
        delay: offset of the outputs against the inputs, in samples.
        streams: B.

    Raises:
        UsageError: `streams` is less than 1; or, from `process`, `process_into` and
            `reset`, another thread is inside one of them.
    """

    def __init__(self, config: ModelConfig, runtime: BatchRuntime, streams: int) -> None:
        if streams < 1:
            raise UsageError(f"streams must be 1 or more, got {streams}")
        self.config, self.streams = config, streams
        self.stems = config.stems
        self.sample_rate, self.hop = config.stft.sample_rate, config.stft.hop
        self.delay = config.delay
        self.precision, self.weight_bytes = runtime.precision, runtime.weight_bytes
        self._batch = runtime.batch(streams)
        self._in_use = threading.Lock()

    def process(self, blocks: ArrayLike) -> Samples:
        """Process the next samples of every stream.

        Args:
            blocks: (B, n), n a multiple of `hop`. Full scale is 1.0.

        Returns:
            (B, S, n): the stems, `delay` samples late, in a new array.

        Raises:
            BlockSizeError: wrong number of streams, or n is not a multiple of `hop`.
            InputError: a sample is NaN, Inf or beyond 1e9; no state is changed.
        """
        mixtures = np.ascontiguousarray(blocks, np.float32)
        if mixtures.ndim != 2 or len(mixtures) != self.streams or mixtures.shape[1] % self.hop:
            raise BlockSizeError(
                f"got blocks of shape {mixtures.shape}, expected ({self.streams}, n) with n"
                f" a multiple of {self.hop}; pad or split them"
            )
        if first_damaged(mixtures) is not None:
            stream, sample = (int(i) for i in np.argwhere(~(np.abs(mixtures) <= LARGEST))[0])
            raise InputError(
                f"sample {sample} of stream {stream} is {mixtures[stream, sample]}, expected a"
                f" finite number up to {LARGEST:g} (full scale is 1.0); clean the input first"
            )
        out = np.empty((self.streams, len(self.stems), mixtures.shape[1]), np.float32)
        self.process_into(mixtures, out)
        return out

    def process_into(self, blocks: Samples, out: Samples) -> None:
        """As `process`, without checks and into an existing array.

        Args:
            blocks: (B, n) float32, C-contiguous, finite, n a multiple of `hop`.
            out: (B, S, n) float32, C-contiguous.
        """
        # Compiled code has no bounds checks: two threads at once would write anywhere.
        if not self._in_use.acquire(False):
            raise UsageError(_IN_USE)
        try:
            self._process_into(blocks, out)
        finally:
            self._in_use.release()

    def _process_into(self, blocks: Samples, out: Samples) -> None:
        n, capacity = blocks.shape[1], CHUNK * self.hop
        if n <= capacity:
            self._batch.run(blocks, out, n // self.hop)
            return
        for start in range(0, n, capacity):
            piece = np.ascontiguousarray(blocks[:, start : start + capacity])
            stems = np.empty((*out.shape[:2], piece.shape[1]), np.float32)
            self._batch.run(piece, stems, piece.shape[1] // self.hop)
            out[..., start : start + capacity] = stems

    def reset(self, stream: int | None = None) -> None:
        """Reset the state of one stream, or of all.

        Raises:
            UsageError: `stream` is out of range.
        """
        if stream is not None and not 0 <= stream < self.streams:
            raise UsageError(f"no stream {stream}; choose from 0 to {self.streams - 1}")
        if not self._in_use.acquire(False):
            raise UsageError(_IN_USE)
        try:
            self._batch.reset(stream)
        finally:
            self._in_use.release()


def load_batch(
    model: str = DEFAULT,
    *,
    streams: int,
    runtime: str = "numba",
    device: str = "cpu",
    precision: str = "auto",
    on_compile: Callable[[], None] | None = None,
) -> StreamBatch:
    """Open a model for many streams.

    Args:
        model, runtime, device, precision, on_compile: as in `separator.load`.
        streams: number of streams.

    Raises:
        ModelError, UsageError, MissingPartError: as in `separator.load`.
    """
    opened = open_model(model)
    from rtmtass.jit.compiler import compile_once

    with compile_once(on_compile):
        batch = StreamBatch(
            opened.config, open_runtime(opened, runtime, device, precision), streams
        )
        batch.process(np.zeros((streams, batch.hop), np.float32))
        batch.reset()
    return batch
