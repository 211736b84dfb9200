"""State carry-over: examples begin with a state another ended with; short crops teach long streams.

A network that always begins with silence and reads a few seconds never meets the state
it has after minutes of sound or silence, and gets worse with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rtmtass.net.mtass import MtassNet, NetState


def mapped(change: Callable[[Tensor], Tensor], memory: Any) -> Any:
    """Return a memory, tensors in tuples in tuples, with every tensor changed."""
    if isinstance(memory, Tensor):
        return change(memory)
    parts = [mapped(change, part) for part in memory]
    return type(memory)(*parts) if hasattr(memory, "_fields") else tuple(parts)


def tensors(memory: Any) -> list[Tensor]:
    """Return all tensors of a memory, in order."""
    if isinstance(memory, Tensor):
        return [memory]
    return [found for part in memory for found in tensors(part)]


class StateCarryover:
    """Begins a share of the examples with the state an example of the batch before ended with.

    Whose state an example gets is drawn anew each time, so that it goes with sound,
    level and silence of any kind; gradients don't reach back into it.

    A batch is: `draw` on the host, then `begin` and `end` on the device, which read and
    write tensors that stay where they are, as a captured CUDA graph needs it.

    Args:
        net: whose state it is.
        share: of the examples, 0..1; the others begin with silence.
        seed: with the batch's number it decides everything.
    """

    def __init__(self, net: MtassNet, share: float, seed: int) -> None:
        self._net, self._share, self._seed = net, share, seed
        self._template: NetState = net.init_state(1)
        self._sizes = [leaf[0].numel() for leaf in tensors(self._template)]
        self._device = self._template.past.device
        self._allocate(0)

    def _allocate(self, batch: int) -> None:
        self.rows = torch.zeros(batch, sum(self._sizes), device=self._device)
        """(B, all that one stream's state holds): what the last batch ended with."""
        self._keep = torch.zeros(batch, 1, dtype=torch.bool, device=self._device)
        self._order = torch.zeros(batch, dtype=torch.long, device=self._device)
        self._silence: NetState = mapped(
            lambda leaf: leaf.new_zeros(batch, *leaf.shape[1:]), self._template
        )

    def draw(self, batch: int, number: int) -> None:
        """Draw who begins with whose state in batch `number` of `batch` examples.

        Where there are more or fewer examples than before, all begin with silence.
        """
        if batch != len(self.rows):
            self._allocate(batch)
        if not self._share:
            return
        rng = np.random.default_rng([self._seed, number, 0])
        self._keep.copy_(self._ready(rng.random((batch, 1)) < self._share), non_blocking=True)
        self._order.copy_(self._ready(rng.permutation(batch)), non_blocking=True)

    def _ready(self, drawn: np.ndarray[Any, Any]) -> Tensor:
        """Return a tensor that a GPU can fetch when it gets there, without the host waiting."""
        given = torch.from_numpy(drawn)
        return given.pin_memory() if self._device.type == "cuda" else given

    def begin(self) -> NetState:
        """Return the state to begin the batch with, its tensors float32 and contiguous."""
        if not self._share:
            return self._silence
        rows = torch.where(self._keep, self.rows[self._order], 0.0)
        parts = iter(rows.split(self._sizes, dim=1))  # type: ignore[no-untyped-call]
        state: NetState = mapped(
            lambda leaf: next(parts).reshape(len(rows), *leaf.shape[1:]).contiguous(),
            self._template,
        )
        return state

    @torch.no_grad()
    def end(self, state: NetState, is_good: Tensor) -> None:
        """Keep what a batch ended with; a state that isn't finite gives way to silence.

        Args:
            state: of the batch.
            is_good: a single bool on the device; where it is false, what was kept stays.
        """
        if not self._share:
            return
        ended = torch.cat([leaf.float().flatten(1) for leaf in tensors(state)], dim=1)
        ended = torch.where(ended.isfinite().all(), ended, 0.0)
        self.rows.copy_(torch.where(is_good, ended, self.rows))

    def to_list(self) -> list[Tensor]:
        """Return what is kept as a list of tensors, for a checkpoint."""
        parts = self.rows.split(self._sizes, dim=1)  # type: ignore[no-untyped-call]
        shapes = (leaf.shape[1:] for leaf in tensors(self._template))
        # Cloned: a checkpoint holds all of a tensor's storage.
        batch = len(self.rows)
        return [p.clone().reshape(batch, *s) for p, s in zip(parts, shapes, strict=True)]

    def from_list(self, values: list[Tensor]) -> None:
        """Take back what `to_list` gave; nothing where the list is empty."""
        if values:
            rows = torch.cat([value.float().flatten(1) for value in values], dim=1)
            self._allocate(len(rows))
            self.rows.copy_(rows)
