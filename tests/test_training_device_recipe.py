"""Batches made on a device follow the recipe: probabilities, levels and features as on the host."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from corpora import TONES_HZ, hiss, make_corpus, pending, share_at, tone, tones, write_index
from device_corpora import CALM, USUAL, Sound, changed, made

from rtmtass.config import STEMS
from rtmtass.training.data.corpus import Corpus
from rtmtass.training.data.examples import ExampleMaker
from rtmtass.training.data.recipe import PEAK, Recipe
from rtmtass.training.data.recordings import store
from rtmtass.types import SAMPLE_RATE

# --- the recipe --------------------------------------------------------------------------------


def test_stems_are_absent_as_often_as_the_recipe_says(pitched: Corpus) -> None:
    recipe = replace(USUAL, pop=0.0, all_silent=0.03, one_alone=0.12, one_missing=0.2)
    stems = made(pitched, recipe, 1000, seconds=0.1)
    assert np.isfinite(stems).all()
    n_present = (np.abs(stems).max(axis=2) > 0).sum(axis=1)
    fractions = np.bincount(n_present, minlength=4) / len(stems)
    # Within three standard deviations.
    assert fractions[0] == pytest.approx(0.03, abs=0.017)
    assert fractions[1] == pytest.approx(0.12, abs=0.031)
    assert fractions[2] == pytest.approx(0.20, abs=0.038)
    absent = (np.abs(stems).max(axis=2) == 0).mean(axis=0)
    np.testing.assert_allclose(absent, 0.03 + 0.12 * 2 / 3 + 0.20 / 3, atol=0.037)


def test_levels_and_snrs_are_as_wide_as_the_recipe_says(pitched: Corpus) -> None:
    recipe = replace(USUAL, pop=0.0, paper_snr=0.55)
    stems = made(pitched, recipe, 1000, seconds=0.1).astype(np.float64)
    mixtures = stems.sum(axis=1)
    assert np.abs(mixtures).max() <= PEAK + 1e-6
    levels = 10 * np.log10(np.mean(mixtures[mixtures.any(axis=1)] ** 2, axis=1))
    assert -45.01 <= levels.min() < -44.5
    assert -10.5 < levels.max() <= -9.99
    assert np.mean(levels) == pytest.approx(-27.5, abs=1.0)
    assert np.std(levels) == pytest.approx(35 / 12**0.5, abs=0.6)
    whole = stems[(np.abs(stems).max(axis=2) > 0).all(axis=1)]
    powers = np.mean(whole**2, axis=2)
    snrs = 10 * np.log10(powers[:, :1] / powers[:, 1:])
    assert 18 < np.abs(snrs).max() <= 20.01
    # 55 % from U(-5, 5), the rest from N(0, 7).
    assert (np.abs(snrs) <= 5).mean() == pytest.approx(0.55 + 0.45 * 0.525, abs=0.035)
    assert np.std(snrs) == pytest.approx((0.55 * 100 / 12 + 0.45 * 47.7) ** 0.5, abs=0.45)
    assert np.mean(snrs) == pytest.approx(0.0, abs=0.5)
    assert abs(np.corrcoef(snrs.T)[0, 1]) < 0.13


def test_pops_are_noise_with_the_recipes_probability_and_level(pitched: Corpus) -> None:
    recipe = changed(level_db=(-70.0, -60.0))  # quiet enough not to reach the peak limit
    calm, popping = (
        made(pitched, replace(recipe, pop=share), 500).astype(np.float64) for share in (0.0, 0.3)
    )
    pop = popping - calm
    np.testing.assert_allclose(pop[:, :2], 0.0, atol=1e-9)  # pops are drawn last
    has_pop = np.abs(pop[:, 2]).max(axis=1) > 1e-5
    assert has_pop.mean() == pytest.approx(0.3, abs=0.06)
    rms = np.sqrt(np.mean(calm.sum(axis=1) ** 2, axis=1))
    peaks_db = 20 * np.log10(np.abs(pop[has_pop, 2]).max(axis=1) / rms[has_pop])
    assert 14.9 <= peaks_db.min() < 17.0
    assert 38.0 < peaks_db.max() <= 40.1
    assert np.mean(peaks_db) == pytest.approx(27.5, abs=1.8)
    without_one = made(pitched, replace(recipe, pop=1.0, one_missing=1.0), 50)
    assert (np.abs(without_one[:, 2]).max(axis=1) > 0).all()
    assert not made(pitched, replace(recipe, pop=1.0, all_silent=1.0), 50).any()
    loud = made(pitched, changed(pop=1.0, level_db=(-12.0, -10.0)), 50)
    assert np.abs(loud.sum(axis=1)).max() == pytest.approx(PEAK, abs=1e-6)


@pytest.mark.parametrize(
    ("share", "present"), [("all_silent", 0), ("one_alone", 1), ("one_missing", 2)]
)
def test_a_recipe_of_one_augmentation_applies_only_that(
    pitched: Corpus, share: str, present: int
) -> None:
    stems = made(pitched, changed(**{share: 1.0}), 50)
    assert ((np.abs(stems).max(axis=2) > 0).sum(axis=1) == present).all()


def test_singing_is_recorded_or_synthetic_with_the_given_probability(tmp_path: Path) -> None:
    folder = make_corpus(tmp_path / "corpus", tones)
    rows: list[list[object]] = [
        [*line.split(",")] for line in (folder / "index.csv").read_text().splitlines()[1:]
    ]
    soundfile.write(folder / "song.wav", tone(2300.0, 1.5) + hiss(1.5, 0, 0.002), SAMPLE_RATE)
    rows.append(["singing", "s", "a", "train", "song.wav", 1.5, "CC0", "A"])
    write_index(folder, rows)
    corpus = Corpus(folder, tmp_path / "cache")

    def fractions_with_singing(**changes: float) -> tuple[float, float]:
        music = made(corpus, changed(**changes), 400)[:, 1]
        detected = [[share_at(x, 3050.0, 60.0), share_at(x, 2360.0, 530.0)] for x in music]
        synthetic, recorded = (np.array(detected) > 0.4).mean(axis=0)
        return float(synthetic), float(recorded)

    synthetic, recorded = fractions_with_singing(singing=0.5, recorded_singing=0.1)
    assert synthetic == 0.0
    assert recorded == pytest.approx(0.5, abs=0.08)
    items = [pending("x", tone(3050.0, 2.0), source="x")]
    store(corpus.cache / "singing-train", items, "made by hand")
    synthetic, recorded = fractions_with_singing(singing=0.6, recorded_singing=0.4)
    assert synthetic == pytest.approx(0.36, abs=0.075)
    assert recorded == pytest.approx(0.24, abs=0.07)
    alone = made(corpus, changed(singing=1.0, a_cappella=0.3), 400)[:, 1]
    without = [share_at(x, TONES_HZ["music", "train"]) < 1e-3 for x in alone]
    assert np.mean(without) == pytest.approx(0.3, abs=0.07)


@pytest.mark.parametrize("kind", ["long", "short"])
def test_noise_of_one_kind_is_enough(tmp_path: Path, kind: str) -> None:
    def make(role: str, split: str, take: int) -> Sound:
        return hiss({"long": 6.0, "short": 0.4}[kind] if role == "noise" else 2.0, take)

    corpus = Corpus(make_corpus(tmp_path / "corpus", make), tmp_path / "cache")
    stems = made(corpus, replace(USUAL, **CALM), 50)
    assert np.isfinite(stems).all()
    assert (np.abs(stems).max(axis=2) > 0).mean() > 0.95


def test_all_augmentations_together_give_valid_samples(rich: Corpus) -> None:
    for share in (1.0, 0.5):
        values: dict[str, Any] = {f.name: share for f in fields(Recipe) if f.type == "float"}
        recipe = Recipe(**{**values, **CALM, "snr_spread_db": 7.0, "widest_snr_db": 20.0})
        stems = made(rich, recipe, 100)
        assert np.isfinite(stems).all()
        assert (np.abs(stems).max(axis=2) > 0).mean() > 0.95
        assert np.abs(stems.sum(axis=1)).max() <= PEAK + 1e-6


# --- layers, told apart by their pitch -----------------------------------------------------------

PITCHES_HZ = {
    "speech": (500.0, 700.0), "music": (900.0, 1200.0), "noise": (1600.0, 2100.0),
    "generated": (2700.0,), "singing": (3500.0,), "revoiced": (4500.0,),
}  # fmt: skip


@pytest.fixture(scope="module")
def layered(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Give every recording its own pitch; the first noise is short, the second long."""

    def make(role: str, split: str, take: int) -> Sound:
        length_s = (0.3, 6.0)[take] if role == "noise" else 2.5
        return tone(PITCHES_HZ[role][take], length_s) + hiss(length_s, take, 1e-3)

    folder = tmp_path_factory.mktemp("layered")
    corpus = Corpus(make_corpus(folder / "corpus", make), folder / "cache")
    for name in ("generated", "singing", "revoiced"):
        sound = tone(PITCHES_HZ[name][0], 2.0)
        store(corpus.cache / f"{name}-train", [pending("a", sound, source=name)], "m")
    return corpus


def layers_db(stems: Sound, *pitches_hz: float) -> Sound:
    """Return the power of each pitch in stems (n, N), dB relative to the total, (pitches, n)."""
    power = np.abs(np.fft.rfft(stems)) ** 2  # no window, which would weight the middle
    hz = np.fft.rfftfreq(stems.shape[1], 1 / SAMPLE_RATE)
    powers = [power[:, np.abs(hz - pitch) < 40].sum(axis=1) for pitch in pitches_hz]
    return 10 * np.log10(np.array(powers) / power.sum(axis=1) + 1e-12)


def check_uniform(values: Sound, low: float, high: float, slack: float = 0.3) -> None:
    """Check that values are uniform in a range."""
    width = high - low
    assert low - slack <= values.min() < low + 0.12 * width
    assert high - 0.12 * width < values.max() <= high + slack
    deviation = width / 12**0.5
    assert np.mean(values) == pytest.approx(
        (low + high) / 2, abs=4 * deviation / len(values) ** 0.5
    )
    assert np.std(values) == pytest.approx(deviation, rel=0.2)


def test_second_speakers_and_pieces_have_the_given_probability_and_level(layered: Corpus) -> None:
    stems = made(layered, changed(second_speaker=0.6, second_piece=0.4), 400, 0.5)
    for stem, share, low, high in ((0, 0.6, 0.0, 10.0), (1, 0.4, -6.0, 6.0)):
        two = layers_db(stems[:, stem], *PITCHES_HZ[STEMS[stem]])
        has_both = (two > -20).all(axis=0)  # in half of the draws both are the same
        assert has_both.mean() == pytest.approx(share / 2, abs=0.07)
        difference_db = two[0] - two[1]
        if stem == 0:
            check_uniform(np.abs(difference_db[has_both]), low, high)
        else:
            check_uniform(difference_db[has_both], low, high)


def test_singing_is_louder_than_its_piece(layered: Corpus) -> None:
    music = made(layered, changed(singing=0.7, a_cappella=0.0), 300, 0.5)[:, 1]
    sung, *pieces = layers_db(music, 3500.0, *PITCHES_HZ["music"])
    is_sung = sung > -20
    assert is_sung.mean() == pytest.approx(0.7, abs=0.09)
    check_uniform((sung - np.max(pieces, axis=0))[is_sung], 0.0, 8.0)


def test_revoiced_speech_has_the_given_probability(layered: Corpus) -> None:
    speech = made(layered, changed(revoiced=0.35), 300, 0.5)[:, 0]
    (revoiced,) = layers_db(speech, 4500.0)
    assert (revoiced > -3).mean() == pytest.approx(0.35, abs=0.09)


def test_noise_is_long_or_short_or_both_or_generated(layered: Corpus) -> None:
    recipe = changed(generated_noise=0.4, generated_and_recorded=0.5)
    noise = made(layered, recipe, 1000, 0.5)[:, 2]
    short, long, generated = layers_db(noise, *PITCHES_HZ["noise"], 2700.0)
    has_short, has_long, is_generated = (x > -28 for x in (short, long, generated))
    assert is_generated.mean() == pytest.approx(0.4, abs=0.05)
    is_both = is_generated & (has_short | has_long)
    assert is_both.mean() == pytest.approx(0.2, abs=0.04)
    for recorded in (~is_generated, is_both):
        kinds = [has_long & ~has_short, has_long & has_short, has_short & ~has_long]
        fractions = [kind[recorded].mean() for kind in kinds]
        assert fractions == pytest.approx([0.55, 0.3, 0.15], abs=4 * 0.5 / recorded.sum() ** 0.5)
    check_uniform((generated - long)[is_both & ~has_short], -10.0, 10.0)
    check_uniform((short - long)[~is_generated & has_short & has_long], 0.0, 15.0, slack=0.5)


@pytest.mark.parametrize(
    ("share", "stem", "low", "high"),
    [
        ("speech_speed", 0, 0.88, 1.14),
        ("music_speed", 1, 0.8, 1.25),
        ("noise_speed", 2, 0.7, 1.4),
    ],
)
def test_speeds_have_the_given_probability_and_range(
    pitched: Corpus, share: str, stem: int, low: float, high: float
) -> None:
    stems = made(pitched, changed(**{share: 0.5}), 300, 0.5)[:, stem]
    power = np.abs(np.fft.rfft(stems * np.hanning(8000), 65536)) ** 2
    speed = power.argmax(axis=1) * SAMPLE_RATE / 65536 / TONES_HZ[STEMS[stem], "train"]
    is_changed = np.abs(speed - 1) > 0.004
    expected = 0.5 * (1 - 0.008 / (high - low))
    assert is_changed.mean() == pytest.approx(expected, abs=0.09)
    values = speed[is_changed]
    if stem == 1:
        check_uniform(np.log(values), np.log(low), np.log(high), slack=0.003)
    else:
        check_uniform(values, low, high, slack=0.003)


def test_tilts_are_distributed_as_on_the_host(tmp_path: Path) -> None:
    def white(role: str, split: str, take: int) -> Sound:
        return hiss(6.0, take)

    corpus = Corpus(make_corpus(tmp_path / "corpus", white), tmp_path / "cache")
    recipe = changed(tilt=0.5)
    hz = np.fft.rfftfreq(4000, 1 / SAMPLE_RATE)
    steepness = []
    for make in (made, host):
        power = np.abs(np.fft.rfft(make(corpus, recipe, 300, 0.25).reshape(-1, 4000))) ** 2
        bands = [
            power[:, band].mean(axis=1) for band in (hz < 300, (hz > 1000) & (hz < 2000), hz > 5000)
        ]
        steepness.append(10 * np.log10([bands[0] / bands[1], bands[2] / bands[1]]))
    ours, theirs = steepness
    untilted = [(np.abs(x[1]) < 0.8).mean() for x in (ours, theirs)]
    assert untilted[0] == pytest.approx(untilted[1], abs=0.08)
    for one, two in zip(ours, theirs, strict=True):
        assert distance(one, two) < 2.2 * (2 / 900) ** 0.5
        assert np.std(one) == pytest.approx(np.std(two), rel=0.1)
        assert np.std(two) > 1.5


# --- the same distributions as on the host -----------------------------------------------------


def features(stems: Sound) -> dict[str, Sound]:
    """Return features of each example's stem, where it is present."""
    features_of: dict[str, Sound] = {}
    hz = np.fft.rfftfreq(stems.shape[2], 1 / SAMPLE_RATE)
    for number, name in enumerate(STEMS):
        stem = stems[np.abs(stems[:, number]).max(axis=1) > 0, number].astype(np.float64)
        power = np.mean(stem**2, axis=1, keepdims=True)
        frames = np.mean(stem.reshape(len(stem), -1, 160) ** 2, axis=2) / power
        spec = np.abs(np.fft.rfft(stem)) ** 2
        low, high = (spec[:, band].sum(axis=1) for band in (hz < 1000, hz > 4000))
        features_of[f"{name}: duty"] = (frames > 0.03).mean(axis=1)
        features_of[f"{name}: silence"] = (frames < 1e-6).mean(axis=1)
        features_of[f"{name}: crest"] = 10 * np.log10(np.max(stem**2, axis=1) / power[:, 0])
        features_of[f"{name}: tilt"] = 10 * np.log10((high + 1e-12) / (low + 1e-12))
        features_of[f"{name}: centroid"] = np.log((spec * hz).sum(axis=1) / spec.sum(axis=1))
        features_of[f"{name}: edges"] = 10 * np.log10(
            (frames[:, :20].mean(axis=1) + 1e-3) / (frames[:, -20:].mean(axis=1) + 1e-3)
        )
    return features_of


def distance(one: Sound, two: Sound) -> float:
    """Return the Kolmogorov-Smirnov statistic: the largest gap between two distributions."""
    values = np.sort(np.concatenate([one, two]))
    return float(
        np.abs(
            np.searchsorted(np.sort(one), values, side="right") / len(one)
            - np.searchsorted(np.sort(two), values, side="right") / len(two)
        ).max()
    )


def same(device_stems: Sound, host_stems: Sound) -> dict[str, float]:
    """Return the features' KS statistics relative to the critical value at p = 1e-4."""
    ours, theirs = features(device_stems), features(host_stems)
    return {
        name: distance(ours[name], theirs[name])
        / (2.2 * (1 / len(ours[name]) + 1 / len(theirs[name])) ** 0.5)
        for name in ours
    }


def host(corpus: Corpus, recipe: Recipe, n: int, seconds: float) -> Sound:
    maker, n_samples = ExampleMaker(corpus, "train", recipe), round(seconds * SAMPLE_RATE)
    return np.stack([maker.make(n_samples, np.random.default_rng([5, k])) for k in range(n)])


RECIPES = {
    "usual": USUAL,
    "often": replace(
        USUAL, **CALM, second_speaker=0.5, revoiced=0.5, second_piece=0.5, singing=0.5,
        generated_and_recorded=0.5, speech_room=0.5, other_room=0.5, soft_clip=0.5, compand=0.3,
        start_or_stop=0.5, pop=0.3, band_limit=0.5, long_pauses=0.5,
    ),
    "fast": changed(speech_speed=0.5, music_speed=0.5, noise_speed=0.5, tilt=0.5),
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_examples_are_distributed_as_on_the_host(rich: Corpus, name: str) -> None:
    ours, theirs = (make(rich, RECIPES[name], 300, 0.6) for make in (made, host))
    differing = {k: v for k, v in same(ours, theirs).items() if v > 1.0}
    assert not differing


def test_the_comparison_detects_another_distribution(rich: Corpus) -> None:
    """The comparison above fails if an augmentation is missing."""
    usual = made(rich, RECIPES["often"], 300, 0.6)
    other = made(rich, replace(RECIPES["often"], long_pauses=0.0, start_or_stop=0.0), 300, 0.6)
    differing = {name for name, value in same(usual, other).items() if value > 1.0}
    assert {"speech: silence", "music: edges", "noise: edges"} & differing
