"""Live streams at any rate: exact hops, and an output that is the input over the whole band."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import soundfile
from fakes import FakeSeparator
from test_live_engine import RealtimeArray, Splitter, run

import rtmtass
from rtmtass.dsp.live_resample import Converter
from rtmtass.fullband import FullBandSeparator
from rtmtass.io.arrays import ArraySource
from rtmtass.live.full_band import HopSchedule
from rtmtass.live.mixer import Mixer
from rtmtass.live.recorder import TakeRecorder

RATES = [8000, 11025, 16000, 22050, 44100, 48000, 96000]


def noise(n, channels=1, seed=0):
    return 0.2 * np.random.default_rng(seed).standard_normal((n, channels)).astype(np.float32)


def level_db(x):
    return 10 * np.log10(np.mean(np.square(x, dtype=np.float64)) + 1e-30)


@pytest.mark.parametrize("rate", RATES)
def test_a_block_is_exactly_one_hop(rate):
    schedule = HopSchedule(FakeSeparator(delay=256), rate)
    to_model = Converter(rate, 16000, 1, schedule.longest)
    out = np.zeros((schedule.hop, 1), np.float32)
    for number in range(700):
        assert 0 < schedule.block(number) <= schedule.longest
        block = np.zeros((schedule.block(number), 1), np.float32)
        assert rate == 16000 or to_model.process(block, out) == schedule.hop
        assert schedule.end(number + 1) == schedule.end(number) + len(block)


@pytest.mark.parametrize("rate", RATES)
def test_completed_counts_whole_hops(rate):
    schedule = HopSchedule(FakeSeparator(delay=256), rate)
    ends = [schedule.end(number) for number in range(40)]
    for n in range(0, ends[-1], 7):
        assert schedule.completed(n) == max(end for end in ends if end <= n)


@pytest.mark.parametrize("rate", RATES)
def test_hours_later_the_hops_still_fit(rate):
    schedule = HopSchedule(FakeSeparator(delay=256), rate)
    number = 62 * 3600 * 100  # 100 hours
    drift = schedule.end(number) - number * 256 * rate / 16000
    start = schedule.end(1) - 256 * rate / 16000
    assert abs(drift - start) < 2
    assert schedule.block(number) <= schedule.longest


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("channels", [1, 2])
def test_with_all_gains_at_0_db_the_output_is_the_input(rate, channels):
    x = noise(rate // 4, channels)
    out, engine = run(Splitter(channels), ArraySource(x, rate))
    assert out.shape == (1, len(x) + engine.delay, channels)
    assert np.abs(out[0, : engine.delay]).max() < 1e-6
    assert level_db(out[0, engine.delay :] - x) < -120


def test_the_released_model_too_is_transparent_at_48_khz():
    x = noise(48000)
    out, engine = run(rtmtass.load(block=256), ArraySource(x, 48000))
    assert level_db(out[0, engine.delay :] - x) < -90
    assert engine.delay / 48 - 256 / 16 < 3.0  # ms more than without resampling


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_the_stems_are_those_of_the_full_band_separator(rate):
    x = noise(rate)
    mixer = Mixer(FakeSeparator.stems, rate, is_split=True)
    live, engine = run(Splitter(weights=None), ArraySource(x, rate), mixer=mixer)
    other = FullBandSeparator(FakeSeparator(delay=256), rate, 1, low_latency=True)
    stems = np.concatenate((other.process(x), other.flush()), axis=1)
    difference = live[:, engine.delay :] - stems[:, other.delay :]
    assert level_db(difference) < level_db(x) - 60


@pytest.mark.parametrize("rate", [16000, 44100, 48000])
def test_a_take_holds_the_mixers_stems_at_the_streams_rate(tmp_path, rate):
    x, separator = noise(rate, 2), Splitter(2, weights=None)
    schedule = HopSchedule(separator, rate)
    recorder = TakeRecorder(tmp_path, separator.stems, schedule, 2)
    recorder.start()
    mixer = Mixer(separator.stems, rate, 2, is_split=True)
    out, engine = run(separator, ArraySource(x, rate), mixer=mixer, recorder=recorder)
    (take,) = tmp_path.glob("take-*")
    mixture, read_rate = soundfile.read(take / "mixture.wav", dtype="float32", always_2d=True)
    assert read_rate == rate
    n = out.shape[1]
    assert n <= len(mixture) < n + schedule.longest
    assert level_db(mixture[engine.delay : n] - x) < -120
    for stem, expected in zip(separator.stems, out, strict=True):
        recorded = soundfile.read(take / f"{stem}.wav", dtype="float32")[0]
        np.testing.assert_allclose(recorded[:n], expected, atol=1e-6)


def test_a_late_hop_at_48_khz_outputs_the_input_at_full_band():
    x, separator, gate = noise(48000), Splitter(), threading.Event()
    separator.gates[20] = gate
    source = RealtimeArray(x, late={20}, reads={21: gate.set})
    source.sample_rate = 48000
    out, engine = run(separator, source)
    assert engine.stats().deadline_misses == 1
    assert level_db(out[0, engine.delay :] - x) < -90


def test_the_future_cannot_reach_the_past_at_any_rate():
    x, cut = noise(44100), 30000
    rewritten = np.concatenate((x[:cut], noise(len(x) - cut, seed=1)))
    gains = {"music": -20.0}
    (a, engine), (b, _) = (
        run(
            Splitter(weights=None),
            ArraySource(each, 44100),
            mixer=Mixer(FakeSeparator.stems, 44100, gains_db=gains),
        )
        for each in (x, rewritten)
    )
    # A hop's block is output when it is complete: nothing before the cut's own hop changes.
    first = engine._schedule.completed(cut)
    np.testing.assert_array_equal(a[0, :first], b[0, :first])
    assert (a[0, first:] != b[0, first:]).any()
