"""Resamplers: aligned, exact in length, and independent of block sizes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtmtass.dsp.resample import LowLatencyResampler, Resampler
from rtmtass.errors import BlockSizeError

RATES = (8000, 11025, 22050, 24000, 32000, 44100, 48000, 88200, 96000, 192000)
KINDS = pytest.mark.parametrize("kind", [Resampler, LowLatencyResampler])
PAIRS = [pair for rate in RATES for pair in ((rate, 16000), (16000, rate))]


def resample(resampler, x, cuts=None):
    edges = np.cumsum([0, *(cuts or [len(x)])])
    parts = [resampler.process(x[a:b]) for a, b in itertools.pairwise(edges)]
    return np.concatenate([*parts, resampler.flush()])


def tone(rate, n, hz=700.0):
    """A tone burst that starts and ends in silence, the same at any rate."""
    t = np.arange(n) / rate
    return (np.sin(2 * np.pi * hz * t) * np.sin(np.pi * np.clip(t / 0.3, 0, 1)) ** 2)[:, None]


@KINDS
@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_output_is_aligned_with_the_input(kind, a, b):
    y = resample(kind(a, b, 1), tone(a, int(0.35 * a)).astype(np.float32))
    np.testing.assert_allclose(y, tone(b, len(y)), atol=1e-5 if kind is Resampler else 1e-4)


@KINDS
@pytest.mark.parametrize(("a", "b"), PAIRS)
@pytest.mark.parametrize("n", [0, 1, 2, 1023, 1024, 1025, 4999])
def test_the_output_length_is_exact(kind, a, b, n):
    y = resample(kind(a, b, 2), np.ones((n, 2), np.float32))
    assert y.shape == (-(-n * b // a), 2)
    assert y.dtype == np.float32


@KINDS
@pytest.mark.parametrize(("a", "b"), [(44100, 16000), (16000, 44100), (8000, 16000)])
@settings(max_examples=15, deadline=None, derandomize=True)
@given(cuts=st.lists(st.integers(0, 3000), min_size=1, max_size=9))
def test_block_sizes_dont_change_a_bit(kind, a, b, cuts):
    x = np.random.default_rng(0).standard_normal((sum(cuts), 2)).astype(np.float32)
    expected = resample(kind(a, b, 2), x)
    np.testing.assert_array_equal(resample(kind(a, b, 2), x, cuts), expected)


@KINDS
@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_the_output_is_never_later_than_the_delay(kind, a, b):
    resampler, rng = kind(a, b, 1), np.random.default_rng(0)
    n_in = n_out = 0
    while n_in < a:
        n = int(rng.choice([1, 17, 700]))
        n_in += n
        n_out += len(resampler.process(np.zeros((n, 1), np.float32)))
        assert n_out >= (n_in - resampler.delay) * b // a
    assert n_out <= n_in * b / a


@KINDS
def test_channels_are_independent(kind):
    x = np.random.default_rng(0).standard_normal((5000, 3)).astype(np.float32)
    together = resample(kind(48000, 16000, 3), x)
    alone = resample(kind(48000, 16000, 1), x[:, 1:2])
    np.testing.assert_allclose(together[:, 1:2], alone, atol=1e-6)


@KINDS
def test_flush_and_reset_start_a_new_stream(kind):
    x = np.random.default_rng(0).standard_normal((5000, 1)).astype(np.float32)
    resampler = kind(44100, 16000, 1)
    first = resample(resampler, x)
    np.testing.assert_array_equal(resample(resampler, x), first)
    resampler.process(x)
    resampler.reset()
    np.testing.assert_array_equal(resample(resampler, x), first)


@KINDS
def test_no_aliasing(kind):
    """12 kHz is above the Nyquist frequency of 16 kHz; it must not fold down to 4 kHz."""
    y = resample(kind(48000, 16000, 1), tone(48000, 16000, 12000.0).astype(np.float32))
    assert np.abs(y).max() < 1e-4


@KINDS
def test_a_block_of_wrong_shape_is_refused(kind):
    with pytest.raises(BlockSizeError, match=r"\(n, 2\), not \(5,\)"):
        kind(48000, 16000, 2).process(np.zeros(5, np.float32))


@pytest.mark.parametrize("rate", [44100, 48000, 96000])
def test_the_low_latency_resampler_has_a_short_delay(rate):
    down, up = LowLatencyResampler(rate, 16000, 1), LowLatencyResampler(16000, rate, 1)
    assert down.delay / rate + up.delay / 16000 < 0.0035
