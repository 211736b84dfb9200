"""The EMA of the weights: what is validated, kept and released instead of the last step's."""

from __future__ import annotations

import torch
from torch import Tensor

from rtmtass.net.mtass import MtassNet


class EMA:
    """An exponential moving average of the weights: steadier than the last step's.

    Args:
        net: whose weights; they must stay where they are.
        decay: what is left of the average after a step, once training isn't young.

    Attributes:
        values: the averages by name, a state_dict.
        weight: what the next `update` moves by, on the device; see `set_weight`.

    Source: Polyak and Juditsky, SIAM J. Control Optim. 30(4), 1992.
    """

    def __init__(self, net: MtassNet, decay: float) -> None:
        self.decay = decay
        now = net.state_dict()
        self.values = {k: v.detach().clone() for k, v in now.items()}
        moving = [k for k, v in now.items() if v.is_floating_point()]
        self._moving = [self.values[k] for k in moving], [now[k] for k in moving]
        fixed = [k for k in now if k not in moving]
        self._fixed = [self.values[k] for k in fixed], [now[k] for k in fixed]
        self.weight = torch.zeros((), device=self._moving[0][0].device)

    def set_weight(self, step: int) -> None:
        """Set what `update` moves by: more while training is young."""
        self.weight.fill_(1 - min(self.decay, (1 + step) / (10 + step)))

    @torch.no_grad()
    def update(self, is_good: Tensor) -> None:
        """Move towards the net's present weights.

        Args:
            is_good: a single bool on the device; where it is false, nothing moves.
        """
        averages, weights = self._moving
        # Not _foreach_lerp_: it takes no weight that lies on the device.
        way = torch._foreach_sub(weights, averages)
        torch._foreach_mul_(way, self.weight * is_good)
        torch._foreach_add_(averages, way)
        if self._fixed[0]:
            torch._foreach_copy_(*self._fixed)

    def load(self, values: dict[str, Tensor]) -> None:
        """Take the averages of a checkpoint."""
        for name, value in self.values.items():
            value.copy_(values[name])
