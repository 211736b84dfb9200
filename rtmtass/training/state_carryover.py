"""State carry-over: examples start from another's final state, so short crops train for streams.

A network trained only on short crops from its initial state never sees the states that
minutes of sound or silence lead to, and gets worse in them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rtmtass.net.separation import NetState, SeparationNet


def map_state(change: Callable[[Tensor], Tensor], state: Any) -> Any:
    """Return a state, nested tuples of tensors, with `change` applied to every tensor."""
    if isinstance(state, Tensor):
        return change(state)
    parts = [map_state(change, part) for part in state]
    return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)


def state_tensors(state: Any) -> list[Tensor]:
    """Return all tensors of a state, in order."""
    if isinstance(state, Tensor):
        return [state]
    return [tensor for part in state for tensor in state_tensors(part)]


class StateCarryover:
    """Starts some examples from the final state of an example of the previous batch.

    The states are shuffled for each batch, so that an example may follow sound, level and
    silence of any kind; gradients don't flow through them.

    Per batch, call `draw` on the host, then `begin` and `end` on the device; these read
    and write tensors that stay where they are, as a captured CUDA graph requires.

    Args:
        net: the network.
        prob: probability that an example starts from a carried state, 0..1; the others
            start from the initial state.
        seed: seed of the draws, together with the batch's number.

    Attributes:
        final_states: (B, elements of one stream's state), as the last batch left them.
    """

    def __init__(self, net: SeparationNet, prob: float, seed: int) -> None:
        self._prob, self._seed = prob, seed
        self._template: NetState = net.init_state(1)
        self._sizes = [leaf[0].numel() for leaf in state_tensors(self._template)]
        self._device = self._template.past.device
        self._allocate(0)

    def _allocate(self, batch: int) -> None:
        self.final_states = torch.zeros(batch, sum(self._sizes), device=self._device)
        self._is_carried = torch.zeros(batch, 1, dtype=torch.bool, device=self._device)
        self._order = torch.zeros(batch, dtype=torch.long, device=self._device)
        self._initial_state: NetState = map_state(
            lambda leaf: leaf.new_zeros(batch, *leaf.shape[1:]), self._template
        )

    def draw(self, batch: int, number: int) -> None:
        """Draw which examples of a batch start from which carried state.

        After a change of batch size, all start from the initial state.

        Args:
            batch: examples in the batch.
            number: the batch's number.
        """
        if batch != len(self.final_states):
            self._allocate(batch)
        if not self._prob:
            return
        rng = np.random.default_rng([self._seed, number, 0])
        is_carried = rng.random((batch, 1)) < self._prob
        self._is_carried.copy_(self._pinned(is_carried), non_blocking=True)
        self._order.copy_(self._pinned(rng.permutation(batch)), non_blocking=True)

    def _pinned(self, drawn: np.ndarray[Any, Any]) -> Tensor:
        """Return a tensor that can be copied to a GPU without the host waiting."""
        tensor = torch.from_numpy(drawn)
        return tensor.pin_memory() if self._device.type == "cuda" else tensor

    def begin(self) -> NetState:
        """Return the initial state of the batch; its tensors are float32 and contiguous."""
        if not self._prob:
            return self._initial_state
        rows = torch.where(self._is_carried, self.final_states[self._order], 0.0)
        parts = iter(rows.split(self._sizes, dim=1))  # type: ignore[no-untyped-call]
        state: NetState = map_state(
            lambda leaf: next(parts).reshape(len(rows), *leaf.shape[1:]).contiguous(),
            self._template,
        )
        return state

    @torch.no_grad()
    def end(self, state: NetState, is_good: Tensor) -> None:
        """Store the final states of a batch; all become zero if any isn't finite.

        Args:
            state: the batch's final state.
            is_good: a single bool on the device; if false, the stored states don't change.
        """
        if not self._prob:
            return
        final = torch.cat([leaf.float().flatten(1) for leaf in state_tensors(state)], dim=1)
        final = torch.where(final.isfinite().all(), final, 0.0)
        self.final_states.copy_(torch.where(is_good, final, self.final_states))

    def to_list(self) -> list[Tensor]:
        """Return the stored states as a list of tensors, for a checkpoint."""
        parts = self.final_states.split(self._sizes, dim=1)  # type: ignore[no-untyped-call]
        shapes = (leaf.shape[1:] for leaf in state_tensors(self._template))
        # Cloned, as torch.save writes a view's whole storage.
        batch = len(self.final_states)
        return [p.clone().reshape(batch, *s) for p, s in zip(parts, shapes, strict=True)]

    def from_list(self, values: list[Tensor]) -> None:
        """Load the result of `to_list`; an empty list changes nothing."""
        if values:
            rows = torch.cat([value.float().flatten(1) for value in values], dim=1)
            self._allocate(len(rows))
            self.final_states.copy_(rows)
