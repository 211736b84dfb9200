"""How a network's parameters move: AdamW for all of them, or Muon for the matrices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from rtmtass.errors import DataError, UsageError
from rtmtass.training.team import Team
from rtmtass.training.train_config import OPTIMISERS

BETAS = (0.9, 0.98)
QUINTIC = (3.4445, -4.775, 2.0315)
"""Of the Newton-Schulz step: steepest at zero, so that small directions grow fast."""
STEPS = 5
LIKE_ADAMW = 0.2
"""Root mean square of AdamW's steps over its rate, as measured by Liu et al."""


@torch.no_grad()
def orthogonal(matrices: Tensor) -> Tensor:
    """Return about the nearest orthogonal matrix to each: singular values become 0.7 to 1.2.

    Args:
        matrices: (K, M, N), any real dtype; products are in bf16 on a GPU, which is
            exact enough, else as they come.

    Returns:
        (K, M, N).

    Source: Jordan et al., "Muon: an optimizer for hidden layers", 2024.
    """
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if is_tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    if x.is_cuda:
        x = x.bfloat16()
    a, b, c = QUINTIC
    for _ in range(STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if is_tall else x).to(matrices.dtype)


class Muon(Optimizer):
    """Moves every matrix by the orthogonal matrix next to its averaged gradient.

    torch's own, since 2.9, works in bf16 one matrix at a time; on a CPU without fast
    bf16 it took 1.7 times as long for the matrices of `small`.

    Args:
        matrices: parameters of two axes.
        lr, weight_decay: as AdamW's; a step has the size that AdamW's would have.
        momentum: of the averaged gradient, Nesterov's.
        team: processes that step alike; each makes its share of the orthogonal matrices.

    Source: Jordan et al., "Muon: an optimizer for hidden layers", 2024; the scale
    is eq. 4 of Liu et al., arXiv 2502.16982.
    """

    def __init__(
        self,
        matrices: Iterable[Tensor],
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        team: Team | None = None,
    ) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self.team = team or Team("cpu")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Move once."""
        for group in self.param_groups:
            rate = group["lr"]
            matrices = [matrix for matrix in group["params"] if matrix.grad is not None]
            if not matrices:
                continue
            ways = self._ways([self._aim(matrix, group["momentum"]) for matrix in matrices])
            for matrix, way in zip(matrices, ways, strict=True):
                size = rate * LIKE_ADAMW * max(matrix.shape) ** 0.5
                matrix.mul_(1 - rate * group["weight_decay"]).sub_(way, alpha=size)

    def _aim(self, matrix: Tensor, momentum: float) -> Tensor:
        """Return the averaged gradient, with this step's a little ahead."""
        gradient: Tensor = matrix.grad  # type: ignore[assignment]
        state = self.state[matrix]
        if not state:
            state["average"] = torch.zeros_like(matrix)
        average = state["average"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(average, momentum)

    def _ways(self, aims: list[Tensor]) -> list[Tensor]:
        """Return the orthogonal matrices next to `aims`."""
        whole = aims[0].new_zeros(sum(aim.numel() for aim in aims))
        parts = torch.split(whole, [aim.numel() for aim in aims])
        ways = [part.view_as(aim) for part, aim in zip(parts, aims, strict=True)]
        # Dealt out large to small, alike to alike: all have about as much to do.
        order = sorted(range(len(aims)), key=lambda i: (aims[i].numel(), aims[i].shape))[::-1]
        alike: dict[torch.Size, list[int]] = defaultdict(list)
        for i in order[self.team.rank :: self.team.size]:
            alike[aims[i].shape].append(i)
        for mine in alike.values():
            found = orthogonal(torch.stack([aims[i] for i in mine]))
            for i, way in zip(mine, found, strict=True):
                ways[i].copy_(way)
        self.team.add_up(whole)
        return ways


class Optimisers:
    """One optimiser to the trainer, whichever and however many it is made of.

    Args:
        net: whose parameters learn.
        kind: of `OPTIMISERS`; "muon" leaves biases, norms and slopes to AdamW.
        learning_rate, weight_decay: of all; vectors don't decay.
        team: processes that step alike.

    Raises:
        UsageError: there is no optimiser of that name.

    Source: AdamW, Loshchilov and Hutter, arXiv 1711.05101.
    """

    def __init__(
        self,
        net: nn.Module,
        kind: str,
        learning_rate: float,
        weight_decay: float,
        team: Team | None = None,
    ) -> None:
        if kind not in OPTIMISERS:
            raise UsageError(f"no optimiser {kind!r}; there are: {', '.join(OPTIMISERS)}")
        matrices = [p for p in net.parameters() if p.ndim == 2]
        others = [p for p in net.parameters() if p.ndim != 2]
        groups: list[dict[str, Any]] = [{"params": others, "weight_decay": 0.0}]
        self.parts: list[Optimizer] = []
        if kind == "muon":
            self.parts.append(Muon(matrices, learning_rate, weight_decay, team=team))
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
        """Take back what `state_dict` gave; a DataError where it is of another kind."""
        parts = state.get("parts", [state])  # before 0.4: AdamW's alone
        if len(parts) != len(self.parts):
            raise DataError(
                "the checkpoint was made by another optimiser than this config names;"
                f" change optimiser (one of: {', '.join(OPTIMISERS)}) or use another runs folder"
            )
        for part, values in zip(self.parts, parts, strict=True):
            part.load_state_dict(values)
