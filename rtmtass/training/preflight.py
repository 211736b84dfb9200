"""Checks, in a second and before anything slow, that this computer has what a config names."""

from __future__ import annotations

import tempfile
from pathlib import Path

from rtmtass.config import STEMS, ModelConfig
from rtmtass.errors import DataError, ModelError, OutputError, UsageError
from rtmtass.net.shapes import parameter_shapes
from rtmtass.runtime.torch.device import find_device
from rtmtass.training.config import TrainConfig
from rtmtass.training.data.corpus import SPLITS, read_index
from rtmtass.training.data.pack_format import SUMS
from rtmtass.weights import describe, find


def check_run(config: TrainConfig) -> None:
    """Raise an error for the first thing that a config names and this computer lacks.

    Raises:
        UsageError: no such device, or the network is too large.
        DataError: no recordings where the config expects them, or a role lacks some.
        ModelError: `start_from` or `teacher` is no model.
        OutputError: the folder of the run or of the cache can't be written.
    """
    find_device(config.device)
    if config.packs:
        if not (Path(config.packs) / SUMS).is_file():
            raise DataError(
                f"packs = {config.packs!r} holds no packs: it has no {SUMS}; give a folder written"
                " by: rtmtass data pack"
            )
    else:
        _check_corpus(config.corpus)
    for key in ("start_from", "teacher"):
        if name := getattr(config, key):
            _check_model(key, name)
    for key in ("cache", "runs"):
        _check_writable(key, Path(getattr(config, key)))
    _check_size(config.model())


def _check_corpus(folder: str) -> None:
    try:
        rows = read_index(Path(folder) / "index.csv")
    except DataError as error:
        raise DataError(f"corpus = {folder!r}: {error}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"corpus = {folder!r}: its index.csv can't be read ({reason}); make it again with:"
            " rtmtass data build"
        ) from None
    existing = {(row.role, row.split) for row in rows}
    lacking = [f"{r} for {s}" for s in SPLITS for r in STEMS if (r, s) not in existing]
    if lacking:
        raise DataError(
            f"corpus = {folder!r} has no {', no '.join(lacking)} in its index.csv; add recordings"
            " with: rtmtass data build"
        )


def _check_model(key: str, name: str) -> None:
    try:
        describe(find(name))
    except ModelError as error:
        raise ModelError(f"{key} = {name!r}: {error}") from None


def _check_writable(key: str, folder: Path) -> None:
    """Create a nameless file in a folder, or in the one that it will be made in."""
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists() or not p.name)
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise OutputError(
            f"{key} = {str(folder)!r} can't be written: {existing}: {error.strerror}; set {key} to"
            " another folder"
        ) from None


def _check_size(model: ModelConfig) -> None:
    """Check that a model of this network could be opened again."""
    try:
        parameter_shapes(model)
    except ModelError as error:
        raise UsageError(f"[net]: {error}, such as channels = 256") from None
