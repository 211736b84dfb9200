"""Synthetic noise, rooms and augmentations on the host."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from corpora import hiss, level_db, pending, share_at, tone
from scipy import signal

from rtmtass.training.data import augment, codecs, noises, synthesis
from rtmtass.training.data.recordings import Recordings, Sampler, store
from rtmtass.types import Samples


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def f32(sound: np.ndarray) -> Samples:
    return sound.astype(np.float32)


# --- noise -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", noises.MAKERS)
@pytest.mark.parametrize("n", [8001, 16000])
def test_generated_noise_is_finite_normalised_and_reproducible(kind: str, n: int) -> None:
    make = noises.MAKERS[kind]
    for seed in range(3):
        sound = make(n, rng(seed))
        assert sound.shape == (n,)
        assert sound.dtype == np.float32
        assert np.isfinite(sound).all()
        assert level_db(sound) == pytest.approx(0.0, abs=0.01)
        np.testing.assert_array_equal(sound, make(n, rng(seed)))
    assert not np.array_equal(make(n, rng(0)), make(n, rng(1)))


@pytest.mark.parametrize("slope_db", [3.0, 0.0, -3.0, -6.0, -9.0])
def test_coloured_noise_has_its_slope(slope_db: float) -> None:
    power = np.abs(np.fft.rfft(noises.coloured(1 << 16, rng(), slope_db))) ** 2
    hz = np.fft.rfftfreq(1 << 16, 1 / 16000)
    octaves = [62.5 * 2.0**k for k in range(8)]
    # Density, not sum: each octave has twice the bins of the one below.
    levels = [10 * np.log10(power[(hz >= a) & (hz < b)].mean()) for a, b in pairwise(octaves)]
    fitted = np.polyfit(np.arange(len(levels)), levels, 1)[0]
    assert fitted == pytest.approx(slope_db, abs=0.25)


def test_brown_noise_doesnt_drift() -> None:
    power = np.abs(np.fft.rfft(noises.coloured(1 << 16, rng(), -9.0))) ** 2
    hz = np.fft.rfftfreq(1 << 16, 1 / 16000)
    below, at = power[(hz > 0) & (hz < 10)].mean(), power[(hz >= 15) & (hz < 20)].mean()
    assert 0.3 < below / at < 3.0


def comb_share(sound: Samples, base_hz: float) -> float:
    power = np.abs(np.fft.rfft(sound)) ** 2
    return float(power[(np.arange(1, 40) * base_hz).astype(int)].sum() / power.sum())


@pytest.mark.parametrize("mains_hz", [50.0, 60.0])
def test_hum_consists_of_mains_harmonics(mains_hz: float) -> None:
    for seed in range(5):
        sound = noises.hum(16000, rng(seed), mains_hz)  # one second, so bins are 1 Hz wide
        assert comb_share(sound, mains_hz) > 0.9
        assert comb_share(sound, mains_hz + 7) < 0.05


def test_hum_is_at_50_or_60_hz() -> None:
    counts = {50.0: 0, 60.0: 0}
    for seed in range(40):
        sound = noises.hum(16000, rng(seed))
        counts[max(counts, key=lambda hz: comb_share(sound, hz))] += 1
    assert min(counts.values()) > 8


def test_babble_is_many_speakers(tmp_path: Path) -> None:
    pitches_hz = [300.0 + 180 * k for k in range(30)]
    items = [pending(str(k), tone(hz, 1.0)) for k, hz in enumerate(pitches_hz)]
    store(tmp_path / "s", items, "1")
    sampler = Sampler(Recordings(tmp_path / "s"))
    for seed in range(6):
        sound = noises.babble(sampler, 32000, rng(seed))
        assert level_db(sound) == pytest.approx(0.0, abs=0.01)
        loud = sum(share_at(sound, hz) > 0.01 for hz in pitches_hz)
        assert 4 <= loud <= 12


# --- rooms -------------------------------------------------------------------------------------


def decay_s(response: Samples, low_hz: float, high_hz: float) -> float:
    """Return the RT60 in a band, from the decay between -5 and -25 dB (ISO 3382, T20)."""
    band = signal.butter(2, [low_hz, high_hz], "bandpass", fs=16000, output="sos")
    left = np.cumsum(signal.sosfilt(band, response)[::-1] ** 2)[::-1]
    level = 10 * np.log10(left / left[0] + 1e-30)
    begin, end = (int(np.argmax(level <= db)) for db in (-5.0, -25.0))
    return 3 * (end - begin) / 16000


@pytest.mark.parametrize("size", [(2.5, 2.0, 2.2), (4.0, 3.0, 2.5), (10.0, 8.0, 4.0)])
@pytest.mark.parametrize("rt60_s", [0.3, 0.5, 0.8])
def test_a_room_has_the_given_rt60(size: tuple[float, ...], rt60_s: float) -> None:
    shape = np.array(size)
    response = synthesis.image_sources(shape, shape * 0.3, shape * 0.6, rt60_s, rng(1))
    bass, treble = decay_s(response, 200, 900), decay_s(response, 3000, 7000)
    assert bass == pytest.approx(rt60_s, rel=0.2)
    assert 0.35 * rt60_s < treble < bass * 1.05


def test_rooms_vary_and_start_with_the_direct_sound() -> None:
    lengths = []
    for seed in range(16):
        response = synthesis.make_room(rng(seed))
        lengths.append(len(response) / 16000)
        assert response.dtype == np.float32
        assert np.isfinite(response).all()
        assert np.argmax(np.abs(response)) == 0
        # A response is as long as its RT60; close sources and dull walls make it seem shorter.
        assert 0.2 * lengths[-1] < decay_s(response, 200, 6000) < 1.15 * lengths[-1]
    assert 0.1 <= min(lengths) < 0.25
    assert 0.55 < max(lengths) <= 0.801


@pytest.mark.parametrize("n", [1000, 16000])
def test_a_room_keeps_length_and_energy(n: int) -> None:
    response = synthesis.make_room(rng(1))
    wet = augment.add_room(f32(hiss(1.0))[:n], response)
    assert wet.shape == (n,)
    assert wet.dtype == np.float32
    assert level_db(wet) == pytest.approx(level_db(hiss(1.0)[:n]), abs=0.01)
    assert not augment.add_room(np.zeros(n, np.float32), response).any()


def test_a_room_is_a_convolution() -> None:
    click, response = np.zeros(4000, np.float32), np.zeros(300, np.float32)
    click[10] = 1.0
    response[[0, 200]] = 0.6, 0.8
    expected = np.zeros(4000)
    expected[[10, 210]] = 0.6, 0.8
    np.testing.assert_allclose(augment.add_room(click, response), expected, atol=1e-6)


# --- augmentations -----------------------------------------------------------------------------

EFFECTS: dict[str, Callable[[Samples], Samples]] = {
    "speed": lambda x: augment.change_speed(x, 1.1, len(x)),
    "tilt": lambda x: augment.random_tilt(x, rng(1)),
    "band": lambda x: augment.band_limit(x, 100.0, 4000.0),
    "clip": lambda x: augment.soft_clip(x, 12.0),
    "compand": augment.compand,
    "edge": lambda x: augment.start_or_stop(x.copy(), rng(1)),
}


@pytest.mark.parametrize("effect", EFFECTS)
@pytest.mark.parametrize("n", [37, 8001])
def test_effects_keep_length_and_silence(effect: str, n: int) -> None:
    changed = EFFECTS[effect](f32(hiss(1.0))[:n])
    assert changed.shape == (n,)
    assert changed.dtype == np.float32
    assert np.isfinite(changed).all()
    assert changed.any()
    assert not np.array_equal(changed, f32(hiss(1.0))[:n])
    assert not EFFECTS[effect](np.zeros(n, np.float32)).any()


@pytest.mark.parametrize("factor", [0.7, 0.88, 0.999, 1.14, 1.4])
def test_speed_moves_pitch_and_needs_the_stated_input(factor: float) -> None:
    n = 16000
    raw = f32(tone(1000, 2.0))[: augment.n_before_speed(n, factor)]
    changed = augment.change_speed(raw, factor, n)
    assert share_at(changed, 1000 * factor) > 0.98
    assert changed.shape == (n,)
    assert np.abs(changed[-20:]).max() > 0.03  # not padded


def gain_db(stems: Samples, hz: float) -> float:
    """Return the gain at a frequency, from the response to a click."""
    response = np.abs(np.fft.rfft(stems, 16000))
    return float(20 * np.log10(response[round(hz)]))


def test_a_tilt_stays_within_its_bounds() -> None:
    click = np.zeros(16000, np.float32)
    click[0] = 1.0
    gains = np.array(
        [
            [gain_db(augment.random_tilt(click, rng(seed)), hz) for hz in (50, 400, 1500, 7000)]
            for seed in range(60)
        ]
    )
    # Half of the tilt's 8 dB to either side, plus the bell's 8 dB.
    assert np.abs(gains).max() < 12.1
    assert (gains.std(axis=0) > 1.0).all()
    assert np.ptp(gains, axis=1).max() > 8.0


@pytest.mark.parametrize(("low_hz", "high_hz"), [(30.0, 7500.0), (300.0, 3000.0)])
def test_a_band_limit_keeps_the_sum(low_hz: float, high_hz: float) -> None:
    stems = np.stack([f32(hiss(1.0, seed, 0.1)) for seed in range(3)])
    limited = augment.band_limit(stems, low_hz, high_hz)
    whole = augment.band_limit(stems.sum(axis=0), low_hz, high_hz)
    np.testing.assert_allclose(limited.sum(axis=0), whole, rtol=0, atol=5e-5)


def test_a_band_limit_has_the_given_edges() -> None:
    click = np.zeros(16000, np.float32)
    click[0] = 1.0
    passed = augment.band_limit(click, 200.0, 3400.0)
    assert gain_db(passed, 800) == pytest.approx(0.0, abs=0.1)
    assert [gain_db(passed, hz) for hz in (200, 3400)] == pytest.approx([-3.0, -3.0], abs=0.7)
    assert gain_db(passed, 50) < -30
    assert gain_db(passed, 7000) < -30


def test_a_soft_clip_compresses_only_the_peaks() -> None:
    faint, loud = f32(tone(500, 0.5, 0.01)), f32(tone(500, 0.5, 0.8))
    both = np.concatenate([faint, loud])
    driven = augment.soft_clip(both, 12.0)
    np.testing.assert_allclose(driven[:8000], faint, rtol=1e-2)
    assert np.abs(driven).max() == pytest.approx(0.8 / 10**0.6 * np.tanh(10**0.6), rel=1e-3)
    assert share_at(driven[8000:], 1500) > 0.01


@pytest.mark.parametrize("codec", codecs.CODECS)
def test_codecs_keep_timing_length_and_level_but_add_errors(codec: str) -> None:
    t = np.arange(20000) / 16000
    sound = f32(
        0.003 * np.sin(2 * np.pi * (300 + 400 * t) * t) * (1 + np.sin(7 * t)) + hiss(1.25, 0, 2e-4)
    )
    for compression in codecs.CODECS[codec][2]:
        coded = codecs.through_codec(sound, codec, compression)
        assert coded.shape == sound.shape
        assert coded.dtype == np.float32
        np.testing.assert_array_equal(coded, codecs.through_codec(sound, codec, compression))
        assert level_db(coded) == pytest.approx(level_db(sound), abs=1.5)
        assert -60 < level_db(coded - sound) - level_db(sound) < 0
        alike = np.abs(signal.correlate(coded, sound, method="fft"))
        assert abs(int(np.argmax(alike)) - (len(sound) - 1)) <= 1
    silence = np.zeros(5000, np.float32)
    np.testing.assert_array_equal(codecs.through_codec(silence, codec, 0.8), silence)


def test_codecs_are_determined_by_the_seed() -> None:
    sound = f32(tone(700.0, 0.5) + hiss(0.5, 1, 0.02))
    first, again = (codecs.random_codec(sound, rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    outputs = {codecs.random_codec(sound, rng(seed)).tobytes() for seed in range(12)}
    assert len(outputs) > 5


def test_companding_has_the_error_of_g711() -> None:
    samples = f32(hiss(1.0, 0, 0.1))
    errors = {
        bits: level_db(augment.compand(samples, bits=bits) - samples) - level_db(samples)
        for bits in (8, 6)
    }
    assert -42 < errors[8] < -34  # G.711 reaches about 38 dB
    assert errors[6] - errors[8] == pytest.approx(12.0, abs=4.0)


def test_a_stem_starts_or_stops_at_a_random_time() -> None:
    sides = []
    for seed in range(30):
        samples = np.full(16000, 0.5, np.float32)
        changed = augment.start_or_stop(samples, rng(seed))
        sound = np.flatnonzero(changed)
        silence = 16000 - (sound[-1] - sound[0] + 1)
        assert 0.05 * 16000 < silence < 0.95 * 16000
        ends = bool(changed[0])
        assert ends != bool(changed[-1])
        assert np.abs(np.diff(changed)).max() < 0.5 / (0.0049 * 16000)  # no click
        sides.append(ends)
    assert 5 < sum(sides) < 25
