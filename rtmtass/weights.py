"""Released models: find one by name or folder, prove it whole, read it without unpickling."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rtmtass.config import ModelConfig
from rtmtass.errors import ModelError

DEFAULT = "rtmtass-small"
_HERE = Path(__file__).resolve().parent
_RENAMED_KEYS = {
    "compensation_hears_stage_one": "compensation_uses_trunk",
    "subband_told": "subband_context",
}
"""Keys of `[net]` in models and checkpoints of 0.1.0 and before, and what they are called now."""
_RENAMED_LAYERS = {
    "enter": "in_proj",
    "leave": "out_proj",
    "squeeze": "reduce",
    "widen": "expand",
    "tell": "context_proj",
}
"""Layers in the names of parameters, likewise."""
V = TypeVar("V")


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


def config_of(values: dict[str, Any]) -> ModelConfig:
    """Return the config that a model or a checkpoint was saved with, by old or new names.

    Raises:
        ModelError: it has a key that no version knows.
    """
    net = {_RENAMED_KEYS.get(key, key): value for key, value in values.get("net", {}).items()}
    return ModelConfig.from_dict({**values, "net": net})


def renamed(weights: Mapping[str, V]) -> dict[str, V]:
    """Return arrays or tensors by the names that the networks' parameters have now."""
    return {
        ".".join(_RENAMED_LAYERS.get(part, part) for part in name.split(".")): value
        for name, value in weights.items()
    }


def describe(folder: Path) -> tuple[ModelConfig, dict[str, Any]]:
    """Read a model's config and what else its config.json says, without its weights."""
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return config_of(values["model"]), values
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{path} can't be read as a model's config ({error}); install rtmtass again"
        ) from None


def hop_of(name: str = DEFAULT) -> int:
    """Return a model's hop in samples, read from its config alone.

    Raises:
        ModelError: no such model, or its config can't be read.
    """
    return describe(find(name))[0].stft.hop


def open_model(name: str = DEFAULT) -> Model:
    """Open a model and check that its weights are the ones released.

    Raises:
        ModelError: no such model; a file is missing or altered.
    """
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
        weights = renamed(from_safetensors(data))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} is not a safetensors file: {error}") from None
    return Model(folder, config, weights, about)


def as_safetensors(weights: Mapping[str, NDArray[np.float32]]) -> bytes:
    """Return float32 arrays as the bytes of a safetensors file.

    The format is small enough to need no package: the length of a header, the header,
    which is JSON, and the numbers. The bytes are those that the package gives.

    Source: https://github.com/huggingface/safetensors, Format.
    """
    header: dict[str, Any] = {}
    parts: list[bytes] = []
    end = 0
    for name in sorted(weights):
        parts.append(np.ascontiguousarray(weights[name], dtype="<f4").tobytes())
        start, end = end, end + len(parts[-1])
        shape = list(np.shape(weights[name]))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # so that the numbers are aligned
    return struct.pack("<Q", len(text)) + text + b"".join(parts)


def from_safetensors(data: bytes) -> dict[str, NDArray[np.float32]]:
    """Return the arrays of a safetensors file of float32 numbers, writable copies.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it is none.
    """
    if len(data) < 8:
        raise ValueError("it has no header")
    start = 8 + struct.unpack_from("<Q", data)[0]
    if start > len(data):
        raise ValueError("its header is longer than the file")
    header = json.loads(data[8:start])
    weights: dict[str, NDArray[np.float32]] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] != "F32":
            raise ValueError(f"{name} has the type {entry['dtype']}, not F32")
        first, last = (start + int(offset) for offset in entry["data_offsets"])
        if not start <= first <= last <= len(data):
            raise ValueError(f"{name} lies outside the file")
        weights[name] = np.frombuffer(data[first:last], "<f4").reshape(entry["shape"]).copy()
    return weights


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
