"""Exponential moving average (EMA) of the weights, which is validated, saved and released."""

from __future__ import annotations

import torch
from torch import Tensor

from rtmtass.net.separation import SeparationNet


class EMA:
    """Exponential moving average of a network's weights; less noisy than the last step's.

    Args:
        net: the network; its tensors must stay where they are.
        decay: weight of the old average at each step, after a short warm-up.

    Attributes:
        values: the averages by name, a state_dict.
        weight: weight of the current weights at the next `update`, a scalar on the
            device; see `set_weight`.

    Source: Polyak and Juditsky, SIAM J. Control Optim. 30(4), 1992.
    """

    def __init__(self, net: SeparationNet, decay: float) -> None:
        self.decay = decay
        now = net.state_dict()
        self.values = {k: v.detach().clone() for k, v in now.items()}
        moving = [k for k, v in now.items() if v.is_floating_point()]
        self._moving = [self.values[k] for k in moving], [now[k] for k in moving]
        fixed = [k for k in now if k not in moving]
        self._fixed = [self.values[k] for k in fixed], [now[k] for k in fixed]
        self.weight = torch.zeros((), device=self._moving[0][0].device)

    def set_weight(self, step: int) -> None:
        """Set `weight` for a step: 1 - decay, and more in the first steps."""
        self.weight.fill_(1 - min(self.decay, (1 + step) / (10 + step)))

    @torch.no_grad()
    def update(self, is_good: Tensor) -> None:
        """Move the averages towards the network's current weights.

        Args:
            is_good: a single bool on the device; if false, the averages don't change.
        """
        averages, weights = self._moving
        # Not _foreach_lerp_: its weight can't be a tensor on the device.
        difference = torch._foreach_sub(weights, averages)
        torch._foreach_mul_(difference, self.weight * is_good)
        torch._foreach_add_(averages, difference)
        if self._fixed[0]:
            torch._foreach_copy_(*self._fixed)

    def load(self, values: dict[str, Tensor]) -> None:
        """Load the averages of a checkpoint."""
        for name, value in self.values.items():
            value.copy_(values[name])
