"""Configs travel as plain values, derive what can be derived, and refuse nonsense."""

from __future__ import annotations

import json

import pytest

from rtmtass.config import ModelConfig, NetConfig, StftConfig, paper, small
from rtmtass.errors import ModelError


@pytest.mark.parametrize("preset", [small, paper])
def test_a_config_survives_json(preset: type[ModelConfig]) -> None:
    config = preset()
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_delays_are_derived() -> None:
    assert (small().delay, small().algorithmic_latency) == (256, 512)
    quick = StftConfig(hop=64, synthesis=128)
    assert ModelConfig(stft=quick).algorithmic_latency == 128
    assert ModelConfig(net=NetConfig(lookahead=2)).delay == 256 + 512


@pytest.mark.parametrize(
    "changes",
    [{"n_fft": 500}, {"hop": 100}, {"synthesis": 1024}, {"synthesis": 256}, {"hop": 0}],
)
def test_impossible_transforms_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ModelError):
        StftConfig(**changes)


def test_unknown_words_are_named() -> None:
    with pytest.raises(ModelError, match=r"target must be one of .* not 'phase'"):
        NetConfig(target="phase")
    values = small().to_dict()
    values["net"]["novelty"] = 1
    with pytest.raises(ModelError, match="novelty; it was made by a newer rtmtass"):
        ModelConfig.from_dict(values)
