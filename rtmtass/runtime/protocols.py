"""What the engine asks of a runtime, whichever it is."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

CHUNK = 32
"""Hops that share a pass over the weights where nobody waits for the first of them."""


class Stream(Protocol):
    """One sound being separated: the memory of a stream, and its next hops."""

    def run(self, samples: Floats, out: Floats, highband_weights: Floats, hops: int) -> None:
        """Separate whole hops.

        Args:
            samples: (n, C) float32, C-contiguous, n >= `hops` times the hop.
            out: (S, n, C) float32, receives the stems, the model's delay late.
            highband_weights: (S, n) float32, receives each stem's share of the top band.
            hops: how many hops to run; samples beyond them stay untouched.
        """

    def reset(self) -> None:
        """Forget everything heard."""


class Runtime(Protocol):
    """A network ready to run; makes independent streams.

    Attributes:
        precision: what products are computed from, of `config.PRECISIONS`.
        weight_bytes: bytes of weights that one hop reads.
    """

    @property
    def precision(self) -> str: ...  # noqa: D102

    @property
    def weight_bytes(self) -> int: ...  # noqa: D102

    def stream(self, channels: int = 1, chunk: int = 1) -> Stream:
        """Return a new stream of `channels` linked channels, up to `chunk` hops a pass."""


class BatchStream(Protocol):
    """Many mono sounds being separated in step: their memories, and their next hops."""

    def run(self, samples: Floats, out: Floats, hops: int) -> None:
        """Separate whole hops of every stream.

        Args:
            samples: (B, n) float32, C-contiguous, n >= `hops` times the hop.
            out: (B, S, n) float32, C-contiguous, receives the stems, the model's delay late.
            hops: how many hops to run, `CHUNK` at most; samples beyond them stay untouched.
        """

    def reset(self, stream: int | None = None) -> None:
        """Forget what stream number `stream` heard, or all of them."""


class BatchRuntime(Runtime, Protocol):
    """A runtime that also steps many streams in one call."""

    def batch(self, streams: int) -> BatchStream:
        """Return `streams` new mono streams that run in step."""
