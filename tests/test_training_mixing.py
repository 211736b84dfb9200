"""Mixing: the paper's rule, and a reproducible evaluation set."""

from __future__ import annotations

import csv
import json
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile
from corpora import hiss, level_db, lively, make_corpus, share_at, tone, tones, write_index

from rtmtass.config import STEMS
from rtmtass.errors import DataError
from rtmtass.training.data.corpus import Corpus
from rtmtass.training.data.mixing import (
    PEAK,
    NoiseSamplers,
    dev_mixtures,
    energy,
    is_audible,
    mix_paper,
    music_track,
    noise_track,
    scale_to_snr,
    speech_track,
    write_evaluation_set,
)
from rtmtass.training.data.recordings import PendingRecording, Recordings, Sampler, store
from rtmtass.types import Samples


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("mixing")
    return Corpus(make_corpus(folder / "corpus"), folder / "cache")


def recordings(folder: Path, *sounds: np.ndarray, groups: str = "") -> Recordings:
    items = [
        PendingRecording("s", groups[k : k + 1] or str(k), str(k), partial(s.astype, np.float32))
        for k, s in enumerate(sounds)
    ]
    store(folder / "some", items, "1")
    return Recordings(folder / "some")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("amplitude", [0.01, 0.3])
def test_the_papers_rule_is_exact(seed: int, amplitude: float) -> None:
    """SNRs against speech are from U(-5, 5), music's first; the stems sum to the mixture."""
    speech, music, noise = (
        (gain * hiss(1.0, seed=10 * seed + k, amplitude=amplitude)).astype(np.float32)
        for k, gain in enumerate((1.0, 0.05, 0.7))
    )
    mixture, stems = mix_paper(speech, music, noise, rng(seed))
    draws = rng(seed).uniform(-5.0, 5.0, 2)
    powers = np.mean(stems.astype(np.float64) ** 2, axis=1)
    np.testing.assert_allclose(powers[0] / powers[1:], 10 ** (draws / 10), rtol=1e-6)
    np.testing.assert_allclose(mixture, stems.astype(np.float64).sum(axis=0), rtol=0, atol=1e-6)
    peak = np.abs(mixture).max()
    if amplitude == 0.3:
        assert peak == pytest.approx(PEAK, abs=1e-6)  # all scaled down together
    else:
        assert peak < PEAK
        np.testing.assert_array_equal(stems[0], speech)
    for stem, source in zip(stems, (speech, music, noise), strict=True):
        likeness = np.dot(stem, source) / np.sqrt(np.dot(stem, stem) * np.dot(source, source))
        assert likeness == pytest.approx(1.0, abs=1e-5)


def test_scaling_silence_to_an_snr_keeps_it_silent() -> None:
    silence = np.zeros(100, np.float32)
    assert not scale_to_snr(silence, np.ones(100, np.float32), 3.0).any()
    assert energy(np.full((2, 5), 0.5, np.float32)) == pytest.approx(0.25)
    assert energy(np.zeros(0, np.float32)) == 0.0


def test_a_speech_track_is_one_speaker_with_gaps(tmp_path: Path) -> None:
    sounds = (tone(500, 0.4), tone(700, 0.4), tone(1500, 0.4), tone(1900, 0.4))
    sampler = Sampler(recordings(tmp_path, *sounds, groups="aabb"))
    orders = set()
    for seed in range(6):
        track = speech_track(sampler, 40000, rng(seed), gap_s=(0.2, 0.3), offset=3000)
        assert track.shape == (40000,)
        assert not track[:3000].any()
        assert track[3000:3500].any()
        low, high = (share_at(track, a) + share_at(track, b) for a, b in ((500, 700), (1500, 1900)))
        assert max(low, high) > 0.98
        orders.add(low > high)
        tail = track[3000:].reshape(-1, 100)
        assert 0.2 < (tail == 0).all(axis=1).mean() < 0.6
    assert orders == {True, False}


def test_a_speech_track_can_start_with_a_whole_recording(tmp_path: Path) -> None:
    sampler = Sampler(recordings(tmp_path, np.linspace(0.1, 0.5, 16000)))
    first = float(sampler.recordings.crop(0, 0, 1)[0])
    begin = [speech_track(sampler, 4000, rng(s), from_start=True)[0] for s in range(5)]
    middle = [speech_track(sampler, 4000, rng(s))[0] for s in range(5)]
    assert set(map(float, begin)) == {first}
    assert len(set(map(float, middle))) == 5


def test_a_long_piece_is_cropped_and_a_short_one_looped_smoothly(tmp_path: Path) -> None:
    piece = np.ones(3000)
    track = music_track(Sampler(recordings(tmp_path / "short", piece)), 10000, rng())
    np.testing.assert_allclose(track[400:9000], 0.98, atol=1e-3)  # the fades sum to one
    long = recordings(tmp_path / "long", np.linspace(0.1, 0.5, 16000))
    cropped = music_track(Sampler(long), 4000, rng())
    whole = long.crop(0, 0, 16000)
    start = int(np.argmin(np.abs(whole - cropped[0])))
    assert len(cropped) == 4000
    np.testing.assert_allclose(cropped, whole[start : start + 4000], atol=3e-4)


def test_noise_is_a_recording_or_effects_or_both(tmp_path: Path) -> None:
    noise = NoiseSamplers.of(recordings(tmp_path, tone(500, 5.0), tone(1500, 0.2)))
    kinds = {"long": 0, "short": 0, "both": 0}
    for seed in range(300):
        track = noise_track(noise, 8000, rng(seed))
        assert track.shape == (8000,)
        has_long, has_short = (share_at(track, hz, 60) > 1e-3 for hz in (500, 1500))
        kinds["both" if has_long and has_short else "long" if has_long else "short"] += 1
    assert kinds["long"] == pytest.approx(165, abs=30)
    assert kinds["both"] == pytest.approx(90, abs=28)
    assert kinds["short"] == pytest.approx(45, abs=22)


@pytest.mark.parametrize("seconds", [0.3, 6.0])
def test_noise_of_one_kind_is_enough(tmp_path: Path, seconds: float) -> None:
    noise = NoiseSamplers.of(recordings(tmp_path, hiss(seconds)))
    assert all(noise_track(noise, 8000, rng(seed)).any() for seed in range(20))


def test_no_noise_recordings_are_an_error() -> None:
    with pytest.raises(DataError, match="no noise recordings"):
        noise_track(NoiseSamplers(None, None), 100, rng())


def take(corpus: Corpus, n: int, **options: object) -> list[tuple[Samples, Samples]]:
    return list(dev_mixtures(corpus, n, seconds=1.0, **options))  # type: ignore[arg-type]


def test_the_evaluation_set_is_reproducible(corpus: Corpus) -> None:
    once, again, fewer = take(corpus, 6), take(corpus, 6), take(corpus, 3)
    for number, (mixture, stems) in enumerate(once):
        np.testing.assert_array_equal(mixture, again[number][0])
        np.testing.assert_array_equal(stems, again[number][1])
        if number < 3:
            np.testing.assert_array_equal(stems, fewer[number][1])
    assert len({mixture.tobytes() for mixture, _ in once}) == 6
    assert not np.array_equal(take(corpus, 1, seed=1)[0][0], once[0][0])


def test_no_stem_of_the_evaluation_set_is_silent(corpus: Corpus) -> None:
    for mixture, stems in take(corpus, 25):
        assert mixture.shape == (16000,)
        assert stems.shape == (3, 16000)
        assert stems.dtype == mixture.dtype == np.float32
        assert np.isfinite(stems).all()
        np.testing.assert_array_equal(mixture, stems.sum(axis=0))
        assert all(is_audible(stem) for stem in stems)
        speech, *others = (level_db(stem) for stem in stems)
        assert -35.0 <= speech <= -20.0
        assert all(-5.0 <= speech - other <= 5.0 for other in others)


def test_the_evaluation_set_uses_only_its_split(tmp_path: Path) -> None:
    corpus = Corpus(make_corpus(tmp_path / "corpus", tones), tmp_path / "cache")
    for split, own, alien in (("dev", 1, 0), ("train", 0, 1)):
        hz = ((500, 700), (900, 1100), (1500, 1900))
        for _, stems in take(corpus, 5, split=split):
            for stem, place in zip(stems, hz, strict=True):
                assert share_at(stem, place[own]) > 0.95
                assert share_at(stem, place[alien]) < 1e-3


def test_singing_is_mixed_over_every_piece(corpus: Corpus, tmp_path: Path) -> None:
    voices = recordings(tmp_path, tone(3000, 2.0))
    plain, sung = take(corpus, 4), take(corpus, 4, singing=voices)
    for (_, without), (_, having) in zip(plain, sung, strict=True):
        assert share_at(without[1], 3000) < 0.01
        assert 0.49 < share_at(having[1], 3000) < 0.88  # 0 to 8 dB above the piece


def test_too_quiet_recordings_are_an_error(tmp_path: Path) -> None:
    folder = make_corpus(tmp_path / "corpus")
    blip = np.zeros(32000)
    blip[:800] = 0.5
    for number in range(2):
        soundfile.write(folder / f"music-dev-{number}.wav", blip, 16000)
    with pytest.raises(DataError, match=r"nearly silent.*rtmtass data build"):
        take(Corpus(folder, tmp_path / "cache"), 1)


def test_the_written_stems_sum_exactly_to_the_mixture(corpus: Corpus, tmp_path: Path) -> None:
    path = write_evaluation_set(corpus, tmp_path / "set", 4, seconds=1.0, seed=3)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["00000", "00001", "00002", "00003"]
    for row, (_, stems) in zip(rows, take(corpus, 4, seed=3), strict=True):
        tracks = {
            name: soundfile.read(path.parent / row[name], dtype="int16")[0].astype(int)
            for name in ("mixture", *STEMS)
        }
        np.testing.assert_array_equal(tracks["mixture"], sum(tracks[name] for name in STEMS))
        for name, stem in zip(STEMS, stems, strict=True):
            np.testing.assert_allclose(tracks[name] / 32767, stem, rtol=0, atol=0.51 / 32767)
        snr = level_db(stems[0]) - level_db(stems[1])
        assert float(row["music_snr_db"]) == pytest.approx(snr, abs=0.01)
    made = json.loads((path.parent / "set.json").read_text())
    assert made == {"n": 4, "seconds": 1.0, "seed": 3, "split": "dev", "singing": False}


def test_a_stem_louder_than_its_mixture_isnt_clipped(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = tone(500, 1.0, 1.4).astype(np.float32)
    stems = np.stack([one, -0.8 * one, 0.1 * one])
    monkeypatch.setattr(
        "rtmtass.training.data.mixing.dev_mixtures",
        lambda *a, **k: iter([(stems.sum(axis=0), stems)]),
    )
    folder = write_evaluation_set(corpus, tmp_path, 1).parent / "00000"
    tracks = [soundfile.read(folder / f"{name}.wav")[0] for name in ("mixture", *STEMS)]
    np.testing.assert_array_equal(tracks[0], sum(tracks[1:]))
    assert np.abs(tracks[1]).max() == pytest.approx(PEAK, abs=1e-3)
    assert share_at(tracks[1], 500) > 0.9999


def test_a_missing_bank_of_singing_is_an_error(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="no synthetic singing for dev; make it with: rtmtass data synth"
    ):
        write_evaluation_set(corpus, tmp_path, 1, singing=True)


def test_mixtures_are_generated_lazily(tmp_path: Path) -> None:
    """Mixtures are made on demand: the first doesn't wait for the last."""
    folder = make_corpus(tmp_path / "corpus", lively)
    endless = dev_mixtures(Corpus(folder, tmp_path / "cache"), 10**9, seconds=0.5)
    assert len(list(islice(endless, 2))) == 2


def test_a_corpus_without_dev_is_an_error(tmp_path: Path) -> None:
    folder = make_corpus(tmp_path / "corpus")
    write_index(folder, [["speech", "s", "g", "train", "speech-train-0.wav", 2.0, "", ""]])
    with pytest.raises(DataError, match=r"no speech for dev; .*rtmtass data build"):
        take(Corpus(folder, tmp_path / "cache"), 1)
