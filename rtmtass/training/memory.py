"""What streams remember, handed on from batch to batch: long streams learnt from short crops.

A network that always begins with a blank memory and hears a few seconds never
meets the memory it has after minutes of sound or silence, and gets worse with it.
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


class Memories:
    """Begins a share of the examples with what an example of the batch before ended with.

    Whose memory an example gets is drawn anew each time, so that it goes with sound,
    level and silence of any kind; gradients don't reach back into it.

    Args:
        net: whose memory it is.
        share: of the examples, 0..1; the others begin blank.
        seed: with the batch's number it decides everything.
    """

    def __init__(self, net: MtassNet, share: float, seed: int) -> None:
        self._net, self._share, self._seed = net, share, seed
        self.last: NetState | None = None

    def begin(self, batch: int, number: int) -> NetState:
        """Return the memory (B = `batch`) to begin batch `number` with."""
        blank: NetState = mapped(lambda t: t.float(), self._net.init_state(batch))
        if self.last is None or self.last.level.shape[0] != batch:
            return blank
        rng = np.random.default_rng([self._seed, number, 0])
        device = blank.past.device
        keep = torch.from_numpy(rng.random(batch) < self._share).to(device)
        order = torch.from_numpy(rng.permutation(batch)).to(device)

        def chosen(memory: Tensor) -> Tensor:
            kept = keep.reshape(-1, *[1] * (memory.ndim - 1))
            return torch.where(kept, memory[order], torch.zeros_like(memory))

        handed: NetState = mapped(chosen, self.last)
        return handed

    def end(self, memory: NetState) -> None:
        """Keep what a batch ended with, unless it isn't finite."""
        kept: NetState = mapped(lambda t: t.detach().float(), memory)
        is_finite = all(bool(t.isfinite().all()) for t in tensors(kept))
        self.last = kept if is_finite else None

    def to_list(self) -> list[Tensor]:
        """Return what is kept as a list, for a checkpoint; empty where nothing is."""
        return [] if self.last is None else tensors(self.last)

    def from_list(self, values: list[Tensor]) -> None:
        """Take back what `to_list` gave."""
        rest = iter(values)
        blank = self._net.init_state(1)
        self.last = mapped(lambda _: next(rest), blank) if values else None
