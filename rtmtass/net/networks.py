"""Builds the network of a config."""

from __future__ import annotations

from rtmtass.config import ModelConfig
from rtmtass.net.bands import BandNet
from rtmtass.net.mtass import MtassNet
from rtmtass.net.separation import SeparationNet


def new_network(config: ModelConfig) -> SeparationNet:
    """Return the network that a config describes, with random weights."""
    return (BandNet if config.net.backbone == "bands" else MtassNet)(config)
