"""What training can do without on a bare machine, and what it does instead."""

from __future__ import annotations

import dataclasses
import importlib.util

import torch
from torch import Tensor

from rtmtass.errors import MissingPartError
from rtmtass.training.config import TrainConfig

HOST_EXAMPLES = ("scipy", "soxr")
"""Packages without which no examples are made on the host."""


def fitted(config: TrainConfig) -> tuple[TrainConfig, list[str]]:
    """Return a config that this machine can follow, and a line on all that it goes without.

    Raises:
        MissingPartError: it lacks something that nothing stands in for.
    """
    lines: list[str] = []
    absent = missing(*HOST_EXAMPLES) if config.examples == "host" else []
    if absent:
        raise MissingPartError(
            f"examples = \"host\" needs {' and '.join(absent)}: pip install 'rtmtass[train]',"
            ' or set examples = "device", which needs only torch'
        )
    if config.snapshots and missing("matplotlib"):
        lines.append("matplotlib isn't installed: snapshots have no pictures")
    if config.device == "cpu" and missing("numba"):
        lines.append("numba isn't installed: the gradient of a GRU is torch's own, which is slower")
    problem = compiler_problem(config.device) if config.uses_compile else ""
    if problem:
        lines.append(f"torch.compile doesn't work here ({problem}): training without it, slower")
        config = dataclasses.replace(config, compile=False)
    return config, lines


def missing(*packages: str) -> list[str]:
    """Return those of some packages that aren't installed."""
    return [name for name in packages if not _is_installed(name)]


def compiler_problem(device: str) -> str:
    """Return why torch.compile doesn't work on a device, in one line; empty where it does.

    The only way to know is to compile something: a compiler may be missing, or the
    headers it needs.
    """
    try:
        torch.compile(_something)(torch.ones(64, device=device))
    except Exception as error:  # of many types, from three compilers
        said = (str(error).strip().splitlines() or [""])[0]
        return said or type(error).__name__
    return ""


def _something(x: Tensor) -> Tensor:
    return torch.sin(x).sum() + x


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False
