"""Recordings in a device's memory, and tracks for whole batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from corpora import hiss, level_db, pending, share_at, tone, voice
from torch import Tensor

from rtmtass.errors import DataError
from rtmtass.training.data.device.bank import BYTES_PER_HOUR, DeviceBank, hours_that_fit
from rtmtass.training.data.device.rng import Draws
from rtmtass.training.data.device.tracks import crops, effects, gain_to_snr, voices
from rtmtass.training.data.mixing import music_track
from rtmtass.training.data.recordings import Recordings, Sampler, store
from rtmtass.types import SAMPLE_RATE

CPU = torch.device("cpu")
Sound = np.ndarray


def rows(*sounds: Sound) -> Tensor:
    return torch.from_numpy(np.stack(sounds).astype(np.float32))


@pytest.fixture
def random() -> Draws:
    draws = Draws(CPU)
    draws.restart(1, 2)
    return draws


def stored(path: Path, sounds: Mapping[str, Sequence[Sound]]) -> Recordings:
    """Store groups of recordings, all of one source."""
    items = [
        pending(f"{group}{k}", sound, group=group)
        for group, takes in sounds.items()
        for k, sound in enumerate(takes)
    ]
    store(path, items, "stamp")
    return Recordings(path)


def bank_of(silence: int = 40000, **recordings: Recordings) -> DeviceBank:
    samplers = {name: Sampler(made) for name, made in recordings.items()}
    return DeviceBank(samplers, CPU, silence=silence)


# --- bank --------------------------------------------------------------------------------------


@pytest.fixture
def singers(tmp_path: Path) -> Recordings:
    sounds = {
        "anna": [tone(400, 0.3), tone(450, 0.6)],
        "ben": [tone(900, 0.25)],
        "eva": [tone(1500 + 100 * k, 0.2 + 0.1 * k) for k in range(4)],
    }
    return stored(tmp_path / "singers", sounds)


def test_a_bank_holds_the_stored_samples(singers: Recordings, tmp_path: Path) -> None:
    others = stored(tmp_path / "others", {"x": [hiss(0.3)]})
    bank = bank_of(singers=singers, others=others, again=singers)
    assert len(bank.samples) == 80000 + int(singers.lengths.sum()) + int(others.lengths.sum())
    groups = Sampler(singers).groups
    members = np.concatenate([*groups, [0], *groups])
    for place, index in enumerate(members):
        whole = others if place == len(singers) else singers
        start, n = int(bank.starts[place]), int(bank.lengths[place])
        sound = bank.read(torch.arange(start, start + n))
        np.testing.assert_allclose(sound.numpy(), whole.crop(index, 0, n), atol=1e-7)
        windows = bank.windows(torch.tensor([start]), n)
        assert torch.equal(windows[0], sound)
    assert not bank.samples[:40000].any()
    assert not bank.samples[-40000:].any()


def test_a_bank_omits_unused_recordings(tmp_path: Path) -> None:
    clear = {"a": [hiss(0.4, 1)], "c": [hiss(0.4, 2)]}
    sounds = {"a": clear["a"], "b": [tone(300, 0.5)], "c": clear["c"]}  # b is muffled
    stored(tmp_path / "all", sounds)
    some = Recordings(tmp_path / "all", keep_muffled=False)
    assert len(some) == 2
    bank = bank_of(some=some)
    assert len(bank.samples) == 80000 + 2 * 6400
    for place in (0, 1):
        start = int(bank.starts[place])
        sound = bank.read(torch.arange(start, start + 6400)).numpy()
        np.testing.assert_allclose(sound, some.crop(place, 0, 6400), atol=1e-7)


def test_a_bank_draws_as_often_as_a_sampler(singers: Recordings, tmp_path: Path) -> None:
    bank = bank_of(others=stored(tmp_path / "others", {"x": [hiss(0.3)]}), singers=singers)
    sampler, n = Sampler(singers), 20000
    draws = Draws(CPU)
    draws.restart(0, 0)
    which = torch.full((n,), bank.number["singers"])
    group = bank.draw_group(which, draws.uniform(n))
    drawn = bank.draw_in_group(group, draws.uniform(n)) - 1  # 0 belongs to the other sampler
    rng = np.random.default_rng(0)
    order = np.argsort(np.concatenate(sampler.groups))
    expected = np.bincount([order[sampler.draw(rng)] for _ in range(n)], minlength=len(singers)) / n
    fractions = np.bincount(drawn.numpy(), minlength=len(singers)) / n
    np.testing.assert_allclose(fractions, expected, atol=0.015)
    # The extreme random numbers select the first and the last recording.
    ends = torch.tensor([0.0, 1 - 2.0**-24])
    ends = bank.draw_in_group(bank.draw_group(which[:2], ends), ends)
    assert ends.tolist() == [1, len(singers)]
    chances = [bank.prob_shorter("singers", n) for n in (0, 4001, 10**6)]
    assert chances[0] == 0.0
    assert chances[1] == pytest.approx(fractions[bank.lengths[1:].numpy() <= 4000].sum(), abs=0.015)
    assert chances[2] == pytest.approx(1.0)


def test_too_little_memory_is_an_error_before_any_upload(singers: Recordings) -> None:
    free = int(singers.seconds / 3600 * BYTES_PER_HOUR)  # half of it may be used
    with pytest.raises(DataError, match=r"0\.0 hours .*cpu has 0\.0 GB.*set examples = \"host\""):
        DeviceBank({"s": Sampler(singers)}, CPU, silence=9, free_bytes=lambda _: free)
    DeviceBank({"s": Sampler(singers)}, CPU, silence=9, free_bytes=lambda _: 2 * free + 9)
    assert hours_that_fit(80 * 10**9) == pytest.approx(347, abs=1)


# --- tracks ------------------------------------------------------------------------------------


def test_crops_are_of_one_recording_each(tmp_path: Path, random: Draws) -> None:
    """The value of a ramp gives a sample's position in its recording."""
    ramps = stored(tmp_path / "r", {k: [np.linspace(0.1, 0.9, 30000)] for k in "ab"})
    bank = bank_of(ramps=ramps)
    n_raw = torch.tensor([9000, 6000] * 100)
    tracks = crops(bank, random, torch.zeros(200, dtype=torch.int64), n_raw, 9000, n_short=0)
    whole = ramps.crop(0, 0, 30000)
    starts = np.searchsorted(whole, tracks[:, 0].numpy() - 1e-6)
    for start, track, n in zip(starts, tracks.numpy(), n_raw.tolist(), strict=True):
        at = int(np.argmin(np.abs(whole - track[0]))) if start >= 30000 else start
        assert np.abs(track[:n] - whole[at : at + n]).max() < 1e-4
    assert starts.min() < 1500
    assert starts[::2].max() > 19000
    assert starts[1::2].max() > 22500


class AtPhase:
    """Random numbers that start a looped piece of the host at a given phase."""

    def __init__(self, phase: int) -> None:
        self.phase = phase

    def random(self) -> float:
        return 0.5

    def integers(self, low: int, high: int) -> int:
        assert low <= self.phase < high
        return self.phase


def test_a_short_piece_is_looped_as_on_the_host(tmp_path: Path, random: Draws) -> None:
    short = stored(tmp_path / "short", {"a": [hiss(0.11, 3)]})
    bank, n = bank_of(short=short), 5000
    n_raw, sampler = torch.full((40,), n), torch.zeros(40, dtype=torch.int64)
    tracks = crops(bank, random, sampler, n_raw, n, n_short=40).numpy()
    twins = np.stack([music_track(Sampler(short), n, AtPhase(k)) for k in range(1760)])  # type: ignore[arg-type]
    phases = [int(np.abs(twins[:, :9] - track[:9]).max(axis=1).argmin()) for track in tracks]
    np.testing.assert_allclose(tracks, twins[phases], atol=1e-5)
    assert min(phases) < 200
    assert max(phases) > 1560


def test_a_voice_track_is_one_speaker_with_gaps(singers: Recordings, random: Draws) -> None:
    bank, n, n_rows = bank_of(singers=singers), 32000, 60
    n_raw = torch.tensor([32000, 24000] * (n_rows // 2))
    tracks = voices(
        bank, random, torch.zeros(n_rows, dtype=torch.int64), n_raw, n,
        shortest=bank.shortest["singers"], long_pauses=0.0,
    ).numpy()  # fmt: skip
    gaps_s: list[float] = []
    speakers = np.array([425.0, 900.0, 1650.0])
    for track, last in zip(tracks, n_raw.tolist(), strict=True):
        assert not track[last:].any()
        fractions = [share_at(track[:last], hz, 220.0) for hz in speakers]
        assert max(fractions) > 0.9
        silent = np.abs(track[:last]) < 1e-6
        edges = np.flatnonzero(np.diff(np.concatenate([[0], silent, [0]])))
        lengths = (edges[1::2] - edges[::2])[edges[1::2] < last]
        gaps_s += [length / SAMPLE_RATE for length in lengths if length > 100]
    assert 0.049 < min(gaps_s) < 0.07
    assert 0.57 < max(gaps_s) < 0.602


def test_long_pauses_have_the_given_probability(singers: Recordings, random: Draws) -> None:
    bank, n, n_rows = bank_of(singers=singers), 16000, 400
    tracks = voices(
        bank, random, torch.zeros(n_rows, dtype=torch.int64), torch.full((n_rows,), n), n,
        shortest=bank.shortest["singers"], long_pauses=0.25,
    )  # fmt: skip
    begins = (tracks.abs() > 1e-6).float().argmax(dim=1)
    is_late = begins > 100
    assert float(is_late.float().mean()) == pytest.approx(0.25, abs=0.07)
    assert 7000 < int(begins.max()) <= 8010


def test_effects_are_repeated_with_gaps_at_varying_levels(tmp_path: Path, random: Draws) -> None:
    bank, n = bank_of(short=stored(tmp_path / "short", {"a": [tone(1000, 0.1)]})), 40000
    n_raw = torch.tensor([40000, 30000] * 30)
    tracks = effects(bank, random, 0, n_raw, n).numpy()
    gaps, first, ratios, loudest = [], [], [], []
    for track, last in zip(tracks, n_raw.tolist(), strict=True):
        assert not track[last:].any()
        sounding = np.convolve(np.abs(track) > 1e-7, np.ones(40), "same") > 0
        begins = np.flatnonzero(np.diff(np.concatenate([[0], sounding.astype(int)])) == 1)
        gaps += list(np.diff(begins)[:-1] - 1600)
        first.append(begins[0])
        levels = [level_db(track[b + 40 : b + 1540]) for b in begins[:-1]]
        loudest.append(max(levels))
        ratios.append(max(levels) - min(levels))
    assert 0.02 * SAMPLE_RATE - 2 <= min(gaps) < 0.03 * SAMPLE_RATE
    assert 1.5 * SAMPLE_RATE < max(gaps) <= 2.5 * SAMPLE_RATE
    assert max(first) <= 800
    assert 5.0 < max(ratios) <= 6.01
    # A level of 0.1, minus 0 to 9 dB, minus up to 6 dB for each repeat.
    assert -22 < max(loudest) < -19.9
    assert -35.1 < min(loudest) < -27


def test_gain_to_snr() -> None:
    reference, sound = (
        rows(voice(0.2), voice(0.2), np.zeros(3200)),
        rows(hiss(0.2), np.zeros(3200), hiss(0.2)),
    )
    gain = gain_to_snr(sound, reference, torch.tensor([7.0, 3.0, 3.0]))
    assert level_db(reference[0].numpy()) - level_db((sound * gain[:, None])[0].numpy()) == (
        pytest.approx(7.0, abs=1e-3)
    )
    assert torch.isfinite(gain).all()
    assert gain[2] == 0.0
