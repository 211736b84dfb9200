"""Files of a training run: the checkpoint to resume from, and the best model so far."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rtmtass.config import ModelConfig
from rtmtass.errors import DataError
from rtmtass.weights import as_safetensors, config_of, open_model, renamed, save_model

LAST, BEST = "last.pt", "best"


def write_last(folder: Path, config: ModelConfig, values: dict[str, Any]) -> None:
    """Write the checkpoint atomically: a crash leaves the previous one intact."""
    part = folder / f"{LAST}.part"
    torch.save({**values, "config": config.to_dict()}, part)
    os.replace(part, folder / LAST)


def read_last(folder: Path, config: ModelConfig, device: torch.device) -> dict[str, Any] | None:
    """Return the checkpoint that `write_last` wrote; None if there is none.

    The model's name isn't compared: a run may be renamed.

    Raises:
        DataError: the checkpoint is of another network.
    """
    path = folder / LAST
    if not path.exists():
        return None
    saved: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    if dataclasses.replace(config_of(saved["config"]), name=config.name) != config:
        raise DataError(f"{path} holds another network than this config; use another runs folder")
    return {**saved, **{name: renamed(saved[name]) for name in ("weights", "average")}}


def starting_weights(
    model: str, config: ModelConfig, fresh: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Return a model's weights to initialise a network with, a state_dict.

    Two differences are allowed: `level_pop_s`, which has no weights, and sub-bands in
    the new network only, whose initial output is zero.

    Args:
        model: a name or a folder.
        config: of the network.
        fresh: the network's initial weights, used for the sub-bands.

    Raises:
        ModelError: there is no such model.
        DataError: the model is another network.
    """
    opened = open_model(model)
    values = {k: torch.from_numpy(v) for k, v in opened.weights.items()}
    old, new = opened.config.net, config.net
    changes: dict[str, Any] = {"level_pop_s": new.level_pop_s}
    if not old.subband_bins and new.subband_bins:
        changes |= {k: v for k, v in vars(new).items() if k.startswith("subband_")}
        values |= {k: v for k, v in fresh.items() if k.startswith("subbands.")}
    if dataclasses.replace(old, **changes) != new:
        raise DataError(f"{model} holds another network than this config; change [net]")
    return values


def publish(
    folder: Path, config: ModelConfig, values: dict[str, Tensor], training: dict[str, Any]
) -> Path:
    """Write weights as a model that `rtmtass separate --model` can open; return its folder.

    Args:
        folder: the run's.
        config: of the model.
        values: the weights, a state_dict.
        training: the training record.
    """
    weights = {
        name: value.float().cpu().numpy()
        for name, value in values.items()
        if not name.endswith("num_batches_tracked")
    }
    about = {"version": "unreleased", "licence": "MIT", "training": training}
    save_model(folder / BEST, config, as_safetensors(weights), about)
    return folder / BEST
