"""Lineage: the training runs behind a model's weights, each started from the previous one's."""

from __future__ import annotations

from typing import Any

from rtmtass.weights import describe, find

KEPT = (
    "steps",
    "mixture_hours",
    "machine_hours",
    "device",
    "threads",
    "optimiser",
    "teacher",
    "averaged_with",
)
"""Keys of a training record that are kept for earlier runs; validation figures are dropped."""


def runs_of(training: dict[str, Any], version: str = "") -> list[dict[str, Any]]:
    """Return all runs of a training record, oldest first, the record's own run last.

    Args:
        training: a model's training record.
        version: the model's version, for its own run.
    """
    latest = {key: training[key] for key in KEPT if key in training}
    return [*training.get("earlier", []), {"version": version, **latest}]


def lineage_of(model: str) -> list[dict[str, Any]]:
    """Return the runs that trained a model, oldest first; none if it has no training record.

    Args:
        model: a name or a folder.

    Raises:
        ModelError: there is no such model.
    """
    _, about = describe(find(model))
    training = about.get("training")
    return runs_of(training, str(about.get("version", ""))) if training else []


def totals(training: dict[str, Any]) -> dict[str, Any]:
    """Return steps, mixture_hours and machine_hours over all runs."""
    runs = runs_of(training)
    return {key: round(sum(run.get(key, 0) for run in runs), 2) for key in KEPT[:3]}
