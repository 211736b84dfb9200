"""Streaming modules: state is a value, and offline is one long step.

Inside the network time is the second axis, (B, T, C), so that every layer is a matmul over
contiguous channels, which is fast on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

S = TypeVar("S")


class StreamingModule(nn.Module, Generic[S]):
    """A causal layer whose state is passed in and returned, never kept.

    `step` is the only implementation. `forward` is `step` over a whole sequence from the
    initial state, so offline and streaming cannot drift apart.
    """

    def init_state(self, batch: int) -> S:
        """Return the state of `batch` streams before their first frame."""
        raise NotImplementedError

    def step(self, x: Tensor, state: S) -> tuple[Tensor, S]:
        """Process T >= 1 frames: (B, T, C_in) -> (B, T, C_out) and the new state."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Run offline: (B, T, C_in) -> (B, T, C_out)."""
        return self.step(x, self.init_state(x.shape[0]))[0]


class Chain(StreamingModule[tuple[Any, ...]]):
    """Layers in sequence; the state is the tuple of theirs."""

    def __init__(self, layers: Sequence[StreamingModule[Any]]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def init_state(self, batch: int) -> tuple[Any, ...]:
        """Return the states of all layers."""
        return tuple(layer.init_state(batch) for layer in self.layers)  # type: ignore[operator]

    def step(self, x: Tensor, state: tuple[Any, ...]) -> tuple[Tensor, tuple[Any, ...]]:
        """Pass x through every layer in turn."""
        new_states: list[Any] = []
        for layer, old in zip(self.layers, state, strict=True):
            x, new = layer.step(x, old)  # type: ignore[operator]
            new_states.append(new)
        return x, tuple(new_states)
