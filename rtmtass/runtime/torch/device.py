"""Finds a torch device by name; a module of its own, as training needs nothing else from here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtmtass.errors import UsageError

if TYPE_CHECKING:
    import torch


def find_device(name: str) -> torch.device:
    """Return the torch device of that name.

    Raises:
        UsageError: torch knows no such device, or can't use it; quotes torch's reason.
    """
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"torch knows no device {name!r}: use cpu, cuda or cuda:N") from None
    if device.type != "cuda":
        return device
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UsageError(
            f"torch {torch.__version__} can't use CUDA here: {reason}; add --device cpu, or install"
            " a torch with CUDA (pytorch.org/get-started) and see whether nvidia-smi finds the GPU"
        ) from None
    count = torch.cuda.device_count()
    if (device.index or 0) >= count:
        raise UsageError(f"torch finds {count} CUDA device(s), not {name!r}: use --device cuda:0")
    return torch.device("cuda", device.index or 0)
