"""Small networks with every kind of layer, and weights that exercise them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rtmtass.config import ModelConfig, StftConfig
from rtmtass.net.bands import RmsNorm
from rtmtass.net.networks import new_network
from rtmtass.net.separation import SeparationNet
from rtmtass.presets import gated, paper, small

SUBBANDS: dict[str, Any] = {
    "subband_bins": 5,
    "subband_overlap": 2,
    "subband_context": 3,
    "subband_channels": 11,
}
"""Sizes that divide neither the bins nor each other."""
BANDS: dict[str, Any] = {
    "backbone": "bands",
    "channels": 10,
    "hidden": 7,
    "band_bins": (4, 4, 4, 4, 8, 9),
    "band_context": 3,
    "recurrent": 14,
    "recurrent_layers": 2,
    "compensation_layers": 1,
    "subband_bins": 0,
}
TINY_STFT = StftConfig(sample_rate=16000, n_fft=64, hop=32, synthesis=64)


def tiny(backbone: str = "recurrent", **changes: Any) -> ModelConfig:
    """A preset's layers with a few thousand parameters; sub-bands only by `changes`."""
    base = {"recurrent": gated, "bands": small, "multiscale": paper}[backbone]()
    shape: dict[str, Any] = {
        "channels": 24,
        "hidden": 12,
        "dilations": (1, 3),
        "compensation_channels": 16,
        "compensation_hidden": 8,
        "compensation_dilations": (1, 2),
        "bands": 4,
        "dropout": 0.0,
        "level_pop_s": 0.0,
    }
    if backbone == "bands":
        shape |= BANDS
    if backbone == "recurrent":
        shape |= {"recurrent": 20, "subband_bins": 0}
    net = dataclasses.replace(base.net, **{**shape, **changes})
    return dataclasses.replace(base, name="tiny", stft=TINY_STFT, net=net)


def seasoned(config: ModelConfig, seed: int = 0) -> SeparationNet:
    """A network with norms as after training: means, variances and slopes differ by channel."""
    torch.manual_seed(seed)
    net = new_network(config)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.2)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.2)
        elif isinstance(module, RmsNorm):
            module.weight.data.uniform_(0.5, 1.5)
    for name, parameter in net.named_parameters():
        if name.endswith("slope"):
            parameter.data.uniform_(0, 0.5)
        if name.startswith("subbands.out_proj"):  # zero before training
            parameter.data.normal_(0, 0.2)
    return net.eval()


def arrays(net: SeparationNet) -> dict[str, NDArray[np.float32]]:
    """The network's weights, as in a released model."""
    return {
        k: v.numpy() for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")
    }
