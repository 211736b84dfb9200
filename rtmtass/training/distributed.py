"""Data-parallel training in the processes that `torchrun` starts; usually just one.

Each process makes its own batches; torch's DDP averages the gradients. Values that
decide when to stop are reduced over all processes, so that all take the same steps.
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
"""A function of tensors that returns the loss first."""


class _Objective(nn.Module):
    """Wraps a network and its loss function as one module, as DDP needs it."""

    def __init__(self, net: nn.Module, compute: Compute) -> None:
        super().__init__()
        self.net, self._compute = net, compute

    def forward(self, *values: Any) -> Any:
        return self._compute(*values)


class DistributedContext:
    """The process group of a training run, as a context manager.

    Args:
        device: "cpu" or "cuda"; with CUDA each process uses the GPU of its local rank.

    Attributes:
        rank, size: this process's number and the number of processes.
        device: where this process trains.

    Raises:
        UsageError: there is no such device, or there are fewer GPUs than processes.
    """

    def __init__(self, device: str) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        local = int(os.environ.get("LOCAL_RANK", "0"))
        self.device = find_device(device)
        if self.size > 1 and self.device.type == "cuda":
            if local >= torch.cuda.device_count():
                raise UsageError(
                    f"process {local} needs a GPU of its own, but there are"
                    f" {torch.cuda.device_count()}; start fewer processes:"
                    f" torchrun --nproc-per-node {torch.cuda.device_count()}"
                )
            self.device = torch.device("cuda", local)
            torch.cuda.set_device(self.device)

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which validates, reports and writes."""
        return self.rank == 0

    @property
    def device_name(self) -> str:
        """The device's name: "cpu", or the GPU's model."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return str(self.device)

    def __enter__(self) -> Self:
        """Join the process group."""
        if self.size > 1:
            dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the group, after a barrier: a rank that exits early can kill one still saving."""
        if self.size > 1:
            if kind is None:
                dist.barrier()
            dist.destroy_process_group()

    def wrap(self, net: nn.Module, compute: Compute) -> Compute:
        """Return `compute` with gradients averaged over all processes."""
        if self.size == 1:
            return compute
        # DDP broadcasts the norms' statistics from rank 0, whose EMA is the one saved.
        ddp: Compute = nn.parallel.DistributedDataParallel(_Objective(net, compute))
        return ddp

    def add_up(self, value: Tensor) -> None:
        """Replace a tensor by its sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(value)

    def mean(self, value: Tensor) -> Tensor:
        """Return a tensor's mean over all processes; the tensor itself is overwritten."""
        self.add_up(value)
        return value / self.size

    def largest(self, *values: float) -> list[float]:
        """Return the maximum of each value over all processes."""
        if self.size == 1:
            return list(values)
        reduced = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(reduced, dist.ReduceOp.MAX)
        maxima: list[float] = reduced.tolist()
        return maxima
