"""Configs travel as plain values, derive what can be derived, and refuse nonsense."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from rtmtass.config import PRESETS, ModelConfig, NetConfig, StftConfig, small
from rtmtass.errors import ModelError


@pytest.mark.parametrize("preset", PRESETS)
def test_a_config_survives_json(preset: str) -> None:
    config = PRESETS[preset]()
    assert config.name == f"rtmtass-{preset}"
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


def test_the_documentation_names_every_field() -> None:
    for field in dataclasses.fields(NetConfig):
        assert f"\n        {field.name}: " in str(NetConfig.__doc__), field.name


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"recurrent_groups": 0}, "from 1 up, not 0; for none, set recurrent_layers to 0"),
        ({"subband_groups": 3}, "must divide subband_channels, 64: 3 doesn't; 1 always does"),
        ({"level_pop_s": 0.3}, "goes with level_by_power only: set both, or 0"),
        ({"level_pop_s": 1.0, "level_by_power": True}, "to less than 1 seconds, not 1"),
    ],
)
def test_sizes_that_make_no_network_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        NetConfig(**changes)


def test_a_config_from_before_a_field_has_the_field_switched_off() -> None:
    values = small().to_dict()
    for name in ("level_pop_s", "recurrent_groups", "subband_groups"):
        del values["net"][name]
    net = ModelConfig.from_dict(values).net
    assert (net.level_pop_s, net.recurrent_groups, net.subband_groups) == (0.0, 1, 1)


def test_unknown_words_are_named() -> None:
    with pytest.raises(ModelError, match=r"target must be one of .* not 'phase'"):
        NetConfig(target="phase")
    values = small().to_dict()
    values["net"]["novelty"] = 1
    with pytest.raises(ModelError, match="novelty; it was made by a newer rtmtass"):
        ModelConfig.from_dict(values)
