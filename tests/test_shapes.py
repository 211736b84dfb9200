"""The list of a network's arrays equals the network itself."""

from __future__ import annotations

from typing import Any

import pytest
from networks import SUBBANDS, tiny

from rtmtass.config import ModelConfig
from rtmtass.errors import ModelError
from rtmtass.net.networks import new_network
from rtmtass.net.shapes import parameter_shapes
from rtmtass.presets import PRESETS

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("recurrent", {}),
    ("recurrent", SUBBANDS),
    ("recurrent", {**SUBBANDS, "subband_channels": 12, "subband_groups": 3}),
    ("recurrent", {"recurrent_groups": 2, "recurrent_layers": 3, "kernel": 2}),
    ("recurrent", {"recurrent_layers": 0, "lookahead": 2, "compensation_target": "none"}),
    ("recurrent", {"target": "magnitude_mask", "compensation_target": "magnitude_mask"}),
    ("recurrent", {"compensation_uses_trunk": False, **SUBBANDS, "target": "magnitude_mask"}),
    ("bands", {}),
    ("bands", {"compensation_target": "none", "lookahead": 1, "recurrent_layers": 1}),
    ("bands", {"target": "spectral_mapping", "compensation_target": "magnitude_mask"}),
    ("multiscale", {}),
    ("multiscale", {"bands": 7, "kernel": 4, "compensation_uses_trunk": True}),
    ("multiscale", {"bands": 66, "recurrent_layers": 1, "recurrent": 5}),
]


def of_torch(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    return {
        name: tuple(value.shape)
        for name, value in new_network(config).state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


@pytest.mark.parametrize(("backbone", "changes"), VARIANTS)
def test_the_list_equals_the_network(backbone: str, changes: dict[str, Any]) -> None:
    config = tiny(backbone, **changes)
    assert parameter_shapes(config) == of_torch(config)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_list_equals_every_preset(preset: str) -> None:
    config = PRESETS[preset]()
    assert parameter_shapes(config) == of_torch(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 8192, "hidden": 8192}, r"more than 250 million parameters"),
        (
            {"dilations": (65536,) * 200, "hidden": 64},
            r"a stream .* would take \d+ MB, at most 256",
        ),
        ({"subband_bins": 1, "subband_overlap": 1024, "subband_channels": 8192}, "more than|MB"),
    ],
)
def test_networks_that_need_all_memory_are_refused(changes: dict[str, Any], message: str) -> None:
    config = tiny(**changes)
    with pytest.raises(ModelError, match=message):
        parameter_shapes(config)
