"""How a network's parameters move: AdamW for all of them, or Muon for the matrices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from rtmtass.errors import DataError, UsageError
from rtmtass.training.config import OPTIMISERS
from rtmtass.training.distributed import DistributedContext

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
    bf16 it took 1.7 times as long for the matrices of `small`. Here all matrices of one
    shape are one batch, and nothing waits for the device.

    Args:
        matrices: parameters of two axes.
        lr, weight_decay: as AdamW's; a step has the size that AdamW's would have. The
            rate may be a tensor on the device.
        momentum: of the averaged gradient, Nesterov's.
        distributed: processes that step alike; each makes its share of the orthogonal matrices.

    Attributes:
        found_inf: as torch's fused optimisers have it: a tensor, 1 where the gradients
            aren't finite; then a step changes nothing.

    Source: Jordan et al., "Muon: an optimizer for hidden layers", 2024; the scale
    is eq. 4 of Liu et al., arXiv 2502.16982.
    """

    def __init__(
        self,
        matrices: Iterable[Tensor],
        lr: float | Tensor,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        distributed: DistributedContext | None = None,
    ) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self.distributed = distributed or DistributedContext("cpu")
        self.found_inf: Tensor | None = None
        self._averages: dict[tuple[int, torch.Size], Tensor] = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Move once."""
        for number, group in enumerate(self.param_groups):
            matrices = [matrix for matrix in group["params"] if matrix.grad is not None]
            if not matrices:
                continue
            rate = group["lr"]
            if self.found_inf is not None:
                rate = rate * (1 - self.found_inf)
            alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for matrix in matrices:
                alike[matrix.shape].append(matrix)
            order = [matrix for these in alike.values() for matrix in these]
            ways = self._ways([self._aims(these, number) for these in alike.values()])
            for way in ways:
                way.mul_(rate * LIKE_ADAMW * max(way.shape[1:]) ** 0.5)
            torch._foreach_mul_(order, 1 - rate * group["weight_decay"])
            torch._foreach_sub_(order, [one for way in ways for one in way])

    def _aims(self, matrices: list[Tensor], group: int) -> Tensor:
        """Return the averaged gradients (K, M, N), with this step's a little ahead."""
        momentum = self.param_groups[group]["momentum"]
        gradients = torch.stack([matrix.grad for matrix in matrices])  # type: ignore[misc]
        ema = self._ema(matrices, group)
        weight = torch.full((), 1 - momentum, device=gradients.device)
        if self.found_inf is not None:
            is_good = self.found_inf == 0
            gradients = torch.where(is_good, gradients, 0.0)
            weight = weight * is_good
        ema.lerp_(gradients, weight)
        return gradients.lerp(ema, momentum)

    def _ema(self, matrices: list[Tensor], group: int) -> Tensor:
        """Return the gradients' averages (K, M, N); each matrix's state is a part of it."""
        key = group, matrices[0].shape
        if key not in self._averages:
            parts = [self.state[m].get("average", torch.zeros_like(m)) for m in matrices]
            self._averages[key] = torch.stack(parts)
            for matrix, part in zip(matrices, self._averages[key], strict=True):
                self.state[matrix]["average"] = part
        assert len(self._averages[key]) == len(matrices)
        return self._averages[key]

    def _ways(self, aims: list[Tensor]) -> list[Tensor]:
        """Return the orthogonal matrices next to `aims`, stacks of one shape each."""
        if self.distributed.size == 1:
            return [orthogonal(aim) for aim in aims]
        whole = aims[0].new_zeros(sum(aim.numel() for aim in aims))
        parts = torch.split(whole, [aim.numel() for aim in aims])
        ways = [part.view_as(aim) for part, aim in zip(parts, aims, strict=True)]
        # Dealt out large to small, alike to alike: all have about as much to do.
        dealt = sorted(range(len(aims)), key=lambda i: (aims[i][0].numel(), aims[i].shape[1:]))
        order = [(i, k) for i in dealt[::-1] for k in range(len(aims[i]))]
        mine: dict[int, list[int]] = defaultdict(list)
        for i, k in order[self.distributed.rank :: self.distributed.size]:
            mine[i].append(k)
        for i, places in mine.items():
            ways[i][places] = orthogonal(aims[i][places])
        self.distributed.add_up(whole)
        return ways

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        super().load_state_dict(state_dict)
        self._averages = {}


class Optimisers:
    """One optimiser to the trainer, whichever and however many it is made of.

    The rate is a tensor on the device, so that a step can be captured as a CUDA graph.

    Args:
        net: whose parameters learn.
        kind: of `OPTIMISERS`; "muon" leaves biases, norms and slopes to AdamW.
        learning_rate, weight_decay: of all; vectors don't decay.
        distributed: processes that step alike.

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
        distributed: DistributedContext | None = None,
    ) -> None:
        if kind not in OPTIMISERS:
            raise UsageError(f"no optimiser {kind!r}; there are: {', '.join(OPTIMISERS)}")
        matrices = [p for p in net.parameters() if p.ndim == 2]
        others = [p for p in net.parameters() if p.ndim != 2]
        device = next(net.parameters()).device
        self._rate = torch.tensor(learning_rate, dtype=torch.float32, device=device)
        groups: list[dict[str, Any]] = [{"params": others, "weight_decay": 0.0}]
        self.parts: list[Optimizer] = []
        if kind == "muon":
            self.parts.append(Muon(matrices, self._rate, weight_decay, distributed=distributed))
        else:
            groups.insert(0, {"params": matrices, "weight_decay": weight_decay})
        is_cuda = device.type == "cuda"
        self.parts.append(AdamW(groups, lr=self._rate, betas=BETAS, fused=True, capturable=is_cuda))
        for group in self._groups():
            group["lr"] = self._rate  # the very same tensor, whatever torch copied

    def _groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    def set_rate(self, learning_rate: float) -> None:
        """Let the next steps move at this rate."""
        self._rate.fill_(learning_rate)

    def step(self, found_inf: Tensor | None = None) -> None:
        """Move once.

        Args:
            found_inf: a single float on the device; where it is 1, nothing changes.
        """
        for part in self.parts:
            part.found_inf = found_inf  # type: ignore[attr-defined]
            part.step()

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def tensors(self) -> list[Tensor]:
        """Return all tensors of the optimisers' state, for whoever has to put them back."""
        states = [state for part in self.parts for state in part.state.values()]
        return [v for state in states for v in state.values() if isinstance(v, Tensor)]

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        parts = [part.state_dict() for part in self.parts]
        for part in parts:
            part["param_groups"] = [{**g, "lr": float(g["lr"])} for g in part["param_groups"]]
        return {"parts": parts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave, on whatever device.

        Only what was learnt is taken: rate, decay and how to compute are this run's own.

        Raises:
            DataError: it is of another kind of optimiser.
        """
        parts = state.get("parts", [state])  # before 0.4: AdamW's alone
        if len(parts) != len(self.parts):
            raise DataError(
                "the checkpoint was made by another optimiser than this config names;"
                f" change optimiser (one of: {', '.join(OPTIMISERS)}) or use another runs folder"
            )
        for part, values in zip(self.parts, parts, strict=True):
            groups = [
                {**mine, "params": theirs["params"]}
                for mine, theirs in zip(part.param_groups, values["param_groups"], strict=True)
            ]
            part.load_state_dict({**values, "param_groups": groups})
        for group in self._groups():
            group["lr"] = self._rate  # loading has copied it
