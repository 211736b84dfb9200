"""The presets: networks to train as they are, or to change a little."""

from __future__ import annotations

import dataclasses

from rtmtass.config import ModelConfig, NetConfig


def small() -> ModelConfig:
    """Return the preset `small`: 1.7 M parameters, 0.23 GMAC/s; for laptops and many streams.

    GRUs within 32 bands and over the whole spectrum in turn.
    """
    return ModelConfig(
        net=NetConfig(
            backbone="bands",
            channels=48,
            hidden=48,
            recurrent=192,
            subband_bins=0,
            level_half_life_s=0.3,
            level_by_power=True,
            level_pop_s=0.35,
        )
    )


def gated() -> ModelConfig:
    """Return the preset `gated`: a gated TCN with sub-bands, 3.7 M parameters, 0.31 GMAC/s.

    It was `small` until weights 0.9.1; about as fast, 0.25 dB behind after 40 hours of mixtures.
    """
    return ModelConfig(
        name="rtmtass-gated",
        net=NetConfig(level_half_life_s=0.3, level_by_power=True, level_pop_s=0.35, subband_bins=8),
    )


def base() -> ModelConfig:
    """Return the preset `base`: `small` with four instead of two blocks in each of the two stages.

    3.0 M parameters, 0.45 GMAC/s. A trained `small` can be grown into it, see `training.growth`.
    """
    net = dataclasses.replace(small().net, recurrent_layers=4, compensation_layers=4)
    return ModelConfig(name="rtmtass-base", net=net)


def large() -> ModelConfig:
    """Return the preset `large`: a wide `gated`, 17.0 M parameters, 2.7 GMAC/s.

    For recordings, and as a teacher.
    """
    net = dataclasses.replace(
        gated().net,
        channels=640,
        hidden=320,
        dilations=(1, 2, 4, 8),
        recurrent=128,
        recurrent_groups=6,
        compensation_channels=320,
        compensation_hidden=160,
        subband_context=32,
        subband_channels=384,
        subband_groups=3,
    )
    return ModelConfig(name="rtmtass-large", net=net)


def paper() -> ModelConfig:
    """Return the preset `paper`: a causal Complex-MTASSNet, 28.2 M parameters.

    Source: Zhang, Li, Deng, Wang, "Multi-Task Audio Source Separation", ASRU 2021.
    """
    return ModelConfig(
        name="rtmtass-paper",
        net=NetConfig(
            backbone="multiscale",
            compensation_target="spectral_mapping",
            channels=1028,
            hidden=257,
            dilations=(1, 3, 5, 7, 11) * 3,
            recurrent=0,
            recurrent_layers=0,
            compensation_channels=256,
            compensation_hidden=64,
            compensation_dilations=(1, 2, 4, 8, 16, 32, 64, 128) * 5,
            compensation_uses_trunk=False,
            level_half_life_s=0.3,
            level_by_power=True,
            level_pop_s=0.35,
            dropout=0.2,
        ),
    )


PRESETS = {"small": small, "gated": gated, "base": base, "large": large, "paper": paper}
"""Functions that build each preset's config, by name."""
