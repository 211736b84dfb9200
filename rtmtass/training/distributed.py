"""Processes that train one network together, as `torchrun` starts them; usually just one.

Each makes batches of its own; gradients are averaged by torch's DDP, and whatever
decides when to stop is agreed upon, so that all take the same number of steps.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rtmtass.errors import UsageError
from rtmtass.runtime.torch.device import find_device

Compute = Callable[..., Any]
"""Works out something from tensors, the loss first."""


class _Objective(nn.Module):
    """Makes a module of a network and what is computed with it, for DDP to hook into."""

    def __init__(self, net: nn.Module, compute: Compute) -> None:
        super().__init__()
        self.net, self._compute = net, compute

    def forward(self, *values: Any) -> Any:
        return self._compute(*values)


class DistributedContext:
    """Who trains together; entered for as long as they do.

    Args:
        device: "cpu" or "cuda"; with CUDA each process takes the GPU of its number.

    Raises:
        UsageError: torch finds no such device, or fewer GPUs than processes.
    """

    def __init__(self, device: str) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        local = int(os.environ.get("LOCAL_RANK", "0"))
        self.device = find_device(device)
        if self.size > 1 and self.device.type == "cuda":
            if local >= torch.cuda.device_count():
                raise UsageError(
                    f"process {local} finds only {torch.cuda.device_count()} GPUs; start no more"
                    " than that: torchrun --nproc-per-node"
                )
            self.device = torch.device("cuda", local)
            torch.cuda.set_device(self.device)

    @property
    def is_first(self) -> bool:
        """Whether this process writes, judges and tells for all."""
        return self.rank == 0

    @property
    def device_name(self) -> str:
        """What the device is called: "cpu", or the GPU's name."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return str(self.device)

    def __enter__(self) -> Self:
        """Meet the others."""
        if self.size > 1:
            dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Part, all at once: who ends early, and badly, takes the one that still saves along."""
        if self.size > 1:
            if kind is None:
                dist.barrier()
            dist.destroy_process_group()

    def wrap(self, net: nn.Module, compute: Compute) -> Compute:
        """Return `compute` such that gradients and norms' statistics are shared by all."""
        if self.size == 1:
            return compute
        # Statistics follow the first process's, as in the averaged weights it keeps.
        ddp: Compute = nn.parallel.DistributedDataParallel(_Objective(net, compute))
        return ddp

    def add_up(self, value: Tensor) -> None:
        """Make a tensor the sum of all processes' ones."""
        if self.size > 1:
            dist.all_reduce(value)

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean over all processes of a tensor."""
        self.add_up(value)
        return value / self.size

    def largest(self, *values: float) -> list[float]:
        """Return the largest of each value over all processes: what they agree upon."""
        if self.size == 1:
            return list(values)
        shared = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        agreed: list[float] = shared.tolist()
        return agreed
