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

    def run(self, samples: Floats, out: Floats, shares: Floats, hops: int) -> None:
        """Separate whole hops.

        Args:
            samples: (n, C) float32, C-contiguous, n >= `hops` times the hop.
            out: (S, n, C) float32, receives the stems, the model's delay late.
            shares: (S, n) float32, receives each stem's share of the top band.
            hops: how many hops to run; samples beyond them stay untouched.
        """

    def reset(self) -> None:
        """Forget everything heard."""


class BatchStream(Protocol):
    """Many sounds being separated at once, hop by hop."""

    def run(self, samples: Floats, out: Floats, hops: int) -> None:
        """Separate whole hops of every stream.

        Args:
            samples: (B, n) float32, C-contiguous, n >= `hops` times the hop.
            out: (B, S, n) float32, receives the stems, the model's delay late.
            hops: how many hops to run, `CHUNK` at most.
        """

    def reset(self, stream: int | None = None) -> None:
        """Forget everything heard in one stream, or in all."""


class Runtime(Protocol):
    """A network ready to run; makes independent streams.

    Attributes:
        precision: what the weights of its products are kept in, of `config.PRECISIONS`.
        weight_bytes: bytes of weights that one hop reads.
    """

    @property
    def precision(self) -> str: ...  # noqa: D102

    @property
    def weight_bytes(self) -> int: ...  # noqa: D102

    def batch(self, streams: int) -> BatchStream:
        """Return that many new streams, mono, that run in one call."""

    def stream(self, channels: int = 1, chunk: int = 1) -> Stream:
        """Return a new stream of `channels` linked channels, up to `chunk` hops a pass."""
