"""Deterministic assignment of whole groups of recordings to the splits train and dev."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from rtmtass.training.data.corpus import IndexRow


def assign_splits(rows: list[IndexRow], dev_share: float) -> list[IndexRow]:
    """Assign every row without a split by the hash of its group.

    If a role would have no dev recordings, its group with the lowest hash moves to dev;
    if it would have no train recordings, the one with the highest hash moves to train. A
    role with a single group is split: the recording with the lowest hash goes to dev,
    the others to train.

    Args:
        rows: the index; existing splits are kept.
        dev_share: fraction of the groups for dev.
    """
    assigned = [replace(row, split=row.split or _by_hash(row, dev_share)) for row in rows]
    fractions = {"dev": dev_share, "train": 1.0 - dev_share}
    allowed = [split for split, fraction in fractions.items() if fraction > 0.0]
    for role in {row.role for row in assigned}:
        of_role = [n for n, row in enumerate(assigned) if row.role == role]
        free = [n for n in of_role if not rows[n].split]
        for split in allowed:
            if any(assigned[n].split == split for n in of_role) or len(of_role) < 2:
                continue
            for n in _to_move(rows, free, len(of_role), split):
                assigned[n] = replace(assigned[n], split=split)
    return assigned


def _to_move(rows: list[IndexRow], free: list[int], n_of_role: int, split: str) -> list[int]:
    """Return which of a role's free rows move to a split that has none."""
    if not free:
        return []
    position = {"dev": 0, "train": -1}[split]
    chosen = sorted({_group_name(rows[n]) for n in free}, key=_hash)[position]
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
    """Return a hash of a text as a number in [0, 1)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48
