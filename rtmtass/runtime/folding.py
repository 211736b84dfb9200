"""Folds batch norms into matmul weights, and accounts for every released array.

Reads plain arrays, so that running a network never imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from rtmtass.errors import ModelError
from rtmtass.net.constants import NORM_EPSILON
from rtmtass.types import Floats

Weights = Mapping[str, Floats]


class Layer(NamedTuple):
    """A folded layer: y = W x + b, then slope * y where y is negative."""

    weight: Floats
    bias: Floats
    slope: Floats


def fold(weights: Weights, name: str, n: int, norm: str = "") -> Layer:
    """Return the affine layer `name`, `n` outputs wide, with its norm folded in.

    Args:
        weights: of the network.
        name: of the layer.
        n: outputs.
        norm: name of an RMS norm before it, whose weights are folded in too.

    Raises:
        ModelError: the weights hold no such layer, or one of another width.
    """
    try:
        weight = np.asarray(weights[f"{name}.linear.weight"], np.float64)
        bias = np.asarray(weights[f"{name}.linear.bias"], np.float64)
    except KeyError as error:
        raise ModelError(f"the weights lack {error}: they belong to another network") from None
    if len(weight) != n:
        raise ModelError(
            f"layer {name} of the weights is {len(weight)} wide where the config says {n}:"
            " config and weights belong to different networks"
        )
    if f"{name}.norm.weight" in weights:
        batch_norm = {k: np.asarray(weights[f"{name}.norm.{k}"], np.float64) for k in (
            "weight", "bias", "running_mean", "running_var")}  # fmt: skip
        gain = batch_norm["weight"] / np.sqrt(batch_norm["running_var"] + NORM_EPSILON)
        weight = weight * gain[:, None]
        bias = (bias - batch_norm["running_mean"]) * gain + batch_norm["bias"]
        slope = np.asarray(weights.get(f"{name}.slope", np.zeros_like(bias, np.float32)))
    else:
        slope = np.asarray(weights.get(f"{name}.slope", np.ones_like(bias, np.float32)))
    layer = Layer(*(np.ascontiguousarray(a, np.float32) for a in (weight, bias, slope)))
    return layer._replace(weight=layer.weight * weights[f"{norm}.weight"]) if norm else layer


class Gru(NamedTuple):
    """The arrays of a GRU of H units: (3 H, C), (3 H, H), (3 H,), (3 H,); reset, update, new."""

    w_in: Floats
    w_state: Floats
    b_in: Floats
    b_state: Floats


def read_grus(weights: Weights, name: str, hidden: int, groups: int) -> list[Gru]:
    """Return the parallel GRUs of the recurrent block `name`.

    Raises:
        ModelError: the weights lack one of them, or have another size.
    """
    keys = [f"{name}.gru"] if groups == 1 else [f"{name}.grus.{g}" for g in range(groups)]
    return [read_gru(weights, key, hidden) for key in keys]


def read_gru(weights: Weights, key: str, hidden: int, norm: str = "") -> Gru:
    """Return a GRU of `hidden` units by its name; `norm` as for `fold`.

    Raises:
        ModelError: the weights lack it, or it has another size.
    """
    parts = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    try:
        gru = Gru(*(weights[f"{key}.{part}_l0"] for part in parts))
    except KeyError as error:
        raise ModelError(f"the weights lack {error}: they belong to another network") from None
    if gru.w_state.shape[1] != hidden:
        raise ModelError(
            f"the GRU {key} of the weights is {gru.w_state.shape[1]} wide where the config"
            f" says {hidden}: config and weights belong to different networks"
        )
    return gru._replace(w_in=gru.w_in * weights[f"{norm}.weight"]) if norm else gru


def input_layer(grus: list[Gru]) -> Layer:
    """Return the input layers of parallel GRUs as one, their outputs one after the other."""
    bias = np.concatenate([gru.b_in for gru in grus])
    return Layer(np.concatenate([gru.w_in for gru in grus]), bias, np.ones_like(bias))


class TrackedWeights(dict[str, Floats]):
    """Weights by name that record which of them were read."""

    def __init__(self, weights: Weights) -> None:
        super().__init__(weights)
        self._read: set[str] = set()

    def __getitem__(self, name: str) -> Floats:
        self._read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """Return the array or the default; counts as read either way."""
        self._read.add(name)
        return super().get(name, default)

    def unused(self) -> list[str]:
        """Return the names never read, without torch's step counters."""
        return sorted(
            name for name in set(self) - self._read if not name.endswith("num_batches_tracked")
        )
