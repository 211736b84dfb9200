"""The drift benchmark measures drift and the effect of a pop, and zero without them."""

from __future__ import annotations

import json
from typing import cast

import numpy as np
import pytest

from benchmarks import drift, pops, run_all, scenes
from rtmtass.config import STEMS
from rtmtass.evaluation.evaluate import Clip
from rtmtass.separator import Separator
from rtmtass.weights import open_model


class DegradingStream:
    """Returns the true stems 256 samples late, with noise that grows over time."""

    stems, delay = STEMS, 256

    def __init__(self, truth: np.ndarray, decay_db_per_hop: float) -> None:
        self.truth, self.step_db, self.hops = truth, decay_db_per_hop, 0
        self.rng = np.random.default_rng(0)

    def process(self, block: np.ndarray) -> np.ndarray:
        start = (self.hops - 1) * 256 % self.truth.shape[1]
        out = self.truth[:, start : start + 256].copy()
        noise_level = 0.01 * 10 ** (self.step_db * self.hops / 20)
        self.hops += 1
        return out + noise_level * self.rng.standard_normal(out.shape)


@pytest.mark.parametrize("db_per_hop", [0.0, 0.01])
def test_drift_is_measured_on_the_same_clips(db_per_hop: float) -> None:
    rng = np.random.default_rng(1)
    stems = [rng.standard_normal((3, 30 * 256)).astype(np.float32) * 0.1 for _ in range(2)]
    clips = [Clip(str(k), s.sum(axis=0), s) for k, s in enumerate(stems)]
    # Each minute is 60 hops and one for the delay; the audio between is whole periods of `truth`.
    truth = np.concatenate([*stems, np.zeros((3, 256), np.float32)], axis=1)
    stream = DegradingStream(truth, db_per_hop)
    ticks: list[int] = []
    sounds = iter([np.zeros(100 * 256, np.float32)] * 5)
    first, last = drift.measure_ends(
        cast(Separator, stream), clips, sounds, 305 * 256, ticks.append
    )
    assert ticks[-1] == 305 * 256
    assert stream.hops == 2 * 61 + 305
    expected_db = -db_per_hop * (305 + 61)
    difference = (last["si_sdri"] - first["si_sdri"]).mean()
    assert difference == pytest.approx(expected_db, abs=0.1)
    assert drift.by_position([(first, last)]) == pytest.approx([expected_db] * 2, abs=0.15)
    figures = drift.compare(first["si_sdri"], last["si_sdri"], STEMS)
    assert figures["average"]["difference"]["mean"] == pytest.approx(difference, abs=1e-3)


def test_minute_consists_of_whole_clips() -> None:
    clips = [
        Clip(str(k), np.ones(1000, np.float32), np.ones((3, 1000), np.float32)) for k in range(9)
    ]
    chosen = drift.one_minute(clips, 1000, 3.0)
    assert [len(clip.mixture) % 256 for clip in chosen] == [0] * 3
    assert chosen[0].stems.shape == (3, 1024)


def synthetic_clip(seed: int, seconds: float) -> Clip:
    """Return a buzz, a chord and noise, equally loud, in place of speech, music and noise."""
    rng, t = np.random.default_rng(seed), np.arange(int(seconds * 16000)) / 16000
    phase = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * 0.7 * t + seed)) / 16000
    buzz = np.sum([np.sin(k * phase) / k for k in range(1, 25)], axis=0)
    syllables = np.clip(np.sin(2 * np.pi * 2.5 * t + seed), 0.05, None)
    notes = np.array([220, 330, 440, 660]) * 2 ** (rng.integers(0, 12, 4) / 12)
    chord = np.sum([np.sin(2 * np.pi * note * t) for note in notes], axis=0)
    parts = [buzz * syllables, chord, rng.standard_normal(len(t))]
    stems = np.stack([0.03 * x / np.sqrt(np.mean(x**2)) for x in parts]).astype(np.float32)
    return Clip(str(seed), stems.sum(axis=0), stems)


def test_separation_recovers_within_a_second_of_a_clap() -> None:
    """The old level rule loses more throughout."""
    clips = [synthetic_clip(seed, 5.2) for seed in range(6)]
    result = json.loads(json.dumps(pops.measure_pops(open_model(), clips)))
    old, new = (result["rules"][name] for name in ("old", "new"))
    assert new["stems_back_s"] <= pops.GOAL_S
    for after in ("0.5", "1"):
        assert new["lost_db_after_s"][after] < 0.5 * old["lost_db_after_s"][after]
    assert old["level_back_s"]["p50"] is None
    assert "| new, level_pop_s = 0.35 |" in run_all.table(*pops.pop_table(result))


def test_recovery_time_is_after_the_last_excess() -> None:
    assert pops.recovery_s(np.array([0.9, -0.9]), 0.5) == 0
    assert pops.recovery_s(np.array([3.0, 0.0, -1.1, 0.2]), 0.5) == 1.5
    assert pops.recovery_s(np.array([0.0, 1.1]), 0.5) == float("inf")


def test_clap_has_the_stated_level() -> None:
    sound = np.full(5 * 16000, 0.01, np.float32)
    clap = pops.with_clap(sound, 16000, np.random.default_rng(0)) - sound
    first, n = round(pops.CLAP_AT_S * 16000), round(pops.CLAP_S * 16000)
    assert not clap[:first].any()
    assert not clap[first + n :].any()
    over_db = 10 * np.log10(np.mean(clap[first : first + n] ** 2) / 0.01**2)
    assert over_db == pytest.approx(pops.CLAP_DB, abs=0.3)


class ForgetfulSeparator:
    """Returns the true stems, with noise in the first second after a change of clip."""

    stems = STEMS

    def __init__(self, clips: list[Clip], noise_level: float) -> None:
        self.clips, self.noise_level = clips, noise_level

    def separate(self, mixture: np.ndarray) -> np.ndarray:
        """The clips are told apart by their sounds, at any level."""
        out = np.zeros((3, len(mixture)), np.float32)
        n = len(self.clips[0].mixture)
        for start in range(0, len(mixture), n):
            piece = mixture[start : start + n]
            clip = max(self.clips, key=lambda clip: abs(float(piece @ clip.mixture)))
            out[:, start : start + n] = clip.stems * (piece.std() / clip.mixture.std())
            if start:
                noise = np.random.default_rng(start).standard_normal((3, 16000))
                out[:, start : start + 16000] += self.noise_level * piece.std() * noise
        return out + 1e-4 * mixture


def test_a_change_of_scene_costs_what_is_lost_after_it() -> None:
    clips = [synthetic_clip(seed, 2.0) for seed in range(4)]
    for noise_level, most_db, least_db in ((0.0, 1e-3, -1e-3), (0.3, -3.0, -100.0)):
        separator = cast(Separator, ForgetfulSeparator(clips, noise_level))
        result = json.loads(json.dumps(scenes.measure_scenes(separator, clips)))
        for case in result["cases"].values():
            lost_db = case["difference"]["average"]["mean"]
            assert least_db < lost_db < most_db
            assert lost_db == pytest.approx(
                case["continued"]["mean"] - case["fresh"]["mean"], abs=0.02
            )
    assert "| as they are |" in run_all.table(*scenes.scene_table(result))
