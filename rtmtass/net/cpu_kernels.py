"""The compiled loops that training on a CPU uses, if numba is installed."""

from __future__ import annotations

import torch
from torch import Tensor

try:
    from rtmtass.net import band_kernels as bands
    from rtmtass.net import gru_kernels as gru
    from rtmtass.net import mask_kernels as masks
except ModuleNotFoundError as missing:
    if missing.name not in ("numba", "llvmlite"):
        raise
    HAS_KERNELS = False
else:
    HAS_KERNELS = True

__all__ = ["HAS_KERNELS", "bands", "gru", "masks", "trains_on_cpu"]


def trains_on_cpu(x: Tensor) -> bool:
    """Whether gradients are needed of a computation that reads x, in float32 on a CPU."""
    return (
        HAS_KERNELS
        and torch.is_grad_enabled()
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
    )
