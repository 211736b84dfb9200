"""The interface of a runtime, the same for all."""

from __future__ import annotations

from typing import Protocol

from rtmtass.types import Floats

CHUNK = 32
"""Hops that share a pass over the weights when latency doesn't matter, as for files."""


class Stream(Protocol):
    """The state of one stream, and how to process its next hops."""

    def run(self, samples: Floats, out: Floats, highband_weights: Floats, hops: int) -> None:
        """Separate whole hops.

        Args:
            samples: (n, C) float32, C-contiguous, n >= `hops` times the hop.
            out: (S, n, C) float32, receives the stems, late by the model's delay.
            highband_weights: (S, n) float32, receives each stem's fraction of the top band.
            hops: how many hops to run; later samples stay untouched.
        """

    def reset(self) -> None:
        """Return to silence before the stream."""


class Runtime(Protocol):
    """A network ready to run; makes independent streams.

    Attributes:
        precision: of the matmuls, one of `config.PRECISIONS` or `config.TORCH_PRECISIONS`.
        weight_bytes: bytes of weights that one hop reads.
    """

    @property
    def precision(self) -> str: ...  # noqa: D102

    @property
    def weight_bytes(self) -> int: ...  # noqa: D102

    def stream(self, channels: int = 1, chunk: int = 1) -> Stream:
        """Return a new stream of `channels` linked channels, up to `chunk` hops a pass."""


class BatchStream(Protocol):
    """The states of many mono streams that run in step, and how to process their next hops."""

    def run(self, samples: Floats, out: Floats, hops: int) -> None:
        """Separate whole hops of every stream.

        Args:
            samples: (B, n) float32, C-contiguous, n >= `hops` times the hop.
            out: (B, S, n) float32, C-contiguous, receives the stems, late by the model's delay.
            hops: how many hops to run, at most `CHUNK`; later samples stay untouched.
        """

    def reset(self, stream: int | None = None) -> None:
        """Return stream number `stream`, or all, to silence."""


class BatchRuntime(Runtime, Protocol):
    """A runtime that also runs many streams in one call."""

    def batch(self, streams: int) -> BatchStream:
        """Return `streams` new mono streams that run in step."""
