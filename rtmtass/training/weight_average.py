"""Weight averaging: the mean of two models with a common origin, often better than either."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from rtmtass.errors import DataError, UsageError
from rtmtass.weights import as_safetensors, open_model, save_model


def average_weights(model: str, other: str, weight: float, out: Path) -> dict[str, Any]:
    """Write the weighted mean of two models' weights, norms' statistics included.

    Args:
        model: a name or a folder; its name and training record are kept.
        other: a name or a folder; one of the two should have been trained from the other.
        weight: weight of `other` in the mean, 0..1.
        out: folder of the new model.

    Returns:
        the new model's training record, as in its config.json.

    Raises:
        ModelError: there is no such model.
        DataError: the two are different networks.
        UsageError: `weight` isn't between 0 and 1, or `out` is one of the two.

    Source: Wortsman et al., "Model soups", arXiv 2203.05482.
    """
    if not 0 <= weight <= 1:
        raise UsageError(f"the share is {weight:g}; give 0 to 1")
    one, two = open_model(model), open_model(other)
    if dataclasses.replace(two.config, name=one.config.name) != one.config:
        raise DataError(
            f"{model} and {other} are different networks; give two models of which one was"
            " trained from the other"
        )
    if out.resolve() in (one.folder.resolve(), two.folder.resolve()):
        raise UsageError(f"{out} holds one of the two models; give another folder with -o")
    mean = {
        name: ((1 - weight) * np.float64(value) + weight * np.float64(two.weights[name])).astype(
            "f"
        )
        for name, value in one.weights.items()
    }
    training = {k: v for k, v in one.about.get("training", {}).items() if k != "dev"}
    training["averaged_with"] = {str(two.about.get("version", two.folder.name)): weight}
    about: dict[str, Any] = {"training": training}
    licences = {str(model.about.get("licence", "")) for model in (one, two)}
    if len(licences) == 1 and all(licences):  # else it is for the user to name one
        about["licence"] = licences.pop()
    save_model(out, one.config, as_safetensors(mean), about)
    return training
