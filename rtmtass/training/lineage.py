"""What a model has been through: the runs behind its weights, each begun from the last one's."""

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
"""What is remembered of a run; figures of its own judgement are left behind."""


def runs_of(training: dict[str, Any], version: str = "") -> list[dict[str, Any]]:
    """Return all runs of a training record, oldest first, its own the last."""
    own = {key: training[key] for key in KEPT if key in training}
    return [*training.get("earlier", []), {"version": version, **own}]


def runs_behind(model: str) -> list[dict[str, Any]]:
    """Return the runs that made a model, a name or a folder, oldest first; none if unknown.

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
