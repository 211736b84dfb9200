"""What a training run leaves on disk: the state to go on from, and the best model so far."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rtmtass.config import ModelConfig
from rtmtass.errors import DataError
from rtmtass.weights import save_model

LAST, BEST = "last.pt", "best"


def write_last(folder: Path, config: ModelConfig, values: dict[str, Any]) -> None:
    """Write all that a resumed run needs, whole or not at all."""
    part = folder / f"{LAST}.part"
    torch.save({**values, "config": config.to_dict()}, part)
    os.replace(part, folder / LAST)


def read_last(folder: Path, config: ModelConfig, device: torch.device) -> dict[str, Any] | None:
    """Return what `write_last` wrote; None where nothing was.

    Raises:
        DataError: it is of another network.
    """
    path = folder / LAST
    if not path.exists():
        return None
    saved: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    if ModelConfig.from_dict(saved["config"]) != config:
        raise DataError(f"{path} holds another network than this config; use another runs folder")
    return saved


def publish(
    folder: Path, config: ModelConfig, values: dict[str, Tensor], training: dict[str, Any]
) -> Path:
    """Write weights as a model that `rtmtass separate --model` can open; return its folder.

    Args:
        folder: the run's.
        config: of the model.
        values: the weights, a state_dict.
        training: the record of how they came about.
    """
    from safetensors.torch import save

    weights = {
        name: value.float().cpu().contiguous()
        for name, value in values.items()
        if not name.endswith("num_batches_tracked")
    }
    about = {"version": "unreleased", "licence": "MIT", "training": training}
    save_model(folder / BEST, config, save(weights), about)
    return folder / BEST
