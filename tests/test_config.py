"""Configs: JSON round trip, derived values, validation, documentation."""

from __future__ import annotations

import dataclasses
import inspect
import json
from typing import Any

import pytest

from rtmtass.config import ModelConfig, NetConfig, StftConfig
from rtmtass.errors import ModelError
from rtmtass.presets import PRESETS, small


@pytest.mark.parametrize("preset", PRESETS)
def test_config_json_round_trip(preset: str) -> None:
    config = PRESETS[preset]()
    assert config.name == f"rtmtass-{preset}"
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_delays_are_derived() -> None:
    assert (small().delay, small().algorithmic_latency) == (256, 512)
    short = StftConfig(hop=64, synthesis=128)
    assert ModelConfig(stft=short).algorithmic_latency == 128
    assert ModelConfig(net=NetConfig(lookahead=2)).delay == 256 + 512


@pytest.mark.parametrize(
    "changes",
    [{"n_fft": 500}, {"hop": 100}, {"synthesis": 1024}, {"synthesis": 256}, {"hop": 0}],
)
def test_invalid_stft_sizes_are_rejected(changes: dict[str, int]) -> None:
    with pytest.raises(ModelError):
        StftConfig(**changes)


def test_bands_must_cover_the_spectrum() -> None:
    net = NetConfig(backbone="bands", band_bins=(100, 156))
    with pytest.raises(
        ModelError, match="band_bins must add up to 257, the bins of a frame, not 256"
    ):
        ModelConfig(net=net)
    with pytest.raises(ModelError, match="recurrent_layers must be 1 or more with the backbone"):
        NetConfig(backbone="bands", recurrent_layers=0)
    assert sum(small().net.band_bins) == small().stft.n_bins


@pytest.mark.parametrize("kind", [StftConfig, NetConfig, ModelConfig])
def test_every_field_is_documented(kind: type) -> None:
    for field in dataclasses.fields(kind):
        assert f"\n    {field.name}: " in str(inspect.getdoc(kind)), field.name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"recurrent_groups": 0},
            "must be 1 or more, not 0; for no GRUs, set recurrent_layers to 0",
        ),
        ({"subband_groups": 3}, r"must divide subband_channels \(64\), 3 doesn't; 1 always does"),
        ({"level_pop_s": 0.3}, "level_pop_s = 0.3 needs level_by_power; set level_by_power"),
        ({"level_pop_s": 1.0, "level_by_power": True}, "less than 1 s, not 1"),
    ],
)
def test_invalid_network_sizes_are_rejected(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        NetConfig(**changes)


def test_missing_fields_default_to_off() -> None:
    values = small().to_dict()
    for name in (
        "level_pop_s",
        "recurrent_groups",
        "subband_groups",
        "expander_db",
        "expander_ratio",
    ):
        del values["net"][name]
    net = ModelConfig.from_dict(values).net
    assert (net.level_pop_s, net.recurrent_groups, net.subband_groups) == (0.0, 1, 1)
    assert (net.expander_db, net.expander_ratio) == (0, 2)


def test_unknown_values_and_keys_are_rejected() -> None:
    with pytest.raises(ModelError, match=r"target must be one of .* not 'phase'"):
        NetConfig(target="phase")
    values = small().to_dict()
    values["net"]["novelty"] = 1
    with pytest.raises(ModelError, match="novelty; the model was made by a newer rtmtass"):
        ModelConfig.from_dict(values)
