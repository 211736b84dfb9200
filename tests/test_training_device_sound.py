"""Augmentations on a device: each equals its counterpart on the host."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from corpora import hiss, level_db, share_at, tone
from scipy import signal
from torch import Tensor

from rtmtass.training.data import augment
from rtmtass.training.data.device import augment as device
from rtmtass.training.data.device.rng import OVERFLOW, Draws, capacity, pick, replace_rows
from rtmtass.types import SAMPLE_RATE

CPU = torch.device("cpu")
Sound = np.ndarray


def rows(*sounds: Sound) -> Tensor:
    return torch.from_numpy(np.stack(sounds).astype(np.float32))


def row(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float32)


def filtered(sound: Sound, response: Tensor, size: int) -> Sound:
    spec = torch.fft.rfft(rows(sound), size) * response
    return torch.fft.irfft(spec, size)[0, : len(sound)].numpy()


def error_db(sound: Sound, expected: Sound) -> float:
    return level_db(sound - expected) - level_db(expected)


@pytest.fixture
def random() -> Draws:
    draws = Draws(CPU)
    draws.restart(1, 2)
    return draws


# --- sound -------------------------------------------------------------------------------------


@pytest.mark.parametrize("speed", [0.7, 0.88, 1.0001, 1.14, 1.4])
def test_change_of_speed_has_no_aliases(speed: float) -> None:
    n, band = 16000, 8000 / max(speed, 1.0)
    heard_hz = [300.0, 2000.0, 0.7 * band * min(speed, 1.0), 0.88 * band * min(speed, 1.0)]
    tones = [tone(hz / speed, 1.5) for hz in heard_hz]
    changed = device.change_speed(rows(*tones), torch.full((4,), speed), n).numpy()
    inner = slice(1000, 15000)  # the onset rings, on the host too
    for sound, source, hz in zip(changed, tones, heard_hz, strict=True):
        assert error_db(sound[inner], tone(hz, 1.0)[inner]) < -50
        twin = augment.change_speed(source.astype(np.float32), speed, n)
        assert error_db(sound[inner], twin[inner]) < -50
    if speed > 1.01:  # content above the new band is removed, not aliased
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


def test_filters_equal_the_hosts() -> None:
    rng = np.random.default_rng(0)
    sound = hiss(0.5)
    size = device.filter_size(len(sound))
    for _ in range(6):
        corner_hz, gain_db = rng.uniform(300, 3500), rng.uniform(-8, 8)
        centre_hz, bell_db, q = 200 * 35 ** rng.random(), rng.uniform(-8, 8), rng.uniform(0.5, 2)
        sections = [augment._shelf(corner_hz, gain_db), augment._bell(centre_hz, bell_db, q)]
        expected = signal.sosfilt(np.stack(sections).astype(np.float64), sound)
        shelf, bell = (row(corner_hz), row(gain_db)), (row(centre_hz), row(bell_db), row(q))
        assert error_db(filtered(sound, device.tilt(size, shelf, bell), size), expected) < -90
        low_hz, high_hz = rng.uniform(30, 300), rng.uniform(3000, 7500)
        sections = signal.butter(3, [low_hz, high_hz], "bandpass", fs=SAMPLE_RATE, output="sos")
        response = device.band_pass(size, row(low_hz), row(high_hz))
        assert error_db(filtered(sound, response, size), signal.sosfilt(sections, sound)) < -90
        expected = signal.lfilter(*signal.butter(2, corner_hz, fs=SAMPLE_RATE), sound)
        assert (
            error_db(filtered(sound, device.low_pass(size, row(corner_hz)), size), expected) < -90
        )


def test_a_room_keeps_the_energy() -> None:
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


def test_clipping_and_companding_equal_the_hosts() -> None:
    loud, soft, silent = hiss(0.2, 1), hiss(0.2, 2, 0.001), np.zeros(3200)
    clipped = device.soft_clip(rows(loud, soft, silent), torch.tensor([12.0, 0.0, 5.0])).numpy()
    companded = device.compand(rows(loud, soft, silent)).numpy()
    for k, (sound, drive_db) in enumerate([(loud, 12.0), (soft, 0.0)]):
        single = sound.astype(np.float32)
        assert error_db(clipped[k], augment.soft_clip(single, drive_db)) < -100
        assert error_db(companded[k], augment.compand(single)) < -100
    assert not clipped[2].any()
    assert not companded[2].any()


def test_start_and_stop_equal_the_hosts() -> None:
    for seed in range(8):
        expected = augment.start_or_stop(np.ones(4000, np.float32), np.random.default_rng(seed))
        is_stop = expected[0] == 1.0
        inner = np.flatnonzero((expected > 0) & (expected < 1))
        at, fade = int(inner[0]) - 1, len(inner) + 2
        gain = device.edges(4000, *(torch.tensor([x]) for x in (at, fade, bool(is_stop))))
        np.testing.assert_allclose(gain[0].numpy(), expected, atol=1e-6)


def test_a_pop_starts_at_its_position_and_decays(random: Draws) -> None:
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


def test_draws_are_in_their_ranges(random: Draws) -> None:
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
def test_a_capacity_rarely_overflows(groups: tuple[tuple[int, float], ...]) -> None:
    chance = np.ones(1)
    for count, share in groups:
        for _ in range(count):
            chance = np.convolve(chance, [1 - share, share])
    enough = capacity(*groups)
    assert chance[enough + 1 :].sum() <= OVERFLOW < chance[enough:].sum()
    # Rows lost to overflow are negligible.
    k = np.arange(len(chance))
    assert (chance * np.maximum(k - enough, 0)).sum() < 2e-3 * (chance * k).sum()


def test_capacities_for_probabilities_0_and_1() -> None:
    assert capacity((64, 0.0)) == 0
    assert capacity((64, 1.0), (5, 1.0)) == 69
    assert capacity() == 0


def test_rows_that_are_hit_are_picked_first(random: Draws) -> None:
    for n_rows in (3, 12, 20):
        is_hit = random.hits(0.3, 20)
        picked, hit = pick(is_hit, n_rows)
        assert len(set(picked.tolist())) == n_rows
        assert torch.equal(is_hit[picked], hit)
        assert int(hit.sum()) == min(int(is_hit.sum()), n_rows)
        samples = torch.arange(20.0)[:, None] * torch.ones(20, 2)
        replace_rows(samples, picked, hit, torch.full((n_rows, 2), -1.0))
        assert int((samples[:, 0] == -1).sum()) == int(hit.sum())
        assert (samples[~is_hit] >= 0).all()
