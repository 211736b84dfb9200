"""The kernels that live Python and the native library share: exact, and free of numba's runtime."""

from __future__ import annotations

import math
import re

import numba
import numpy as np
import pytest
from fakes import FakeSeparator
from numba import types

from rtmtass.dsp import hop_schedule, live_resample, resample_filter
from rtmtass.dsp.hop_schedule import end_of_hop, kept_stems, scale, start_in_history
from rtmtass.dsp.resample_filter import filter_table, fixed_step, wait_of
from rtmtass.jit.compiler import borrow_rows, kernel
from rtmtass.live import full_band, mix_kernels
from rtmtass.live.full_band import HopSchedule, StemUpsampler, push_hop
from rtmtass.live.mixer import RAMP_MS, Mixer
from rtmtass.runtime import stft_kernels

RATES = [8000, 11025, 22050, 44100, 48000, 88200, 96000, 192000]
PAIRS = [pair for rate in RATES for pair in ((rate, 16000), (16000, rate))]
WEEK_S = 7 * 86400


# --- the resampler's filter --------------------------------------------------------------------


@pytest.mark.parametrize(("in_rate", "out_rate"), PAIRS)
def test_the_filter_is_the_formula_in_double_precision(in_rate, out_rate):
    ratio = min(1.0, out_rate / in_rate)
    wait = math.ceil(23 / ratio)
    distance = np.arange(513)[:, None] / 512 - (np.arange(2 * wait)[None, :] - (wait - 1))
    shape = np.clip(distance / wait, -1, 1)
    expected = np.sinc(0.92 * ratio * distance) * np.i0(9.0 * np.sqrt(1 - shape**2))
    expected /= expected.sum(axis=1, keepdims=True)
    table = filter_table(in_rate, out_rate)
    assert wait_of(in_rate, out_rate) == wait
    assert table.dtype == np.float32
    np.testing.assert_allclose(table, expected, rtol=0, atol=1e-7)
    np.testing.assert_allclose(table.sum(axis=1, dtype=np.float64), 1, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("in_rate", "out_rate"), PAIRS)
@pytest.mark.parametrize("ratio", [1.0, 1.00013, 0.9987])
def test_a_step_is_rounded_as_python_rounds(in_rate, out_rate, ratio):
    assert fixed_step(in_rate, out_rate, ratio) == round(in_rate / out_rate / ratio * 2**44)


# --- hops --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "step",
    [
        1,
        2**44 - 1,
        2**44,
        fixed_step(768000, 16000, 1.0),
        fixed_step(44100, 16000, 1.0),
        fixed_step(8000, 16000, 1.0),
    ],
)
def test_a_scaled_count_is_exact(step):
    rng = np.random.default_rng(0)
    counts = [0, 1, -1, 2**41, -(2**41), *rng.integers(-(2**41), 2**41, 200).tolist()]
    for n in counts:
        assert scale(n, step) == (n * step >> 44, n * step & 2**44 - 1)


@pytest.mark.parametrize("rate", [*RATES, 2000, 768000])
def test_hops_and_positions_are_exact_after_a_week(rate):
    hop, model_delay = 256, 640
    down, up, wait = fixed_step(rate, 16000, 1.0), fixed_step(16000, rate, 1.0), 23
    kept = kept_stems(rate, 16000)
    assert kept == 3 * wait_of(16000, rate) + 8 + math.ceil(32000 / rate)
    for number in (0, 1, 2, 1000, WEEK_S * 16000 // hop):
        end = wait + ((number * hop - 1) * down >> 44) + 1 if number else 0
        assert end_of_hop(number, hop, down, wait) == end
        start = (end - 5000) * up + (model_delay - number * hop + kept << 44)
        assert start_in_history(number, hop, end, 5000, model_delay, kept, up) == start


@pytest.mark.parametrize("rate", RATES)
def test_the_delay_is_that_of_both_filters_and_the_model(rate):
    schedule = HopSchedule(FakeSeparator(delay=256), rate)
    upsampled = math.ceil(rate / 16000 * (256 + wait_of(16000, rate)))
    assert schedule.delay == wait_of(rate, 16000) + upsampled + 1
    assert schedule.algorithmic_latency == schedule.delay + math.ceil(rate / 16000 * 256)
    assert schedule.longest == max(schedule.block(0), schedule.block(1) + 1)


def test_a_hop_moves_the_history_on_and_missing_stems_are_silence_of_the_last_weights():
    rng = np.random.default_rng(0)
    history = rng.standard_normal((2, 3, 10)).astype(np.float32)
    weights = rng.random((2, 10)).astype(np.float32)
    stems = rng.standard_normal((2, 4, 3)).astype(np.float32)
    newest = rng.random((2, 4)).astype(np.float32)
    expected = np.concatenate((history[:, :, 4:], stems.transpose(0, 2, 1)), axis=2)
    expected_weights = np.concatenate((weights[:, 4:], newest), axis=1)
    push_hop(stems, newest, True, history, weights)
    np.testing.assert_array_equal(history, expected)
    np.testing.assert_array_equal(weights, expected_weights)
    push_hop(stems, newest, False, history, weights)
    np.testing.assert_array_equal(history[:, :, :6], expected[:, :, 4:])
    assert not history[:, :, 6:].any()
    np.testing.assert_array_equal(weights[:, 5:], np.tile(newest[:, 3:], 5))


def test_stems_of_any_memory_layout_are_resampled_alike():
    schedule = HopSchedule(FakeSeparator(delay=256), 44100)
    stems = np.random.default_rng(0).standard_normal((3, 256, 2)).astype(np.float32)
    weights = np.full((3, 256), 1 / 3, np.float32)
    mixture = np.zeros((schedule.block(0), 2), np.float32)
    outs = np.zeros((2, 3, schedule.block(0), 2), np.float32)
    for out, layout in zip(outs, (np.ascontiguousarray, np.asfortranarray), strict=True):
        upsampler = StemUpsampler(schedule, 3, 2)
        upsampler.process(layout(stems), weights, mixture, out)
    assert outs.any()
    np.testing.assert_array_equal(*outs)


# --- the mixer ---------------------------------------------------------------------------------


def test_an_unmatched_bypass_is_the_input_to_the_bit():
    rng, n = np.random.default_rng(0), 512
    stems = (0.3 * rng.standard_normal((3, 20 * n, 2))).astype(np.float32)
    mixture = stems.sum(axis=0) + np.float32(0.1)
    gains = {"speech": 12.0, "music": -7.0, "noise": -math.inf}
    mixer = Mixer(FakeSeparator.stems, 16000, 2, gains_db=gains, is_bypass_matched=False)
    out = np.zeros((1, 20 * n, 2), np.float32)
    for start in range(0, 20 * n, n):
        if start == 4 * n:
            mixer.set_bypass(True)
        span = slice(start, start + n)
        block = np.ascontiguousarray(stems[:, span])
        mixed = np.zeros((1, n, 2), np.float32)
        mixer.process(block, mixture[span], mixed, has_stems=start not in (8 * n, 9 * n))
        out[:, span] = mixed
    first = 4 * n + round(RAMP_MS * 16)
    assert np.abs(out[0, : 4 * n] - mixture[: 4 * n]).max() > 0.1
    np.testing.assert_array_equal(out[0, first:], mixture[first:])


def test_the_mix_may_be_written_over_the_input():
    rng = np.random.default_rng(0)
    stems = rng.standard_normal((3, 700, 2)).astype(np.float32)
    shared = stems.sum(axis=0)
    mixers = [Mixer(FakeSeparator.stems, 16000, 2, gains_db={"music": -6}) for _ in range(2)]
    out = np.zeros((1, 700, 2), np.float32)
    mixers[0].process(stems, shared.copy(), out)
    mixers[1].process(stems, shared, shared[None])
    np.testing.assert_array_equal(shared, out[0])


# --- ahead of time -----------------------------------------------------------------------------


def floats(n: int) -> types.Array:
    return types.Array(types.float32, n, "C")


def doubles(n: int) -> types.Array:
    return types.Array(types.float64, n, "C")


LONG, LONGS, YES = types.int64, types.Array(types.int64, 1, "C"), types.boolean
_MIX = (doubles(1), doubles(2), doubles(1), doubles(3), doubles(2), doubles(1))


@kernel
def _last_row(work, start, rows, width):
    return borrow_rows(work, start, rows, width)[rows - 1].sum()


KERNELS = [
    (resample_filter.wait_of, (LONG,) * 2),
    (resample_filter.fixed_step, (LONG, LONG, types.float64)),
    (resample_filter.history_rows, (LONG,) * 3),
    (resample_filter.room_for, (LONG,) * 3),
    (resample_filter.fill_filter_table, (LONG, LONG, floats(2))),
    (live_resample.convert, (floats(2), LONG, LONGS, LONG, LONG, floats(2), floats(2))),
    (hop_schedule.end_of_hop, (LONG,) * 4),
    (hop_schedule.longest_block, (LONG,) * 3),
    (hop_schedule.delay_at, (LONG,) * 3),
    (hop_schedule.hop_at, (LONG,) * 3),
    (hop_schedule.kept_stems, (LONG,) * 2),
    (hop_schedule.start_in_history, (LONG,) * 7),
    (full_band.push_hop, (floats(3), floats(2), YES, floats(3), floats(2))),
    (full_band.upsample, (floats(3), floats(2), LONG, LONG, LONG, floats(2), floats(1),
                          floats(2), floats(3))),
    (mix_kernels.fill_targets, (doubles(1), types.Array(types.uint8, 1, "C"), types.float64, YES,
                                doubles(1))),
    (mix_kernels.fill_lengths, (LONG, doubles(1))),
    (mix_kernels.start_mix, _MIX),
    (mix_kernels.mix, (floats(3), floats(2), floats(3), YES, *_MIX)),
    (stft_kernels.stft_state_size, (LONGS,)),
    (stft_kernels.stft_scratch_size, (LONGS,)),
    (_last_row, (floats(1), LONG, LONG, LONG)),
]  # fmt: skip
LIBM = {"sin", "cos", "exp", "sqrt", "rint", "ceil"}
REFERENCE_COUNT = {"NRT_MemInfo_call_dtor"}
"""Left of the counting of slices; an ahead-of-time build makes it empty."""


def compiled(function, arguments):
    """Return a function's LLVM assembly, with all that it calls."""
    fresh = numba.njit(
        nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True
    )(function)
    fresh.compile(arguments)
    text = fresh.overloads[arguments].library.get_llvm_str()
    assert "define" in text
    return text


def needs(text):
    """Return the symbols that machine code needs from outside, beyond the maths library."""
    names = set(re.findall(r'^declare [^@]*@"?([\w.$]+)', text, re.MULTILINE))
    return {name for name in names if not name.startswith("llvm.")} - LIBM - REFERENCE_COUNT


def can_raise(text):
    return ".const.picklebuf" in text


@pytest.mark.parametrize(
    ("function", "arguments"), KERNELS, ids=lambda one: getattr(one, "__name__", "")
)
def test_a_kernel_needs_only_the_maths_library_and_cant_raise(function, arguments):
    text = compiled(function.py_func, arguments)
    assert not needs(text)
    assert not can_raise(text)


def test_what_a_library_lacks_is_found():
    def allocates(x):
        return (x[1:] + x[:-1]).sum()

    def reshapes(x):
        return x.reshape((2, x.size // 2))[1].sum()

    def raises(x):
        if x[0] > 1:
            raise ValueError("too large")
        return x[0]

    assert needs(compiled(allocates, (floats(1),)))
    assert needs(compiled(reshapes, (floats(1),)))
    assert can_raise(compiled(raises, (floats(1),)))


def test_borrowed_rows_are_the_same_memory():
    work = np.arange(40, dtype=np.float32)
    assert _last_row(work, 5, 3, 7) == work[5:26].reshape(3, 7)[2].sum()
