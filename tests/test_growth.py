"""Growth: a larger network begins at the function of the smaller one."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from networks import BANDS, seasoned

from rtmtass.config import ModelConfig, NetConfig
from rtmtass.net.networks import new_network
from rtmtass.net.separation import SeparationNet
from rtmtass.training.growth import can_grow, grow

SMALL: dict[str, Any] = {
    "channels": 12,
    "hidden": 6,
    "dilations": (1, 2),
    "recurrent": 8,
    "recurrent_layers": 1,
    "compensation_channels": 10,
    "compensation_hidden": 4,
    "compensation_dilations": (1,),
    "subband_bins": 8,
    "subband_context": 3,
    "subband_channels": 6,
}
EVERYTHING: dict[str, Any] = {
    "channels": 15,
    "hidden": 7,
    "dilations": (1, 2, 4, 8),
    "recurrent": 9,
    "recurrent_groups": 2,
    "recurrent_layers": 2,
    "compensation_channels": 11,
    "compensation_hidden": 6,
    "compensation_dilations": (1, 3),
    "subband_context": 5,
    "subband_channels": 14,
    "subband_groups": 2,
}


def network(seed: int = 0, **values: Any) -> SeparationNet:
    return seasoned(ModelConfig(net=NetConfig(**values)), seed)


@pytest.mark.parametrize("change", [{}, *({k: v} for k, v in EVERYTHING.items()), EVERYTHING])
def test_a_grown_network_has_the_function_of_the_smaller(change: dict[str, Any]) -> None:
    change = dict(change)
    if "subband_groups" in change:  # units of the same size
        change.setdefault("subband_channels", 12)
    small, large = network(**SMALL), network(1, **{**SMALL, **change})
    x = torch.randn(2, 9, 2, 257)
    with torch.no_grad():
        expected = small(x)
        if change:
            assert (large(x) - expected).abs().max() > 0.01
        assert can_grow(small.config.net, large.config.net)
        grow(small, large)
        torch.testing.assert_close(large(x), expected, rtol=1e-4, atol=1e-5)
    loss = large.train()(x).square()[:, :, 0].sum()
    loss.backward()
    for name, parameter in large.named_parameters():  # all that reads new units can learn
        if name.endswith("expand.linear.weight"):
            assert parameter.grad is not None
            assert (parameter.grad.abs().amax(dim=0) > 0).all(), name


def test_sub_bands_can_be_added() -> None:
    plain = {k: v for k, v in SMALL.items() if not k.startswith("subband_")}
    small, large = network(**plain), new_network(ModelConfig(net=NetConfig(**SMALL))).eval()
    assert can_grow(small.config.net, large.config.net)
    grow(small, large)
    x = torch.randn(1, 9, 2, 257)
    torch.testing.assert_close(large(x), small(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"channels": 11},
        {"dilations": (1,)},
        {"dilations": (2, 1, 4)},
        {"kernel": 5},
        {"subband_bins": 16},
        {"subband_channels": 8, "subband_groups": 2},
        {"target": "spectral_mapping"},
        {"recurrent": 4, "recurrent_groups": 2},
    ],
)
def test_what_cannot_grow_is_told(change: dict[str, Any]) -> None:
    small = NetConfig(**SMALL)
    assert can_grow(small, small)
    assert not can_grow(small, dataclasses.replace(small, **change))


@pytest.mark.parametrize("depths", [(1, 2), (3, 1), (2, 2)])
def test_blocks_are_added_to_a_network_in_bands(depths: tuple[int, int]) -> None:
    names = ("recurrent_layers", "compensation_layers")
    values = {**BANDS, "band_bins": (8,) * 32 + (1,), "recurrent_layers": 1}
    small, large = (
        network(**values),
        network(1, **{**values, **dict(zip(names, depths, strict=True))}),
    )
    x = torch.randn(2, 9, 2, 257)
    with torch.no_grad():
        expected = small(x)
        assert (large(x) - expected).abs().max() > 0.01
        assert can_grow(small.config.net, large.config.net)
        grow(small, large)
        torch.testing.assert_close(large(x), expected)
    assert not can_grow(large.config.net, small.config.net)
    wider = dataclasses.replace(large.config.net, channels=11)
    assert not can_grow(small.config.net, wider)


def test_what_has_no_weights_may_differ() -> None:
    small = NetConfig(**SMALL, level_by_power=True)
    weightless: dict[str, Any] = {
        "level_half_life_s": 0.3,
        "level_pop_s": 0.35,
        "expander_db": -15.0,
        "expander_ratio": 3,
    }
    assert can_grow(small, dataclasses.replace(small, **weightless))


def test_the_published_backbone_only_continues() -> None:
    net = NetConfig(backbone="multiscale", compensation_target="spectral_mapping")
    wider = dataclasses.replace(net, channels=net.channels + 1)
    assert can_grow(net, net)
    assert not can_grow(net, wider)
