"""Names the outputs of a set of recordings: distinct, and the same in each run."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Base:
    """What all outputs of a recording begin with.

    Attributes:
        path: of the recording.
        folder: of its outputs.
        name: before ".speech.wav" and the like.
        suffix: of its outputs, without a dot.
    """

    path: Path
    folder: Path
    name: str
    suffix: str


def distinct(bases: Sequence[Base]) -> list[Base]:
    """Return the bases; those that would be equal get distinct names.

    By the folders of their recordings, else by their suffixes (`a.aiff` beside `a.wav` becomes
    `a.aiff.speech.wav`), else by a hash of their paths. The order has no influence.
    """
    result = list(bases)
    for change in (_by_folder, _by_suffix, _by_hash):
        _apply(change, result)
    return result


def _apply(change: Callable[[list[Base]], list[Base]], bases: list[Base]) -> None:
    """Replace, in place, each group of equal bases."""
    groups: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for i, base in enumerate(bases):
        key = os.path.normcase(os.path.abspath(base.folder / base.name))
        groups[key, base.suffix].append(i)
    for members in groups.values():
        if len(members) > 1:
            changed = change([bases[i] for i in members])
            for i, base in zip(members, changed, strict=True):
                bases[i] = base


def _by_folder(equal: list[Base]) -> list[Base]:
    parents = [os.path.abspath(base.path.parent) for base in equal]
    if len(set(parents)) == 1:
        return equal
    try:
        shared = os.path.commonpath(parents)
    except ValueError:  # two drives
        return equal
    return [
        dataclasses.replace(base, folder=base.folder / os.path.relpath(parent, shared))
        for base, parent in zip(equal, parents, strict=True)
    ]


def _by_suffix(equal: list[Base]) -> list[Base]:
    return [
        base
        if base.path.suffix == f".{base.suffix}"
        else dataclasses.replace(base, name=base.path.name)
        for base in equal
    ]


def _by_hash(equal: list[Base]) -> list[Base]:
    return [dataclasses.replace(base, name=f"{base.name}~{_digest(base.path)}") for base in equal]


def _digest(path: Path) -> str:
    return hashlib.sha256(os.fsencode(os.path.abspath(path))).hexdigest()[:8]
