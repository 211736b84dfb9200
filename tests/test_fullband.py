"""`FullBandSeparator` at any rate and channel count: alignment, length, sum of the stems."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from fakes import FakeSeparator
from hypothesis import given, settings
from hypothesis import strategies as st

from rtmtass.errors import BlockSizeError, UsageError
from rtmtass.fullband import FullBandSeparator

RATES = (8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000, 192000)


def noise(n, channels=1, seed=0):
    return np.random.default_rng(seed).standard_normal((n, channels)).astype(np.float32) * 0.1


def fullband(rate, channels=1, mode="linked", weights=None, low_latency=False):
    return FullBandSeparator(
        FakeSeparator(1, weights), rate, channels, mode, low_latency=low_latency
    )


def separate(separator, mixture, chunk):
    """Process in chunks and remove the delay."""
    parts = [separator.process(mixture[i : i + chunk]) for i in range(0, len(mixture), chunk)]
    whole = np.concatenate([*parts, separator.flush()], axis=1)
    return whole[:, separator.delay :]


def db(x):
    return 20 * np.log10(np.abs(x).max() + 1e-12)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(("channels", "mode"), [(1, "linked"), (2, "linked"), (3, "independent")])
def test_stems_sum_to_the_mixture(rate, channels, mode):
    mixture = noise(rate // 2 + 7, channels)
    stems = separate(fullband(rate, channels, mode), mixture, 4096)
    assert stems.shape == (3, *mixture.shape)
    assert db(stems.sum(axis=0) - mixture) < -90


@pytest.mark.parametrize("rate", RATES)
def test_a_stem_of_weight_one_is_the_input(rate):
    mixture = noise(rate // 3)
    stems = separate(fullband(rate, weights=(1, 0, 0)), mixture, 1000)
    assert db(stems[0] - mixture) < -90
    assert db(stems[1:]) < -90


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000, 96000])
def test_resampled_stems_are_aligned(rate):
    """Without the residual, which would hide a misalignment of an in-band tone burst."""
    n = rate
    t = np.arange(n) / rate
    mixture = (np.sin(2 * np.pi * 900 * t) * np.hanning(n))[:, None].astype(np.float32) * 0.5
    separator = fullband(rate)
    separator._next_weights = lambda count: np.zeros((3, count, 1), np.float32)
    stems = separate(separator, mixture, 3000)[:, :, 0]
    expected = FakeSeparator()._split(t * 16000) * mixture[:, 0]
    assert np.abs(stems - expected)[:, 100:-100].max() < 2e-4


def test_highband_weights_split_the_band_above_the_models():
    rate = 48000
    n = 2 * rate
    t = np.arange(n) / rate
    mixture = (0.5 * np.sin(2 * np.pi * 15000 * t))[:, None].astype(np.float32)
    stems = separate(fullband(rate), mixture, 5000)[:, :, 0]
    expected = FakeSeparator()._split(t * 16000) * mixture[:, 0]
    middle = slice(rate // 10, -rate // 10)
    assert np.abs(stems - expected)[:, middle].max() < 1e-3


@pytest.mark.parametrize("rate", [16000, 44100, 8000])
@settings(max_examples=12, deadline=None, derandomize=True)
@given(cuts=st.lists(st.integers(0, 5000), min_size=1, max_size=8))
def test_any_block_sizes_give_the_same_stems(rate, cuts):
    mixture = noise(sum(cuts), 2)
    whole = fullband(rate, 2)
    expected = np.concatenate([whole.process(mixture), whole.flush()], axis=1)
    pieces, edges = fullband(rate, 2), np.cumsum([0, *cuts])
    got = [pieces.process(mixture[a:b]) for a, b in itertools.pairwise(edges)]
    assert [g.shape[1] for g in got] == cuts
    np.testing.assert_allclose(np.concatenate([*got, pieces.flush()], axis=1), expected, atol=1e-6)


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 192000])
def test_single_samples(rate):
    mixture = noise(3000)
    stems = separate(fullband(rate), mixture, 1)
    assert stems.shape == (3, 3000, 1)
    assert db(stems.sum(axis=0) - mixture) < -90


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("n", [0, 1, 255, 256, 257])
def test_lengths_around_a_hop(rate, n):
    mixture = noise(n, 2)
    stems = separate(fullband(rate, 2), mixture, 100)
    assert stems.shape == (3, n, 2)
    assert db(stems.sum(axis=0) - mixture) < -90 if n else True


@pytest.mark.parametrize("low_latency", [False, True])
@pytest.mark.parametrize("rate", [16000, 44100, 48000])
def test_reported_delay_is_the_measured_one(rate, low_latency):
    separator = fullband(rate, weights=(1, 0, 0), low_latency=low_latency)
    impulse = np.zeros((2 * rate, 1), np.float32)
    impulse[123] = 1
    out = separator.process(impulse)[0, :, 0]
    assert np.abs(out).argmax() == 123 + separator.delay
    assert separator.algorithmic_latency > separator.delay


@pytest.mark.parametrize("rate", [16000, 44100])
def test_flush_and_reset_clear_the_state(rate):
    mixture = noise(5000, 2)
    used = fullband(rate, 2)
    first = separate(used, mixture, 777)
    np.testing.assert_array_equal(separate(used, mixture, 777), first)
    used.process(noise(999, 2, seed=1))
    used.reset()
    np.testing.assert_array_equal(separate(used, mixture, 777), first)
    assert not used.flush().any()


def test_independent_channels_are_separated_individually():
    mixture = noise(8000, 2)
    both = separate(fullband(44100, 2, "independent"), mixture, 1000)
    left = separate(fullband(44100, 1), mixture[:, :1], 1000)
    np.testing.assert_allclose(both[:, :, :1], left, atol=1e-6)


@pytest.mark.parametrize("rate", [16000, 48000])
def test_mono_mixes_down(rate):
    mixture = noise(8000, 3)
    stems = separate(fullband(rate, 3, "mono"), mixture, 1000)
    assert stems.shape == (3, 8000, 1)
    assert db(stems.sum(axis=0)[:, 0] - mixture.mean(axis=1)) < -90


def test_wrong_shapes_and_modes_are_rejected():
    with pytest.raises(BlockSizeError, match=r"shape \(10, 3\), expected \(n, 2\)"):
        fullband(44100, 2).process(noise(10, 3))
    with pytest.raises(UsageError, match="linked, independent, mono"):
        fullband(44100, 2, "surround")


@pytest.mark.parametrize("rate", [44100, 48000])
def test_low_latency_resampling_adds_less_than_4_ms(rate):
    separator = fullband(rate, 2, low_latency=True)
    reference = fullband(16000, 2)
    assert separator.delay / rate - reference.delay / 16000 < 0.004
    mixture = noise(9000, 2)
    stems = separate(separator, mixture, 333)
    assert db(stems.sum(axis=0) - mixture) < -90
