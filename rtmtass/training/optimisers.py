"""Optimisers: AdamW for all parameters, or Muon for the matrices and AdamW for the rest."""

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
"""Coefficients of the Newton-Schulz step; steep at zero, so small singular values grow fast."""
STEPS = 5
"""Newton-Schulz steps per update."""
ADAMW_RMS = 0.2
"""Root mean square of AdamW's updates divided by its rate, as measured by Liu et al."""


@torch.no_grad()
def orthogonal(matrices: Tensor) -> Tensor:
    """Return approximately the nearest orthogonal matrices; singular values are 0.7 to 1.2.

    Args:
        matrices: (K, M, N), any real dtype; computed in bfloat16 on a GPU, which is
            precise enough, and in their own dtype on a CPU.

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
    """Muon: SGD with Nesterov momentum whose updates are orthogonalised.

    torch's implementation, since 2.9, works in bfloat16 on one matrix at a time; on a
    CPU without fast bfloat16 it took 1.7 times as long for the matrices of `small`. Here
    all matrices of one shape are one batch, and nothing waits for the device.

    Args:
        matrices: parameters with two axes.
        lr, weight_decay: as AdamW's; updates are scaled to the size of AdamW's. The rate
            may be a tensor on the device.
        momentum: Nesterov momentum.
        distributed: processes that take the same steps; each orthogonalises a part of
            the matrices.

    Attributes:
        found_inf: as in torch's fused optimisers: a tensor, 1 if the gradients aren't
            finite; then a step changes nothing.

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
        """Update the parameters once."""
        for number, group in enumerate(self.param_groups):
            matrices = [matrix for matrix in group["params"] if matrix.grad is not None]
            if not matrices:
                continue
            rate = group["lr"]
            if self.found_inf is not None:
                rate = rate * (1 - self.found_inf)
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for matrix in matrices:
                by_shape[matrix.shape].append(matrix)
            ordered = [matrix for stack in by_shape.values() for matrix in stack]
            updates = self._orthogonalised(
                [self._momentum_updates(stack, number) for stack in by_shape.values()]
            )
            for update in updates:
                update.mul_(rate * ADAMW_RMS * max(update.shape[1:]) ** 0.5)
            torch._foreach_mul_(ordered, 1 - rate * group["weight_decay"])
            torch._foreach_sub_(ordered, [matrix for update in updates for matrix in update])

    def _momentum_updates(self, matrices: list[Tensor], group: int) -> Tensor:
        """Return the gradients after Nesterov momentum, (K, M, N)."""
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
        """Return the gradients' moving averages (K, M, N); each matrix's state is a view of it."""
        key = group, matrices[0].shape
        if key not in self._averages:
            parts = [self.state[m].get("average", torch.zeros_like(m)) for m in matrices]
            self._averages[key] = torch.stack(parts)
            for matrix, part in zip(matrices, self._averages[key], strict=True):
                self.state[matrix]["average"] = part
        assert len(self._averages[key]) == len(matrices)
        return self._averages[key]

    def _orthogonalised(self, updates: list[Tensor]) -> list[Tensor]:
        """Return updates with their matrices orthogonalised.

        Args:
            updates: stacks (K, M, N), one per shape.
        """
        if self.distributed.size == 1:
            return [orthogonal(update) for update in updates]
        flat = updates[0].new_zeros(sum(update.numel() for update in updates))
        parts = torch.split(flat, [update.numel() for update in updates])
        results = [part.view_as(update) for part, update in zip(parts, updates, strict=True)]
        # Dealt out from large to small, equal shapes in a row: every rank gets about as much work.
        by_size = sorted(
            range(len(updates)), key=lambda i: (updates[i][0].numel(), updates[i].shape[1:])
        )
        order = [(i, k) for i in by_size[::-1] for k in range(len(updates[i]))]
        local: dict[int, list[int]] = defaultdict(list)
        for i, k in order[self.distributed.rank :: self.distributed.size]:
            local[i].append(k)
        for i, indices in local.items():
            results[i][indices] = orthogonal(updates[i][indices])
        self.distributed.add_up(flat)
        return results

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the result of `state_dict`."""
        super().load_state_dict(state_dict)
        self._averages = {}


class Optimisers:
    """The optimisers of a network behind one interface.

    The rate is a tensor on the device, so that a step can be captured as a CUDA graph.

    Args:
        net: the network to train.
        kind: key of `OPTIMISERS`; "muon" leaves biases, norms and slopes to AdamW.
        learning_rate, weight_decay: of all optimisers; vectors don't decay.
        distributed: processes that take the same steps.

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
            raise UsageError(f"unknown optimiser {kind!r}; give one of: {', '.join(OPTIMISERS)}")
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
            group["lr"] = self._rate  # torch may have copied the tensor

    def _groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    def set_rate(self, learning_rate: float) -> None:
        """Set the learning rate of the next steps."""
        self._rate.fill_(learning_rate)

    def step(self, found_inf: Tensor | None = None) -> None:
        """Update the parameters once.

        Args:
            found_inf: a single float on the device; if it is 1, nothing changes.
        """
        for part in self.parts:
            part.found_inf = found_inf  # type: ignore[attr-defined]
            part.step()

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def tensors(self) -> list[Tensor]:
        """Return all tensors of the optimisers' state."""
        states = [state for part in self.parts for state in part.state.values()]
        return [v for state in states for v in state.values() if isinstance(v, Tensor)]

    def state_dict(self) -> dict[str, Any]:
        """Return the optimisers' state for a checkpoint."""
        parts = [part.state_dict() for part in self.parts]
        for part in parts:
            part["param_groups"] = [{**g, "lr": float(g["lr"])} for g in part["param_groups"]]
        return {"parts": parts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the result of `state_dict`, from any device.

        Hyperparameters (rate, decay, implementation) stay those of this run.

        Raises:
            DataError: the state is of another kind of optimiser.
        """
        parts = state.get("parts", [state])  # before 0.4: only AdamW's state
        if len(parts) != len(self.parts):
            raise DataError(
                "the checkpoint was written with another optimiser than this config names;"
                f" change optimiser (one of: {', '.join(OPTIMISERS)}) or use another runs folder"
            )
        for part, values in zip(self.parts, parts, strict=True):
            groups = [
                {**current, "params": saved["params"]}
                for current, saved in zip(part.param_groups, values["param_groups"], strict=True)
            ]
            part.load_state_dict({**values, "param_groups": groups})
        for group in self._groups():
            group["lr"] = self._rate  # loading copied the tensor
