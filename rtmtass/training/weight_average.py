"""The mean of two models that grew from the same weights: often better than either."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rtmtass.errors import DataError, UsageError
from rtmtass.weights import as_safetensors, open_model, save_model


def blend(model: str, other: str, share: float, out: Path) -> dict[str, Any]:
    """Write the mean of two models' weights, norms' statistics included.

    Args:
        model: a name or a folder; its record of training is kept.
        other: likewise; one of the two should have begun from the other.
        share: of `other` in the mean, 0..1.
        out: the folder to write the new model to.

    Returns:
        what the new model's config.json says of its training.

    Raises:
        ModelError: there is no such model.
        DataError: the two are different networks.
        UsageError: the share isn't between 0 and 1, or `out` is one of the two.

    Source: Wortsman et al., "Model soups", arXiv 2203.05482.
    """
    if not 0 <= share <= 1:
        raise UsageError(f"the share is {share:g}; give 0 to 1")
    one, two = open_model(model), open_model(other)
    if one.config != two.config:
        raise DataError(f"{model} and {other} are different networks; their mean would be none")
    if out.resolve() in (one.folder.resolve(), two.folder.resolve()):
        raise UsageError(f"{out} holds one of the two; give another folder")
    mean = {
        name: ((1 - share) * np.float64(value) + share * np.float64(two.weights[name])).astype("f")
        for name, value in one.weights.items()
    }
    training = {k: v for k, v in one.about.get("training", {}).items() if k != "dev"}
    training["averaged_with"] = {str(two.about.get("version", two.folder.name)): share}
    save_model(out, one.config, as_safetensors(mean), {"licence": "MIT", "training": training})
    return training
