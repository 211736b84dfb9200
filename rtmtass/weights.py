"""Released models: find one by name or folder, prove it whole, read it without unpickling."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtmtass.config import ModelConfig
from rtmtass.errors import ModelError

DEFAULT = "rtmtass-small"
_HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Model:
    """A released model, opened: its folder, its config, its arrays by name.

    `about` is what `config.json` says beside the config: version, licence.
    """

    folder: Path
    config: ModelConfig
    weights: dict[str, NDArray[np.float32]]
    about: dict[str, Any]

    @property
    def n_parameters(self) -> int:
        """Trained numbers; running statistics of norms aren't counted."""
        return sum(v.size for k, v in self.weights.items() if "running" not in k)


def models_folders() -> list[Path]:
    """Return where models lie: in the installed package, or beside it in a checkout."""
    return [p for p in (_HERE / "models", _HERE.parent / "models") if p.is_dir()]


def released() -> list[Path]:
    """Return the folders of all models that came with this installation."""
    found = {p.parent.name: p.parent for f in models_folders() for p in f.glob("*/config.json")}
    return [found[name] for name in sorted(found)]


def find(name: str) -> Path:
    """Return the folder of the model `name`, a released one's name or a path.

    Raises:
        ModelError: there is none; the message lists those there are.
    """
    for folder in (*(f / name for f in models_folders()), Path(name)):
        if (folder / "config.json").is_file():
            return folder
    known = ", ".join(p.name for p in released()) or "none is installed"
    raise ModelError(f"no model {name!r}: released are {known}; or give a folder with config.json")


def describe(folder: Path) -> tuple[ModelConfig, dict[str, Any]]:
    """Read a model's config and what else its config.json says, without its weights."""
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return ModelConfig.from_dict(values["model"]), values
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{path} can't be read as a model's config ({error}); install rtmtass again"
        ) from None


def open_model(name: str = DEFAULT) -> Model:
    """Open a model and check that its weights are the ones released.

    Raises:
        ModelError: no such model; a file is missing or altered.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    folder = find(name)
    config, about = describe(folder)
    path = folder / "model.safetensors"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} can't be read: {error.strerror}; install rtmtass again") from None
    digest = hashlib.sha256(data).hexdigest()
    if digest != about.get("sha256"):
        raise ModelError(
            f"{path} has SHA-256 {digest[:16]}…, its config.json says"
            f" {str(about.get('sha256'))[:16]}…: the file was altered; install rtmtass again"
        )
    try:
        weights = load(data)
    except SafetensorError as error:
        raise ModelError(f"{path} is not a safetensors file: {error}") from None
    return Model(folder, config, weights, about)


def demo_clip() -> Path:
    """Return the mixture that `rtmtass demo` separates; its credits are in CREDITS.md beside it.

    Raises:
        ModelError: the clip is missing from this installation.
    """
    path = find(DEFAULT) / "demo.flac"
    if not path.is_file():
        raise ModelError(f"{path} is missing; install rtmtass again")
    return path


def save_model(folder: Path, config: ModelConfig, data: bytes, about: dict[str, Any]) -> None:
    """Write a model's safetensors bytes and its config.json with their SHA-256."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {**about, "sha256": hashlib.sha256(data).hexdigest(), "model": config.to_dict()}
    text = json.dumps(values, indent=2) + "\n"
    for name, content in (("model.safetensors", data), ("config.json", text.encode())):
        part = folder / f"{name}.part"
        part.write_bytes(content)
        part.replace(folder / name)
