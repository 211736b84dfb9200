"""Which recordings are for training and which for dev: whole groups, always the same way."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from rtmtass.training.data.corpus import IndexRow


def assign_splits(rows: list[IndexRow], dev_share: float) -> list[IndexRow]:
    """Give every row without a split the one its group's hash falls into.

    A role that would be left without dev gives its lowest-hashed group to it, one
    without train its highest-hashed. Only a role's one and only group is torn:
    its lowest-hashed recording is dev, the others train.
    """
    given = [replace(row, split=row.split or _by_hash(row, dev_share)) for row in rows]
    shares = {"dev": dev_share, "train": 1.0 - dev_share}
    allowed = [split for split, share in shares.items() if share > 0.0]
    for role in {row.role for row in given}:
        mine = [place for place, row in enumerate(given) if row.role == role]
        free = [place for place in mine if not rows[place].split]
        for split in allowed:
            if any(given[place].split == split for place in mine) or len(mine) < 2:
                continue
            for place in _to_give(rows, free, len(mine), split):
                given[place] = replace(given[place], split=split)
    return given


def _to_give(rows: list[IndexRow], free: list[int], n_of_role: int, split: str) -> list[int]:
    """Return which of a role's free rows go to a split that has none."""
    if not free:
        return []
    place = {"dev": 0, "train": -1}[split]
    chosen = sorted({_group_name(rows[n]) for n in free}, key=_hash)[place]
    group = [n for n in free if _group_name(rows[n]) == chosen]
    if len(group) < n_of_role:
        return group
    in_order = sorted(free, key=lambda n: _hash(rows[n].path))
    return in_order[:1] if split == "dev" else in_order[1:]


def _group_name(row: IndexRow) -> str:
    return f"{row.source}/{row.group}"


def _by_hash(row: IndexRow, dev_share: float) -> str:
    return "dev" if _hash(_group_name(row)) < dev_share else "train"


def _hash(text: str) -> float:
    """Return a number in [0, 1) that is always the same for the same text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48
