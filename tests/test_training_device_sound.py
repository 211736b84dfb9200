"""Sound made on a device: each piece equals its twin on the host, for whole batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from corpora import hiss, level_db, share_at, tone, voice
from scipy import signal
from torch import Tensor

from rtmtass.errors import DataError
from rtmtass.training import augment
from rtmtass.training import device_augment as device
from rtmtass.training.device_bank import BYTES_PER_HOUR, DeviceBank, hours_that_fit
from rtmtass.training.device_draws import OVERFLOW, Draws, capacity, pick, replace_rows
from rtmtass.training.device_tracks import crops, effects, gain_to_snr, voices
from rtmtass.training.mixing import music_track
from rtmtass.training.recordings import SAMPLE_RATE, Found, Recordings, Sampler, store

CPU = torch.device("cpu")
Sound = np.ndarray


def rows(*sounds: Sound) -> Tensor:
    return torch.from_numpy(np.stack(sounds).astype(np.float32))


def row(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float32)


def filtered(sound: Sound, response: Tensor, size: int) -> Sound:
    spec = torch.fft.rfft(rows(sound), size) * response
    return torch.fft.irfft(spec, size)[0, : len(sound)].numpy()


def error_db(sound: Sound, wanted: Sound) -> float:
    return level_db(sound - wanted) - level_db(wanted)


@pytest.fixture
def random() -> Draws:
    draws = Draws(CPU)
    draws.restart(1, 2)
    return draws


def stored(path: Path, sounds: dict[str, Sequence[Sound]]) -> Recordings:
    """Store groups of recordings, all of one source."""
    found = [
        Found("s", group, f"{group}{k}", lambda x=x: np.asarray(x, np.float32))
        for group, takes in sounds.items()
        for k, x in enumerate(takes)
    ]
    store(path, found, "stamp")
    return Recordings(path)


def bank_of(silence: int = 40000, **recordings: Recordings) -> DeviceBank:
    samplers = {name: Sampler(made) for name, made in recordings.items()}
    return DeviceBank(samplers, CPU, silence=silence)


# --- sound -------------------------------------------------------------------------------------


@pytest.mark.parametrize("speed", [0.7, 0.88, 1.0001, 1.14, 1.4])
def test_speed_is_changed_without_aliases(speed: float) -> None:
    n, band = 16000, 8000 / max(speed, 1.0)
    heard_hz = [300.0, 2000.0, 0.7 * band * min(speed, 1.0), 0.88 * band * min(speed, 1.0)]
    tones = [tone(hz / speed, 1.5) for hz in heard_hz]
    changed = device.change_speed(rows(*tones), torch.full((4,), speed), n).numpy()
    inner = slice(1000, 15000)  # a tone that sets in suddenly rings, on the host, too
    for sound, source, hz in zip(changed, tones, heard_hz, strict=True):
        assert error_db(sound[inner], tone(hz, 1.0)[inner]) < -50
        twin = augment.change_speed(source.astype(np.float32), speed, n)
        assert error_db(sound[inner], twin[inner]) < -50
    if speed > 1.01:  # what would lie above the new band is gone, not folded back
        high = tone(8000 / speed * 1.03, 1.5)
        gone = device.change_speed(rows(high), row(speed), n)[0].numpy()
        assert level_db(gone[inner]) - level_db(high) < -40


def test_each_row_has_its_own_speed() -> None:
    sound = hiss(1.5)
    speeds = [0.8, 1.0, 1.25]
    together = device.change_speed(rows(sound, sound, sound), torch.tensor(speeds), 16000)
    for speed, changed in zip(speeds, together, strict=True):
        alone = device.change_speed(rows(sound), row(speed), 16000)[0]
        torch.testing.assert_close(changed, alone, rtol=0, atol=1e-6)
    needed = device.n_before_speed(16000, torch.tensor(speeds, dtype=torch.float64)).tolist()
    assert needed == [augment.n_before_speed(16000, speed) for speed in speeds]


def test_filters_are_those_of_the_host() -> None:
    rng = np.random.default_rng(0)
    sound = hiss(0.5)
    size = device.filter_size(len(sound))
    for _ in range(6):
        corner_hz, gain_db = rng.uniform(300, 3500), rng.uniform(-8, 8)
        centre_hz, bell_db, q = 200 * 35 ** rng.random(), rng.uniform(-8, 8), rng.uniform(0.5, 2)
        sections = [augment._shelf(corner_hz, gain_db), augment._bell(centre_hz, bell_db, q)]
        wanted = signal.sosfilt(np.stack(sections).astype(np.float64), sound)
        shelf, bell = (row(corner_hz), row(gain_db)), (row(centre_hz), row(bell_db), row(q))
        assert error_db(filtered(sound, device.tilt(size, shelf, bell), size), wanted) < -90
        low_hz, high_hz = rng.uniform(30, 300), rng.uniform(3000, 7500)
        sections = signal.butter(3, [low_hz, high_hz], "bandpass", fs=SAMPLE_RATE, output="sos")
        response = device.band_pass(size, row(low_hz), row(high_hz))
        assert error_db(filtered(sound, response, size), signal.sosfilt(sections, sound)) < -90
        wanted = signal.lfilter(*signal.butter(2, corner_hz, fs=SAMPLE_RATE), sound)
        assert error_db(filtered(sound, device.low_pass(size, row(corner_hz)), size), wanted) < -90


def test_a_room_leaves_the_energy_as_it_is() -> None:
    rng = np.random.default_rng(1)
    response = (rng.standard_normal(3000) * 10 ** (-3 * np.arange(3000) / 3000)).astype(np.float32)
    sound = np.zeros(16000, np.float32)
    sound[:12000] = hiss(0.75)
    size = device.filter_size(16000, 3000)
    spec = torch.fft.rfft(rows(sound), size)
    room = device.equal_energy(spec, torch.fft.rfft(rows(response), size))
    wet = torch.fft.irfft(spec * room, size)[0, :16000].numpy()
    assert error_db(wet, augment.add_room(sound, response)) < -60
    assert level_db(wet) == pytest.approx(level_db(sound), abs=0.01)


def test_clipping_and_companding_are_those_of_the_host() -> None:
    loud, soft, silent = hiss(0.2, 1), hiss(0.2, 2, 0.001), np.zeros(3200)
    clipped = device.soft_clip(rows(loud, soft, silent), torch.tensor([12.0, 0.0, 5.0])).numpy()
    companded = device.compand(rows(loud, soft, silent)).numpy()
    for k, (sound, drive_db) in enumerate([(loud, 12.0), (soft, 0.0)]):
        sound = sound.astype(np.float32)
        assert error_db(clipped[k], augment.soft_clip(sound, drive_db)) < -100
        assert error_db(companded[k], augment.compand(sound)) < -100
    assert not clipped[2].any()
    assert not companded[2].any()


def test_sound_sets_in_or_stops_as_on_the_host() -> None:
    for seed in range(8):
        wanted = augment.start_or_stop(np.ones(4000, np.float32), np.random.default_rng(seed))
        is_stop = wanted[0] == 1.0
        inner = np.flatnonzero((wanted > 0) & (wanted < 1))
        at, fade = int(inner[0]) - 1, len(inner) + 2
        gain = device.edges(4000, *(torch.tensor([x]) for x in (at, fade, bool(is_stop))))
        np.testing.assert_allclose(gain[0].numpy(), wanted, atol=1e-6)


def test_a_pop_decays_where_it_is_put(random: Draws) -> None:
    length, at = torch.tensor([400, 4800, 1000]), torch.tensor([0, 3200, 7000])
    pops = device.pops(random.normal(3, 4800), length, torch.tensor([7000.0, 900, 100]), at, 8000)
    for pop, n, start in zip(pops.numpy(), length.tolist(), at.tolist(), strict=True):
        assert np.abs(pop).max() == pytest.approx(1.0)
        burst = pop[start : start + n]
        assert not pop[:start].any()
        assert not pop[start + n :].any()
        assert level_db(burst[-n // 4 :]) - level_db(burst) < -30
    treble = [share_at(pop, 6000.0, 2000.0) for pop in pops.numpy()]
    assert treble[0] > 0.2 > 0.02 > treble[1] > treble[2]


# --- draws -------------------------------------------------------------------------------------


def test_draws_are_a_function_of_seed_and_step() -> None:
    one, two = Draws(CPU), Draws(CPU)
    one.restart(3, 5)
    first = [one.uniform(7), one.between(3, (2.0, 4.0)), one.normal(4)]
    two.restart(3, 6)
    two.uniform(100000)
    two.restart(3, 5)
    for a, b in zip(
        first, [two.uniform(7), two.between(3, (2.0, 4.0)), two.normal(4)], strict=True
    ):
        assert torch.equal(a, b)
    two.restart(4, 5)
    assert not torch.equal(two.uniform(7), first[0])


def test_draws_lie_in_their_ranges(random: Draws) -> None:
    flat, logs = (
        random.between(20000, (-3.0, 5.0), (0.0, 1.0)),
        random.log_between(20000, (0.1, 10.0)),
    )
    assert -3.0 <= flat[0].min() < -2.99 < 4.99 < flat[0].max() <= 5.0
    assert float(flat[0].mean()) == pytest.approx(1.0, abs=0.07)
    assert float(logs.log().mean()) == pytest.approx(0.0, abs=0.04)
    limit = torch.tensor([1, 2, 5] * 4000)
    drawn = random.below(limit)
    assert (drawn < limit).all()
    assert sorted(set(drawn[limit == 5].tolist())) == [0, 1, 2, 3, 4]
    assert float(random.hits(0.3, 40000).float().mean()) == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize(
    "groups", [((64, 0.05),), ((8, 0.4), (3, 0.9)), ((4, 0.01),), ((192, 0.4),)]
)
def test_a_capacity_is_hardly_ever_too_small(groups: tuple[tuple[int, float], ...]) -> None:
    chance = np.ones(1)
    for count, share in groups:
        for _ in range(count):
            chance = np.convolve(chance, [1 - share, share])
    enough = capacity(*groups)
    assert chance[enough + 1 :].sum() <= OVERFLOW < chance[enough:].sum()
    # What isn't done for want of room is nothing next to what is done.
    k = np.arange(len(chance))
    assert (chance * np.maximum(k - enough, 0)).sum() < 2e-3 * (chance * k).sum()


def test_capacities_of_all_or_nothing() -> None:
    assert capacity((64, 0.0)) == 0
    assert capacity((64, 1.0), (5, 1.0)) == 69
    assert capacity() == 0


def test_rows_that_are_hit_are_picked_first(random: Draws) -> None:
    for n_rows in (3, 12, 20):
        is_hit = random.hits(0.3, 20)
        found, hit = pick(is_hit, n_rows)
        assert len(set(found.tolist())) == n_rows
        assert torch.equal(is_hit[found], hit)
        assert int(hit.sum()) == min(int(is_hit.sum()), n_rows)
        samples = torch.arange(20.0)[:, None] * torch.ones(20, 2)
        replace_rows(samples, found, hit, torch.full((n_rows, 2), -1.0))
        assert int((samples[:, 0] == -1).sum()) == int(hit.sum())
        assert (samples[~is_hit] >= 0).all()


# --- bank --------------------------------------------------------------------------------------


@pytest.fixture
def singers(tmp_path: Path) -> Recordings:
    sounds = {
        "anna": [tone(400, 0.3), tone(450, 0.6)],
        "ben": [tone(900, 0.25)],
        "eva": [tone(1500 + 100 * k, 0.2 + 0.1 * k) for k in range(4)],
    }
    return stored(tmp_path / "singers", sounds)


def test_a_bank_holds_what_is_stored(singers: Recordings, tmp_path: Path) -> None:
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


def test_a_bank_leaves_out_what_isnt_used(tmp_path: Path) -> None:
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
    drawn = bank.draw_in_group(group, draws.uniform(n)) - 1  # the first is the other's
    rng = np.random.default_rng(0)
    order = np.argsort(np.concatenate(sampler.groups))
    wanted = np.bincount([order[sampler.draw(rng)] for _ in range(n)], minlength=len(singers)) / n
    shares = np.bincount(drawn.numpy(), minlength=len(singers)) / n
    np.testing.assert_allclose(shares, wanted, atol=0.015)
    # The extremes of the random numbers lead to the first recording and the last.
    ends = torch.tensor([0.0, 1 - 2.0**-24])
    ends = bank.draw_in_group(bank.draw_group(which[:2], ends), ends)
    assert ends.tolist() == [1, len(singers)]
    chances = [bank.share_shorter("singers", n) for n in (0, 4001, 10**6)]
    assert chances[0] == 0.0
    assert chances[1] == pytest.approx(shares[bank.lengths[1:].numpy() <= 4000].sum(), abs=0.015)
    assert chances[2] == pytest.approx(1.0)


def test_too_little_memory_is_told_before_anything_is_sent(singers: Recordings) -> None:
    free = int(singers.seconds / 3600 * BYTES_PER_HOUR)  # half of it may be used
    with pytest.raises(DataError, match=r"0\.0 hours .*cpu has 0\.0 GB.*set examples = \"host\""):
        DeviceBank({"s": Sampler(singers)}, CPU, silence=9, free_bytes=lambda _: free)
    DeviceBank({"s": Sampler(singers)}, CPU, silence=9, free_bytes=lambda _: 2 * free + 9)
    assert hours_that_fit(80 * 10**9) == pytest.approx(347, abs=1)


# --- tracks ------------------------------------------------------------------------------------


def test_crops_are_of_one_recording_each(tmp_path: Path, random: Draws) -> None:
    """A ramp tells where in its recording a sample was."""
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
    """Numbers for the host that begin a repeated piece at one place."""

    def __init__(self, phase: int) -> None:
        self.phase = phase

    def random(self) -> float:
        return 0.5

    def integers(self, low: int, high: int) -> int:
        assert low <= self.phase < high
        return self.phase


def test_a_short_piece_is_repeated_as_on_the_host(tmp_path: Path, random: Draws) -> None:
    short = stored(tmp_path / "short", {"a": [hiss(0.11, 3)]})
    bank, n = bank_of(short=short), 5000
    n_raw, sampler = torch.full((40,), n), torch.zeros(40, dtype=torch.int64)
    tracks = crops(bank, random, sampler, n_raw, n, n_short=40).numpy()
    twins = np.stack([music_track(Sampler(short), n, AtPhase(k)) for k in range(1760)])  # type: ignore[arg-type]
    phases = [int(np.abs(twins[:, :9] - track[:9]).max(axis=1).argmin()) for track in tracks]
    np.testing.assert_allclose(tracks, twins[phases], atol=1e-5)
    assert min(phases) < 200
    assert max(phases) > 1560


def test_a_voice_is_one_speakers_recordings_with_gaps(singers: Recordings, random: Draws) -> None:
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
        shares = [share_at(track[:last], hz, 220.0) for hz in speakers]
        assert max(shares) > 0.9
        silent = np.abs(track[:last]) < 1e-6
        edges = np.flatnonzero(np.diff(np.concatenate([[0], silent, [0]])))
        lengths = (edges[1::2] - edges[::2])[edges[1::2] < last]
        gaps_s += [length / SAMPLE_RATE for length in lengths if length > 100]
    assert 0.049 < min(gaps_s) < 0.07
    assert 0.57 < max(gaps_s) < 0.602


def test_long_pauses_come_at_their_share(singers: Recordings, random: Draws) -> None:
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
    # A level of 0.1, down by 0 to 9 dB, and by up to 6 more each time.
    assert -22 < max(loudest) < -19.9
    assert -35.1 < min(loudest) < -27


def test_gains_to_an_snr() -> None:
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
