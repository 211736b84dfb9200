"""How time works: memory is a value, and offline is one long step.

Inside the network time is the second axis, (B, T, C): every layer is then a
matrix product over contiguous channels, which is what a CPU is fast at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

S = TypeVar("S")


class StreamingModule(nn.Module, Generic[S]):
    """A causal layer whose memory is passed in and handed back, never kept.

    `step` is the only implementation. `forward` is `step` over a whole
    sequence from a blank memory, so offline and streaming cannot drift apart.
    """

    def init_state(self, batch: int) -> S:
        """Return the memory of `batch` streams that have heard nothing yet."""
        raise NotImplementedError

    def step(self, x: Tensor, state: S) -> tuple[Tensor, S]:
        """Advance by T >= 1 frames: (B, T, C_in) -> (B, T, C_out) and the new memory."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Run offline: (B, T, C_in) -> (B, T, C_out)."""
        return self.step(x, self.init_state(x.shape[0]))[0]


class Chain(StreamingModule[tuple[Any, ...]]):
    """Layers one after another; the memory is the tuple of theirs."""

    def __init__(self, layers: Sequence[StreamingModule[Any]]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def init_state(self, batch: int) -> tuple[Any, ...]:
        """Return the memories of all layers."""
        return tuple(layer.init_state(batch) for layer in self.layers)  # type: ignore[operator]

    def step(self, x: Tensor, state: tuple[Any, ...]) -> tuple[Tensor, tuple[Any, ...]]:
        """Pass x through every layer in turn."""
        after: list[Any] = []
        for layer, memory in zip(self.layers, state, strict=True):
            x, memory = layer.step(x, memory)  # type: ignore[operator]
            after.append(memory)
        return x, tuple(after)
