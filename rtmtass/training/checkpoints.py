"""What a training run leaves on disk: the state to go on from, and the best model so far."""

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
    if config_of(saved["config"]) != config:
        raise DataError(f"{path} holds another network than this config; use another runs folder")
    return {**saved, **{name: renamed(saved[name]) for name in ("weights", "average")}}


def starting_weights(
    model: str, config: ModelConfig, fresh: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Return a model's weights for a network to begin with, a state_dict.

    What has no weights may differ: how the level deals with pops. Sub-bands may be new,
    as they correct nothing at first.

    Args:
        model: a name or a folder.
        config: of the network.
        fresh: its own weights, of which new parts are taken.

    Raises:
        ModelError: there is no such model.
        DataError: it is another network.
    """
    opened = open_model(model)
    values = {k: torch.from_numpy(v) for k, v in opened.weights.items()}
    given, here = opened.config.net, config.net
    changes: dict[str, Any] = {"level_pop_s": here.level_pop_s}
    if not given.subband_bins and here.subband_bins:
        changes |= {k: v for k, v in vars(here).items() if k.startswith("subband_")}
        values |= {k: v for k, v in fresh.items() if k.startswith("subbands.")}
    if dataclasses.replace(given, **changes) != here:
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
        training: the record of how they came about.
    """
    weights = {
        name: value.float().cpu().numpy()
        for name, value in values.items()
        if not name.endswith("num_batches_tracked")
    }
    about = {"version": "unreleased", "licence": "MIT", "training": training}
    save_model(folder / BEST, config, as_safetensors(weights), about)
    return folder / BEST
