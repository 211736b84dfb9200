"""How a network's parameters move: AdamW for all of them, or Muon for the matrices."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from rtmtass.errors import UsageError

OPTIMISERS = ("adamw", "muon")
BETAS = (0.9, 0.98)


class Optimisers:
    """One optimiser to the trainer, whichever and however many it is made of.

    `muon`: every matrix moves by the nearest orthogonal matrix to its averaged
    gradient, scaled to the size AdamW's steps have, so that one learning rate
    serves both; biases, norms and slopes are AdamW's.

    Args:
        net: whose parameters learn.
        kind: of `OPTIMISERS`.
        learning_rate, weight_decay: of both; vectors don't decay.

    Raises:
        UsageError: there is no optimiser of that name.

    Source: Loshchilov and Hutter, arXiv 1711.05101; Jordan et al., "Muon", 2024,
    with the scale of Liu et al., arXiv 2502.16982.
    """

    def __init__(
        self, net: nn.Module, kind: str, learning_rate: float, weight_decay: float
    ) -> None:
        if kind not in OPTIMISERS:
            raise UsageError(f"no optimiser {kind!r}; there are: {', '.join(OPTIMISERS)}")
        matrices = [p for p in net.parameters() if p.ndim == 2]
        others = [p for p in net.parameters() if p.ndim != 2]
        groups: list[dict[str, Any]] = [{"params": others, "weight_decay": 0.0}]
        self.parts: list[Optimizer] = []
        if kind == "muon":
            scale = "match_rms_adamw"
            self.parts.append(
                Muon(matrices, learning_rate, weight_decay=weight_decay, adjust_lr_fn=scale)
            )
        else:
            groups.insert(0, {"params": matrices, "weight_decay": weight_decay})
        self.parts.append(AdamW(groups, lr=learning_rate, betas=BETAS, fused=True))

    def step(self, learning_rate: float) -> None:
        """Move once, at this rate."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = learning_rate
            part.step()

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        parts = state.get("parts", [state])  # before 0.4: AdamW's alone
        for part, values in zip(self.parts, parts, strict=True):
            part.load_state_dict(values)
