"""Many streams on one network, stepped together: weights are read once for all of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rtmtass.config import ModelConfig
from rtmtass.errors import BlockSizeError, InputError, UsageError
from rtmtass.runtime.protocols import CHUNK, BatchRuntime
from rtmtass.separator import compile_hint, open_runtime
from rtmtass.weights import DEFAULT, open_model

Samples = NDArray[np.float32]


class StreamBatch:
    """Separates B independent mono streams, a call for all of them.

    A stream gives the same bits here as in a `Separator` of its own. Not
    thread-safe: one batch, one thread at a time.

    Args:
        config: the model's.
        runtime: what runs it.
        streams: how many, B.

    Attributes:
        stems, sample_rate, hop: as `Separator`.
        delay: samples the output is late, exactly.
        streams: B.
    """

    def __init__(self, config: ModelConfig, runtime: BatchRuntime, streams: int) -> None:
        if streams < 1:
            raise UsageError(f"streams count from 1, got {streams}")
        self.config, self.streams = config, streams
        self.stems = config.stems
        self.sample_rate, self.hop = config.stft.sample_rate, config.stft.hop
        self.delay = config.delay
        self.precision, self.weight_bytes = runtime.precision, runtime.weight_bytes
        self._batch = runtime.batch(streams)

    def process(self, blocks: ArrayLike) -> Samples:
        """Take the next samples of every stream, return their stems, `delay` samples late.

        Args:
            blocks: (B, n), n a multiple of `hop`. Full scale is 1.0.

        Returns:
            (B, S, n): a new array.

        Raises:
            BlockSizeError: another number of streams, or no whole hops.
            InputError: a sample is not finite.
        """
        given = np.ascontiguousarray(blocks, np.float32)
        if given.ndim != 2 or len(given) != self.streams or given.shape[1] % self.hop:
            raise BlockSizeError(
                f"blocks of shape {given.shape} were given, ({self.streams}, n) expected,"
                f" n a multiple of {self.hop}"
            )
        if not np.isfinite(given).all():
            stream, sample = (int(i) for i in np.argwhere(~np.isfinite(given))[0])
            raise InputError(
                f"sample {sample} of stream {stream} is {given[stream, sample]}, not a finite"
                " number; clean the input first"
            )
        out = np.empty((self.streams, len(self.stems), given.shape[1]), np.float32)
        self.process_into(given, out)
        return out

    def process_into(self, blocks: Samples, out: Samples) -> None:
        """As `process`, without checks and into a given array.

        Args:
            blocks: (B, n) float32, C-contiguous, finite, n a multiple of `hop`.
            out: (B, S, n) float32, C-contiguous.
        """
        n, most = blocks.shape[1], CHUNK * self.hop
        if n <= most:
            self._batch.run(blocks, out, n // self.hop)
            return
        for start in range(0, n, most):
            piece = np.ascontiguousarray(blocks[:, start : start + most])
            part = np.empty((*out.shape[:2], piece.shape[1]), np.float32)
            self._batch.run(piece, part, piece.shape[1] // self.hop)
            out[..., start : start + most] = part

    def reset(self, stream: int | None = None) -> None:
        """Forget everything heard in one stream, or in all: the next sample is its first.

        Raises:
            UsageError: no such stream.
        """
        if stream is not None and not 0 <= stream < self.streams:
            raise UsageError(f"no stream {stream}: they count from 0 to {self.streams - 1}")
        self._batch.reset(stream)


def load_batch(
    model: str = DEFAULT,
    *,
    streams: int,
    runtime: str = "numba",
    device: str = "cpu",
    precision: str = "auto",
    on_compile: Callable[[], None] | None = None,
) -> StreamBatch:
    """Open a model for many streams; arguments and errors as `separator.load`.

    Args:
        model, runtime, device, precision, on_compile: as `separator.load`.
        streams: how many.
    """
    opened = open_model(model)
    with compile_hint(on_compile):
        batch = StreamBatch(
            opened.config, open_runtime(opened, runtime, device, precision), streams
        )
        batch.process(np.zeros((streams, batch.hop), np.float32))
        batch.reset()
    return batch
