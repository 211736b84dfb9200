"""Meters: levels before the gains, a floor, clipping that stays visible, the whole run."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rtmtass.live.meters import FULL_SCALE, StreamMeters, level_db

STEMS = ("speech", "music", "noise")
RATE, HOP = 16000, 256


def blocks(meters, n, *, mixture=0.1, stems=(0.5, 0.3, 0.2), out=0.1, channels=1):
    """Feed constant blocks."""
    level = np.full((HOP, channels), mixture, np.float32)
    weights = np.array(stems, np.float32)[:, None, None]
    for _ in range(n):
        meters.update(weights * level, level, np.full((1, HOP, channels), out, np.float32))


@pytest.mark.parametrize(("value", "expected"), [
    (1.0, 0.0),
    (0.5, -6.0206),
    (1e-6, -120.0),
    (0.99e-6, -math.inf),
    (1e-90, -math.inf),
    (0.0, -math.inf),
])  # fmt: skip
def test_a_level_has_a_floor(value, expected):
    assert level_db(value) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("channels", [1, 2])
def test_levels_of_a_constant(channels):
    meters = StreamMeters(STEMS, RATE)
    blocks(meters, 200, channels=channels)
    assert meters.separated() == {
        "speech": pytest.approx((-26.02, -26.02), abs=0.01),
        "music": pytest.approx((-30.46, -30.46), abs=0.01),
        "noise": pytest.approx((-33.98, -33.98), abs=0.01),
    }
    assert meters.run_levels().levels["output"] == pytest.approx((-20, -20), abs=0.01)
    blocks(meters, 200, mixture=0.0, out=0.0, channels=channels)
    assert set(meters.separated().values()) == {(-math.inf, -math.inf)}
    assert meters.run_levels().levels["output"] == pytest.approx((-23.01, -20), abs=0.01)


def test_clipping_is_held_for_three_seconds():
    meters = StreamMeters(STEMS, RATE)
    blocks(meters, 10, mixture=0.99, out=0.99)
    assert meters.clipped() == ()
    blocks(meters, 1, mixture=FULL_SCALE, out=0.1)
    blocks(meters, 1, mixture=-0.1, out=-1.5)
    assert meters.clipped() == ("mixture", "output")
    blocks(meters, 185)  # 2.96 s
    assert meters.clipped() == ("mixture", "output")
    blocks(meters, 3)
    assert meters.clipped() == ()
    assert meters.run_levels().clipped == {"mixture": 1, "output": 1}


def test_an_empty_block_changes_nothing():
    meters = StreamMeters(STEMS, RATE)
    blocks(meters, 5)
    before = meters.run_levels()
    meters.update(np.zeros((3, 0, 1), "f4"), np.zeros((0, 1), "f4"), np.zeros((1, 0, 1), "f4"))
    assert meters.run_levels() == before
