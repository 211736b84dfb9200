"""Files of a training run: the checkpoint to resume from, and the best model so far."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import io
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rtmtass.config import ModelConfig
from rtmtass.errors import DataError, ModelError, OutputError
from rtmtass.io.paths import quoted
from rtmtass.net.networks import new_network
from rtmtass.net.separation import SeparationNet
from rtmtass.training.growth import can_grow, grow
from rtmtass.weights import as_safetensors, config_of, open_model, renamed, save_model

LAST, BEST = "last.pt", "best"
KEYS = ("config", "weights", "average", "optimiser", "step", "elapsed_s", "best", "skipped",
        "bank_sizes")  # fmt: skip
"""What every checkpoint holds; later versions added more."""
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux


def write_last(folder: Path, config: ModelConfig, values: dict[str, Any]) -> None:
    """Write the checkpoint atomically: a crash or a full disk leaves the previous one intact.

    Raises:
        OutputError: the checkpoint can't be written.
    """
    data = io.BytesIO()  # torch would report a full disk as a failure of its zip writer
    torch.save({**values, "config": config.to_dict()}, data)
    path, part = folder / LAST, folder / f"{LAST}.part"
    try:
        with part.open("wb") as file:
            file.write(data.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        kept = "the checkpoint before it is kept" if path.exists() else "there is none before it"
        raise OutputError(
            f"{path} can't be written at step {values.get('step')}: {error.strerror}; {kept}; free"
            " some space and start the same command again"
        ) from None


def read_last(folder: Path, config: ModelConfig, device: torch.device) -> dict[str, Any] | None:
    """Return the checkpoint that `write_last` wrote; None if there is none.

    The model's name isn't compared: a run may be renamed.

    Raises:
        DataError: the checkpoint is damaged, or of another network.
    """
    path = folder / LAST
    if not path.exists():
        return None
    try:
        saved: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        lacking = [key for key in KEYS if key not in saved]
        if lacking:
            raise ValueError(f"it lacks {', '.join(lacking)}")
        saved |= {name: renamed(saved[name]) for name in ("weights", "average")}
        network = config_of(saved["config"])
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a damaged file raises any of a dozen types
        raise DataError(damaged(path, error)) from error
    if dataclasses.replace(network, name=config.name) != config:
        raise DataError(f"{path} holds another network than this config; use another runs folder")
    return saved


def damaged(path: Path, error: Exception) -> str:
    """Return the message for a checkpoint that can't be used: the reason, and what to do."""
    reason = (str(error).strip().splitlines() or [""])[0][:100] or type(error).__name__
    size, best = path.stat().st_size, path.parent / BEST
    aside = f"mv {quoted(path)} {quoted(f'{path}.damaged')}"
    text = f"{path}, {size} bytes, is cut off or damaged ({reason}); copy it here again, or begin"
    if (best / "config.json").exists():
        return f'{text} from the best weights so far: {aside} and set start_from = "{best}"'
    return f"{text} anew: {aside}"


def start_from(model: str, net: SeparationNet) -> None:
    """Initialise a network with a model's weights.

    The network may be a larger one than the model's, see `growth`; it begins at its function.

    Args:
        model: a name or a folder.
        net: changed in place.

    Raises:
        ModelError: there is no such model.
        DataError: the model is another network, or larger.
    """
    opened = open_model(model)
    if not can_grow(opened.config.net, net.config.net):
        raise DataError(
            f"{model} holds another network than this config, and no smaller one of its kind;"
            " change [net]"
        )
    small = new_network(opened.config)
    small.load_state_dict({k: torch.from_numpy(v) for k, v in opened.weights.items()})
    grow(small.to(next(net.parameters()).device), net)


def publish(
    folder: Path, config: ModelConfig, values: dict[str, Tensor], training: dict[str, Any]
) -> Path:
    """Write weights as a model that `rtmtass separate --model` can open; return its folder.

    Args:
        folder: the run's.
        config: of the model.
        values: the weights, a state_dict.
        training: the training record.

    Raises:
        OutputError: it can't be written; the best model before it is kept.
    """
    weights = {
        name: value.float().cpu().numpy()
        for name, value in values.items()
        if not name.endswith("num_batches_tracked")
    }
    about = {"version": "unreleased", "training": training}  # its licence is for its user to name
    best = (folder / BEST).resolve()
    part = best.with_name(f"{best.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a killed run
    try:
        save_model(part, config, as_safetensors(weights), about)
        put_in_place(part, best)
    except (OSError, OutputError) as error:
        shutil.rmtree(part, ignore_errors=True)
        reason = getattr(error.__cause__ or error, "strerror", error)
        raise OutputError(
            f"{best} can't be written: {reason}; the best model before it is kept; free"
            " some space and start the same command again"
        ) from None
    return folder / BEST


def has_best(folder: Path) -> bool:
    """Return whether a run's best model can be opened, after mending an interrupted `publish`."""
    best = (folder / BEST).resolve()
    old = best.with_name(f"{best.name}.old")
    if not best.exists() and old.exists():
        old.rename(best)
    try:
        open_model(str(best))
    except (ModelError, OSError):
        return False
    return True


def put_in_place(new: Path, place: Path) -> None:
    """Move a folder to `place` and remove the folder that was there, keeping its other files.

    Where the system can, the two are exchanged in one step, so that weights and config
    always belong together. Elsewhere a kill leaves `place` missing and `PLACE.old`
    complete, which `has_best` mends.
    """
    if not place.exists():
        new.rename(place)
        return
    old = new
    if not _exchange(new, place):
        old = place.with_name(f"{place.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        place.rename(old)
        new.rename(place)
    for path in old.iterdir():
        if not (place / path.name).exists():
            path.rename(place / path.name)
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; return False where the system can't."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # not Linux, or an old C library
        return False
    done: int = renameat2(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE)
    return done == 0
