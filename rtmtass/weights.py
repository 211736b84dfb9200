"""Finds released models by name or folder, verifies and reads them without unpickling."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from rtmtass.config import ModelConfig
from rtmtass.errors import ModelError
from rtmtass.types import Floats

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
        ModelError: a key is unknown.
    """
    net = {_RENAMED_KEYS.get(key, key): value for key, value in values.get("net", {}).items()}
    return ModelConfig.from_dict({**values, "net": net})


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
    """Open a model and verify its weights against the SHA-256 in its config.json.

    Raises:
        ModelError: no such model, or a file is missing or altered.
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
            f"{path} has SHA-256 {digest[:16]}…, its config.json expects"
            f" {str(about.get('sha256'))[:16]}…: the file was altered; install rtmtass again"
        )
    try:
        weights = renamed(from_safetensors(data))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{path} is not a safetensors file ({error}); install rtmtass again"
        ) from None
    return Model(folder, config, weights, about)


def as_safetensors(weights: Mapping[str, Floats]) -> bytes:
    """Return float32 arrays as the bytes of a safetensors file.

    The format is simple enough to need no package: the length of a JSON header, the
    header, and the data. The bytes are identical to those of the package.

    Source: https://github.com/huggingface/safetensors, Format.
    """
    header: dict[str, Any] = {}
    chunks: list[bytes] = []
    end = 0
    for name in sorted(weights):
        chunks.append(np.ascontiguousarray(weights[name], dtype="<f4").tobytes())
        start, end = end, end + len(chunks[-1])
        shape = list(np.shape(weights[name]))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # aligns the data
    return struct.pack("<Q", len(text)) + text + b"".join(chunks)


def from_safetensors(data: bytes) -> dict[str, Floats]:
    """Return the arrays of a float32 safetensors file, as writable copies.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: `data` is malformed.
    """
    if len(data) < 8:
        raise ValueError("the header is missing")
    start = 8 + struct.unpack_from("<Q", data)[0]
    if start > len(data):
        raise ValueError("the header is longer than the file")
    header = json.loads(data[8:start])
    weights: dict[str, Floats] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] != "F32":
            raise ValueError(f"{name} has type {entry['dtype']}, not F32")
        first, last = (start + int(offset) for offset in entry["data_offsets"])
        if not start <= first <= last <= len(data):
            raise ValueError(f"the data of {name} is outside the file")
        weights[name] = np.frombuffer(data[first:last], "<f4").reshape(entry["shape"]).copy()
    return weights


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

    Args:
        folder: of the model; created if missing.
        config: of the model.
        data: the weights, as the bytes of a safetensors file.
        about: further keys of config.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    values = {**about, "sha256": hashlib.sha256(data).hexdigest(), "model": config.to_dict()}
    text = json.dumps(values, indent=2) + "\n"
    for name, content in (("model.safetensors", data), ("config.json", text.encode())):
        part = folder / f"{name}.part"
        part.write_bytes(content)
        part.replace(folder / name)
