"""The drift benchmark finds drift where there is some, and none where there is none."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import drift

from rtmtass.config import STEMS
from rtmtass.evaluation.evaluate import Clip


class Ageing:
    """Gets each stem right 256 samples late, but for a hiss that grows with what it has heard."""

    stems, delay = STEMS, 256

    def __init__(self, truth: np.ndarray, decay_db_per_hop: float) -> None:
        self.truth, self.step_db, self.hops = truth, decay_db_per_hop, 0
        self.rng = np.random.default_rng(0)

    def process(self, block: np.ndarray) -> np.ndarray:
        at = (self.hops - 1) * 256 % self.truth.shape[1]
        out = self.truth[:, at : at + 256].copy()
        hiss = 0.01 * 10 ** (self.step_db * self.hops / 20)
        self.hops += 1
        return out + hiss * self.rng.standard_normal(out.shape)


@pytest.mark.parametrize("db_per_hop", [0.0, 0.01])
def test_drift_is_the_difference_of_the_same_clips(db_per_hop: float) -> None:
    rng = np.random.default_rng(1)
    stems = [rng.standard_normal((3, 30 * 256)).astype(np.float32) * 0.1 for _ in range(2)]
    clips = [Clip(str(k), s.sum(axis=0), s) for k, s in enumerate(stems)]
    # Each minute is 60 hops and one for the delay; what lies between fits the truth's period.
    truth = np.concatenate([*stems, np.zeros((3, 256), np.float32)], axis=1)
    stream = Ageing(truth, db_per_hop)
    ticks: list[int] = []
    sounds = iter([np.zeros(100 * 256, np.float32)] * 5)
    first, last = drift.live_on(stream, clips, sounds, 305 * 256, ticks.append)
    assert ticks[-1] == 305 * 256
    assert stream.hops == 2 * 61 + 305
    expected_db = -db_per_hop * (305 + 61)
    difference = (last["si_sdri"] - first["si_sdri"]).mean()
    assert difference == pytest.approx(expected_db, abs=0.1)
    assert drift.by_place([(first, last)]) == pytest.approx([expected_db] * 2, abs=0.15)
    figures = drift.compare(first["si_sdri"], last["si_sdri"], STEMS)
    assert figures["average"]["difference"]["mean"] == pytest.approx(difference, abs=1e-3)


def test_a_minute_is_filled_with_whole_clips() -> None:
    clips = [Clip(str(k), np.ones(1000, np.float32), np.ones((3, 1000))) for k in range(9)]
    chosen = drift.one_minute(clips, 1000, 3.0)
    assert [len(clip.mixture) % 256 for clip in chosen] == [0] * 3
    assert chosen[0].stems.shape == (3, 1024)
