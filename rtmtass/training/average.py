"""The averaged weights: what is judged, kept and released instead of the last step's."""

from __future__ import annotations

import torch

from rtmtass.net.mtass import MtassNet


class Average:
    """An exponential moving average of the weights: steadier than the last step's.

    Source: Polyak and Juditsky, SIAM J. Control Optim. 30(4), 1992.
    """

    def __init__(self, net: MtassNet, decay: float) -> None:
        self.decay = decay
        self.values = {k: v.detach().clone() for k, v in net.state_dict().items()}

    @torch.no_grad()
    def update(self, net: MtassNet, step: int) -> None:
        """Move towards the net's present weights, faster while training is young."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in net.state_dict().items():
            if value.is_floating_point():
                self.values[name].lerp_(value, 1 - decay)
            else:
                self.values[name].copy_(value)
