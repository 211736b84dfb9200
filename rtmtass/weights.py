"""Finds released models by name or folder, verifies and reads them without unpickling."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from rtmtass.config import ModelConfig
from rtmtass.errors import ModelError, OutputError
from rtmtass.io.part_file import why_unwritable
from rtmtass.limits import shown
from rtmtass.net.shapes import parameter_shapes
from rtmtass.safetensors import MOST_HEADER, as_safetensors, from_safetensors
from rtmtass.types import Floats

__all__ = [
    "DEFAULT", "Model", "as_safetensors", "config_of", "demo_clip", "describe", "find",
    "from_safetensors", "hop_of", "models_folders", "open_model", "released", "renamed",
    "save_model",
]  # fmt: skip

DEFAULT = "rtmtass-small"
"""Name of the default model."""
_HERE = Path(__file__).resolve().parent
_RENAMED_KEYS = {
    "compensation_hears_stage_one": "compensation_uses_trunk",
    "subband_told": "subband_context",
}
"""Keys of `net` in older models and checkpoints, and their current names."""
_RENAMED_LAYERS = {
    "enter": "in_proj",
    "leave": "out_proj",
    "squeeze": "reduce",
    "widen": "expand",
    "tell": "context_proj",
}
"""Layer names within parameter names, likewise."""
_MOST_CONFIG = 4_000_000  # bytes of config.json
V = TypeVar("V")


@dataclass(frozen=True)
class Model:
    """A released model, opened.

    Attributes:
        folder: that it was read from.
        config: of the model.
        weights: arrays by parameter name.
        about: the other keys of config.json, such as version and licence.
    """

    folder: Path
    config: ModelConfig
    weights: dict[str, Floats]
    about: dict[str, Any]

    @property
    def n_parameters(self) -> int:
        """Number of trained parameters, without the running statistics of norms."""
        return sum(v.size for k, v in self.weights.items() if "running" not in k)


def models_folders() -> list[Path]:
    """Return the folders of models: in the installed package, or beside it in a checkout."""
    return [p for p in (_HERE / "models", _HERE.parent / "models") if p.is_dir()]


def released() -> list[Path]:
    """Return the folders of all models in this installation, sorted by name."""
    folders = {p.parent.name: p.parent for f in models_folders() for p in f.glob("*/config.json")}
    return [folders[name] for name in sorted(folders)]


def find(name: str) -> Path:
    """Return the folder of a model, given the name of a released one or a path.

    Raises:
        ModelError: there is no such model; the message lists the released ones.
    """
    for folder in (*(f / name for f in models_folders()), Path(name)):
        if (folder / "config.json").is_file():
            return folder
    names = ", ".join(p.name for p in released()) or "none is installed"
    raise ModelError(
        f"unknown model {name!r}; released models: {names}; or give a folder with config.json"
    )


def config_of(values: dict[str, Any]) -> ModelConfig:
    """Build the config of a saved model or checkpoint; keys may have their older names.

    Raises:
        ModelError: a key is unknown, a value is out of range, or the network is too large.
    """
    net = values.get("net", {}) if isinstance(values, dict) else {}
    if isinstance(net, dict):
        net = {_RENAMED_KEYS.get(key, key): value for key, value in net.items()}
        values = {**values, "net": net} if isinstance(values, dict) else values
    config = ModelConfig.from_dict(values)
    parameter_shapes(config)
    return config


def renamed(weights: Mapping[str, V]) -> dict[str, V]:
    """Return arrays or tensors by the current names of their parameters."""
    return {
        ".".join(_RENAMED_LAYERS.get(part, part) for part in name.split(".")): value
        for name, value in weights.items()
    }


def describe(folder: Path) -> tuple[ModelConfig, dict[str, Any]]:
    """Read a model's config.json, without its weights.

    Returns:
        the config, and all values of the file.

    Raises:
        ModelError: the file is missing or not a model's config.
    """
    return _read_config(folder / "config.json")


def _read_config(path: Path) -> tuple[ModelConfig, dict[str, Any]]:
    try:
        with open(path, "rb") as file:
            text = file.read(_MOST_CONFIG + 1)
        if len(text) > _MOST_CONFIG:
            raise ModelError(f"it is longer than {_MOST_CONFIG // 10**6} MB")
        values = json.loads(text)
        if not isinstance(values, dict) or "model" not in values:
            raise ModelError("it has no key 'model'")
        return config_of(values["model"]), values
    except OSError as error:
        reason = error.strerror or str(error)
    except RecursionError:
        reason = "it is nested too deeply"
    except (ValueError, ModelError) as error:
        reason = str(error)
    raise ModelError(f"{path} can't be read as a model's config: {reason}; install rtmtass again")


def hop_of(name: str = DEFAULT) -> int:
    """Return a model's hop in samples, read from its config alone.

    Raises:
        ModelError: no such model, or its config can't be read.
    """
    return describe(find(name))[0].stft.hop


def open_model(name: str = DEFAULT) -> Model:
    """Open a model and verify its weights: their SHA-256, every name and shape, every value.

    Raises:
        ModelError: no such model, a file is missing or altered, or the weights aren't
            those of the config's network.
    """
    folder = find(name)
    config, about = describe(folder)
    path = folder / "model.safetensors"
    data = _read_weights(path, config)
    digest = hashlib.sha256(data).hexdigest()
    if digest != about.get("sha256"):
        config, about = _interrupted_save(folder, digest, config, about)
    if digest != about.get("sha256"):
        raise ModelError(
            f"{path} has SHA-256 {digest[:16]}…, its config.json expects"
            f" {str(about.get('sha256'))[:16]}…: the file was altered; install rtmtass again"
        )
    try:
        weights = renamed(from_safetensors(data))
    except ValueError as error:
        raise ModelError(
            f"{path} is not a safetensors file ({error}); install rtmtass again"
        ) from None
    if reason := _mismatch(weights, config):
        raise ModelError(f"{path} doesn't fit its config.json: {reason}; install rtmtass again")
    return Model(folder, config, weights, about)


def _read_weights(path: Path, config: ModelConfig) -> bytes:
    """Return the contents of a weights file, which is no larger than its network needs."""
    n_bytes = 4 * sum(prod(shape) for shape in parameter_shapes(config).values())
    most = 8 + MOST_HEADER + n_bytes
    try:
        with open(path, "rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise ModelError(f"{path} can't be read: {error.strerror}; install rtmtass again") from None
    if len(data) > most:
        raise ModelError(
            f"{path} is larger than its config.json's network, which has {n_bytes} bytes of"
            " weights: config and weights belong to different networks"
        )
    return data


def _interrupted_save(
    folder: Path, digest: str, config: ModelConfig, about: dict[str, Any]
) -> tuple[ModelConfig, dict[str, Any]]:
    """Return the config of the weights if `save_model` was stopped between its two renames."""
    part = folder / "config.json.part"
    if not part.is_file():
        return config, about
    try:
        newer = _read_config(part)
    except ModelError:
        return config, about
    return newer if newer[1].get("sha256") == digest else (config, about)


def _mismatch(weights: Mapping[str, Floats], config: ModelConfig) -> str:
    """Return why weights aren't those of a config's network; empty if they are."""
    shapes = parameter_shapes(config)
    present = {name for name in weights if not name.endswith("num_batches_tracked")}
    if missing := sorted(shapes.keys() - present):
        return f"the weights lack {_listed(missing)}"
    if extra := sorted(present - shapes.keys()):
        return f"the weights hold {_listed(extra)}, which the config doesn't know"
    for name, shape in shapes.items():
        value = weights[name]
        if value.shape != shape:
            return f"{name} has the shape {shown(value.shape)}, not {shape}"
        if not np.isfinite(value).all():
            return f"{name} holds NaN or Inf"
        if name.endswith("running_var") and value.size and value.min() < 0:
            return f"{name} holds a negative variance"
    return ""


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(shown(name)[1:-1] for name in names[:3]) + more


def demo_clip() -> Path:
    """Return the path of the mixture for `rtmtass demo`; CREDITS.md beside it names its sources.

    Raises:
        ModelError: the clip is missing from this installation.
    """
    path = find(DEFAULT) / "demo.flac"
    if not path.is_file():
        raise ModelError(f"{path} is missing; install rtmtass again")
    return path


def save_model(folder: Path, config: ModelConfig, data: bytes, about: dict[str, Any]) -> None:
    """Write a model's weights and its config.json, which includes their SHA-256.

    Both are complete on the disk before either gets its name. A run killed between the two
    renames leaves the new config as `config.json.part`, which `open_model` then reads.

    Args:
        folder: of the model; created if missing.
        config: of the model.
        data: the weights, as the bytes of a safetensors file.
        about: further keys of config.json.

    Raises:
        OutputError: the folder can't be written; the model in it is as it was.
    """
    values = {**about, "sha256": hashlib.sha256(data).hexdigest(), "model": config.to_dict()}
    text = json.dumps(values, indent=2) + "\n"
    files = {"model.safetensors": data, "config.json": text.encode()}
    parts = {name: folder / f"{name}.part" for name in files}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            with open(parts[name], "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for name, part in parts.items():
            part.replace(folder / name)
    except OSError as error:
        if parts["model.safetensors"].exists():  # nothing was renamed
            for part in parts.values():
                part.unlink(missing_ok=True)
        raise OutputError(why_unwritable(folder, error, "")) from error
