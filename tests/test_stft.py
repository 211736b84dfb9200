from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtmtass.config import StftConfig
from rtmtass.dsp.fft import fft_tables, forward, inverse, work_size
from rtmtass.dsp.stft import (
    StreamingStft,
    analyse_hop,
    analyse_hops,
    synthesise_hop,
    synthesise_hops,
    windows,
)
from rtmtass.errors import BlockSizeError

LENGTHS = [2**e for e in range(3, 13)]
SHAPES = [(512, 256, 512), (512, 128, 256), (512, 64, 128), (512, 128, 512)]
"""n_fft, hop and synthesis window of the configurations in use."""


def config_of(n_fft, hop, synthesis):
    return StftConfig(n_fft=n_fft, hop=hop, synthesis=synthesis)


def zeros(*shape):
    return np.zeros(shape, np.float32)


def noise(n, seed=0):
    # At full scale, which the tolerances refer to.
    return np.random.default_rng(seed).uniform(-1, 1, n).astype(np.float32)


def run_hops(config, samples):
    """Return the spectra (T, F) of whole hops and their resynthesis, by the bulk kernels."""
    analysis, synthesis = windows(config)
    tables, work = fft_tables(config.n_fft), zeros(work_size(config.n_fft))
    n_frames = len(samples) // config.hop
    re, im = zeros(n_frames, config.n_bins), zeros(n_frames, config.n_bins)
    analyse_hops(samples, zeros(config.n_fft), analysis, tables, work, re, im)
    out = np.full_like(samples, np.nan)
    synthesise_hops(re, im, zeros(config.synthesis), synthesis, tables, work, out)
    return re + 1j * im, out


def reference_specs(config, samples):
    """Return the spectra by NumPy, in float64."""
    analysis, _ = windows(config)
    padded = np.concatenate([np.zeros(config.n_fft - config.hop), samples])
    frames = np.lib.stride_tricks.sliding_window_view(padded, config.n_fft)[:: config.hop]
    return np.fft.rfft(frames * analysis.astype(np.float64))


@st.composite
def configs(draw):
    n_fft = 2 ** draw(st.integers(3, 10))
    hop = 2 ** draw(st.integers(0, 9))
    hop = min(hop, n_fft // 2)
    return config_of(n_fft, hop, hop * draw(st.integers(2, min(n_fft // hop, 32))))


@pytest.mark.parametrize("n_fft", LENGTHS)
def test_the_fft_matches_numpy(n_fft):
    x = noise(n_fft, seed=n_fft)
    work = zeros(work_size(n_fft))
    quarter, half = work.size // 4, n_fft // 2
    work[:half], work[quarter : quarter + half] = x[::2], x[1::2]
    re, im = zeros(half + 1), zeros(half + 1)
    forward(work, fft_tables(n_fft), re, im)
    expected = np.fft.rfft(x.astype(np.float64))
    assert np.abs(re + 1j * im - expected).max() < 2e-6 * np.abs(expected).max()


@pytest.mark.parametrize("n_fft", LENGTHS)
def test_the_inverse_fft_matches_numpy(n_fft):
    half = n_fft // 2
    # The first and last bin have imaginary parts here, which must be ignored.
    spec = (noise(half + 1, 1) + 1j * noise(half + 1, 2)).astype(np.complex64)
    work = zeros(work_size(n_fft))
    quarter = work.size // 4
    tables = fft_tables(n_fft)
    at = quarter * inverse(spec.real.copy(), spec.imag.copy(), tables, work)
    even, minus_odd = work[at : at + half], work[at + quarter : at + quarter + half]
    expected = np.fft.irfft(spec.astype(np.complex128))
    np.testing.assert_allclose(
        np.stack([even, -minus_odd], 1).ravel(),
        expected,
        rtol=0,
        atol=2e-6 * np.abs(expected).max(),
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_windows_are_those_of_mauler_and_martin(shape):
    config = config_of(*shape)
    analysis, synthesis = windows(config)
    assert analysis.dtype == synthesis.dtype == np.float32
    slow = np.sqrt(np.hanning(2 * config.n_fft - config.synthesis + 1))
    fast = np.sqrt(np.hanning(config.synthesis + 1))
    rising = config.n_fft - config.synthesis // 2
    np.testing.assert_allclose(analysis[:rising], slow[:rising], atol=1e-7)
    np.testing.assert_allclose(analysis[rising:], fast[config.synthesis // 2 : -1], atol=1e-7)
    product = analysis[-config.synthesis :].astype(np.float64) * synthesis
    total = product.reshape(-1, config.hop).sum(axis=0)
    np.testing.assert_allclose(total, 1.0, atol=2e-7)


def test_windows_of_equal_length_are_the_square_root_of_hann():
    analysis, synthesis = windows(config_of(512, 256, 512))
    root = np.sqrt(np.hanning(513)[:-1])
    np.testing.assert_allclose(analysis, root, atol=1e-7)
    np.testing.assert_allclose(synthesis, root, atol=1e-7)


@pytest.mark.parametrize("shape", SHAPES)
def test_spectra_match_numpy(shape):
    config = config_of(*shape)
    samples = noise(40 * config.hop + 2 * config.n_fft)
    specs, _ = run_hops(config, samples)
    expected = reference_specs(config, samples)
    assert specs.shape == expected.shape
    assert np.abs(specs - expected).max() < 2e-6 * np.abs(expected).max()


@pytest.mark.parametrize("shape", SHAPES)
def test_noise_is_reconstructed_at_the_reported_delay(shape):
    config = config_of(*shape)
    samples = noise(50 * config.n_fft)
    _, out = run_hops(config, samples)
    delay = StreamingStft(config).delay
    assert np.abs(out[:delay]).max() < 1e-6
    assert np.abs(out[delay:] - samples[: len(samples) - delay]).max() < 1e-6


@pytest.mark.parametrize("shape", SHAPES)
def test_an_impulse_takes_the_reported_delay(shape):
    stft = StreamingStft(config_of(*shape))
    hop = stft.config.hop
    for at in (0, 1, hop - 1, 3 * hop + hop // 3):
        stft.reset()
        samples = zeros(12 * hop + 2 * stft.config.n_fft)
        samples[at] = 1.0
        out = np.concatenate(
            [stft.inverse(stft.step(block)).copy() for block in samples.reshape(-1, hop)]
        )
        assert int(np.abs(out).argmax()) - at == stft.delay
        out[at + stft.delay] -= 1.0
        assert np.abs(out).max() < 1e-6


@settings(max_examples=60, deadline=None, derandomize=True)
@given(config=configs(), seed=st.integers(0, 99))
def test_every_valid_configuration_reconstructs(config, seed):
    n_hops = 2 * config.n_fft // config.hop + 3
    samples = noise(n_hops * config.hop, seed)
    specs, out = run_hops(config, samples)
    expected = reference_specs(config, samples)
    assert np.abs(specs - expected).max() < 2e-6 * np.abs(expected).max()
    np.testing.assert_allclose(out[: config.delay], 0.0, atol=1e-6)
    np.testing.assert_allclose(
        out[config.delay :], samples[: len(samples) - config.delay], rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_hop_by_hop_equals_many_hops_at_once(shape):
    config = config_of(*shape)
    stft = StreamingStft(config)
    samples = noise(30 * config.hop)
    specs, out = run_hops(config, samples)
    for t, block in enumerate(samples.reshape(-1, config.hop)):
        spec = stft.step(block)
        assert spec.shape == (config.n_bins,)
        assert spec.dtype == np.complex64
        np.testing.assert_allclose(spec, specs[t], rtol=0, atol=1e-5)
        late = stft.inverse(spec)
        np.testing.assert_allclose(late, out[t * config.hop :][: config.hop], rtol=0, atol=1e-6)


def test_kernels_accept_rows_of_larger_arrays():
    config = config_of(512, 256, 512)
    analysis, synthesis = windows(config)
    tables, work = fft_tables(512), zeros(work_size(512))
    history, overlap, out = zeros(512), zeros(512), zeros(256)
    arena = np.full((3, 2, 300), 7.0, np.float32)
    samples = noise(512)
    expected = reference_specs(config, samples)
    for t in range(2):
        re, im = arena[1, 0, :257], arena[1, 1, :257]
        analyse_hop(samples[256 * t :][:256], history, analysis, tables, work, re, im)
        assert np.abs(re + 1j * im - expected[t]).max() < 2e-6 * np.abs(expected).max()
        kept = arena.copy()
        synthesise_hop(re, im, overlap, synthesis, tables, work, out)
        np.testing.assert_array_equal(arena, kept)
    np.testing.assert_allclose(out, samples[:256], rtol=0, atol=1e-6)
    assert np.all(arena[[0, 2]] == 7.0)
    assert np.all(arena[1, :, 257:] == 7.0)


def test_step_returns_a_view_of_the_same_memory():
    stft = StreamingStft(config_of(64, 32, 64))
    first = stft.step(noise(32))
    kept = first.copy()
    second = stft.step(noise(32, 1))
    assert np.shares_memory(first, second)
    assert not np.array_equal(first, kept)


def test_reset_begins_a_new_stream():
    stft, fresh = (StreamingStft(config_of(512, 128, 256)) for _ in range(2))
    for seed in range(5):
        stft.inverse(stft.step(noise(128, seed)))
    stft.reset()
    for seed in range(7, 12):
        spec, expected = stft.step(noise(128, seed)), fresh.step(noise(128, seed))
        np.testing.assert_array_equal(spec, expected)
        np.testing.assert_array_equal(stft.inverse(spec), fresh.inverse(expected))


def test_two_streams_are_independent():
    config = config_of(512, 256, 512)
    one, other = StreamingStft(config), StreamingStft(config)
    expected = run_hops(config, noise(2560))[1].reshape(-1, 256)
    for t, block in enumerate(noise(2560).reshape(-1, 256)):
        other.inverse(other.step(noise(256, 50 + t)))
        np.testing.assert_allclose(one.inverse(one.step(block)), expected[t], rtol=0, atol=1e-6)


def test_blocks_may_have_any_memory_layout():
    stft, plain = (StreamingStft(config_of(64, 32, 64)) for _ in range(2))
    stereo = noise(64).reshape(32, 2)
    stereo.flags.writeable = False
    spec = stft.step(stereo[:, 1])
    np.testing.assert_array_equal(spec, plain.step(stereo[:, 1].copy()))
    backwards = spec.copy()[::-1]
    np.testing.assert_array_equal(stft.inverse(backwards), plain.inverse(backwards.copy()))


@pytest.mark.parametrize("block", [zeros(0), zeros(31), zeros(33), zeros(32, 1), np.zeros(32)])
def test_blocks_of_wrong_shape_or_type_are_refused(block):
    stft = StreamingStft(config_of(64, 32, 64))
    with pytest.raises(BlockSizeError, match=r"shape \(32,\) and type float32, not \("):
        stft.step(block)


@pytest.mark.parametrize(
    "spec", [np.zeros(32, np.complex64), np.zeros((33, 1), np.complex64), np.zeros(33)]
)
def test_specs_of_wrong_shape_or_type_are_refused(spec):
    stft = StreamingStft(config_of(64, 32, 64))
    with pytest.raises(BlockSizeError, match=r"shape \(33,\) and type complex64, not \("):
        stft.inverse(spec)


def test_samples_below_the_floor_become_zero():
    stft = StreamingStft(config_of(512, 256, 512))
    quiet = np.full(256, 0.99e-12, np.float32)
    quiet[::3] = 1e-40
    quiet[1::5] *= -1
    for _ in range(3):
        assert not stft.step(quiet).any()
    assert stft.step(np.full(256, 1.01e-12, np.float32)).any()


@pytest.mark.parametrize("level", [1.01e-12, 3e-12, 1e-11, 1e-10, 1e-9, 1e-6, 1.0])
def test_squared_spectra_have_no_denormals(level):
    config = config_of(512, 128, 256)
    smallest = float(np.finfo(np.float32).tiny)
    rng = np.random.default_rng(4)
    # Signals whose bins mostly cancel leave the smallest residues.
    steady = np.cos(2 * np.pi * 32 * np.arange(4096) / 512)
    fading = steady * np.exp(-np.arange(4096) / 60)
    for shape in (steady, fading, np.ones(4096), rng.standard_normal(4096)):
        specs, _ = run_hops(config, (level * shape).astype(np.float32))
        for part in (specs.real, specs.imag):
            squares = part.astype(np.float64) ** 2
            assert np.all((squares == 0) | (squares > smallest))


def test_the_relative_error_is_the_same_for_quiet_sound():
    # At -120 dB even samples that become zero are within the relative error.
    config = config_of(512, 256, 512)
    samples = noise(256 * 20) * np.float32(1e-6)
    _, out = run_hops(config, samples)
    assert np.abs(out[256:] - samples[:-256]).max() <= 1e-6 * 1e-6


ALLOCATIONS = """
import numba
import numpy as np
from numba.core.runtime import rtsys
from rtmtass.config import StftConfig
from rtmtass.dsp.fft import fft_tables, work_size
from rtmtass.dsp.stft import analyse_hop, synthesise_hop, windows

@numba.njit
def run(n, block, history, overlap, out, re, im, analysis, synthesis, tables, work):
    for _ in range(n):
        analyse_hop(block, history, analysis, tables, work, re, im)
        synthesise_hop(re, im, overlap, synthesis, tables, work, out)

@numba.njit
def run_careless(n, *rest):
    for _ in range(n):
        rest[0][0] += np.zeros(n)[0]

arrays = [np.zeros(n, np.float32) for n in (256, 512, 512, 256, 257, 257)]
arrays += [*windows(StftConfig()), fft_tables(512), np.zeros(work_size(512), np.float32)]

def count(function, n):
    function(n, *arrays)
    before = rtsys.get_allocation_stats().alloc
    function(n, *arrays)
    return rtsys.get_allocation_stats().alloc - before

# Entering compiled code allocates, but not in proportion to the hops.
print(count(run, 101) - count(run, 1), count(run_careless, 101) - count(run_careless, 1))
"""


def test_hops_dont_allocate():
    # In a separate process: numba reads the variable at import.
    run = subprocess.run(
        [sys.executable, "-c", ALLOCATIONS],
        env={**os.environ, "NUMBA_NRT_STATS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == ["0", "100"]
