"""Optional dependencies of training, and how it runs without them."""

from __future__ import annotations

import dataclasses
import importlib.util

import torch
from torch import Tensor

from rtmtass.errors import MissingPartError
from rtmtass.training.config import TrainConfig

HOST_EXAMPLES = ("scipy", "soxr")
"""Packages needed to make examples on the host."""


def fitted(config: TrainConfig) -> tuple[TrainConfig, list[str]]:
    """Return a config that works on this machine, and a line about each missing feature.

    Raises:
        MissingPartError: a package is missing that has no substitute.
    """
    lines: list[str] = []
    lacking = missing(*HOST_EXAMPLES) if config.examples == "host" else []
    if lacking:
        raise MissingPartError(
            f"examples = \"host\" needs {' and '.join(lacking)}: pip install 'rtmtass[train]',"
            ' or set examples = "device", which needs only torch'
        )
    if config.snapshots and missing("matplotlib"):
        lines.append("matplotlib isn't installed: snapshots have no pictures")
    if config.device == "cpu" and missing("numba"):
        lines.append("numba isn't installed: using torch's gradients, which are slower")
    problem = compiler_problem(config.device) if config.uses_compile else ""
    if problem:
        lines.append(f"torch.compile doesn't work here ({problem}): training without it, slower")
        config = dataclasses.replace(config, compile=False)
    return config, lines


def missing(*packages: str) -> list[str]:
    """Return the packages that aren't installed."""
    return [name for name in packages if not _is_installed(name)]


def compiler_problem(device: str) -> str:
    """Return why torch.compile doesn't work on a device, in one line; empty if it works.

    Found by compiling a function: the compiler may be missing, or headers it needs.
    """
    try:
        torch.compile(_probe)(torch.ones(64, device=device))
    except Exception as error:  # of many types, from three compilers
        message = (str(error).strip().splitlines() or [""])[0]
        return message or type(error).__name__
    return ""


def _probe(x: Tensor) -> Tensor:
    return torch.sin(x).sum() + x


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False
