"""The C library gives what Python gives: at the model's rate the Separator, at others live."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from native_builds import MODEL, Builds, needs
from native_library import (
    MIX,
    Library,
    delayed,
    model_bytes,
    noise,
    random_blocks,
    snr_db,
)

from rtmtass import load
from rtmtass.config import PRECISIONS
from rtmtass.dsp.live_resample import Converter
from rtmtass.live.full_band import HopSchedule, StemUpsampler
from rtmtass.live.mixer import RAMP_MS, Mixer
from rtmtass.native.targets import find_target
from rtmtass.separator import Separator
from rtmtass.types import Floats

pytestmark = needs()

RATES = [8000, 22050, 44100, 48000, 96000]
ALL_RATES = [16000, *RATES]
SECOND = 16000


@pytest.fixture(scope="module")
def library(builds: Builds) -> Library:
    return Library(builds.library() / "lib" / find_target().shared_name)


def separated(x: Floats, precision: str) -> Floats:
    """The Separator's stems of x (C, n), as the library lays them out: (S * C, n)."""
    separator = load(MODEL, precision=precision, channels=len(x), block=1)
    stems = separator.process(x.T if len(x) > 1 else x[0]).reshape(3, x.shape[1], len(x))
    return np.ascontiguousarray(stems.transpose(0, 2, 1)).reshape(-1, x.shape[1])


def live(x: Floats, rate: int, mixer: Mixer | None = None, changes: dict[int, float] | None = None):
    """What the parts of a live session make of x (C, n): the delay, then (outputs, n).

    A session waits for the filter's reach beyond a hop; the library's stream has silence
    there, before its first sample.

    Args:
        x: (C, n), at `rate`.
        rate: in Hz.
        mixer: mixes the stems; without one they are the outputs.
        changes: speech's gain in dB, by the number of the hop from which it is set.
    """
    channels = len(x)
    separator = load(MODEL, precision="f32", channels=channels, block=256)
    schedule = HopSchedule(separator, rate)
    down = Converter(rate, 16000, channels, schedule.longest)
    wait = down.wait if schedule.needs_resampling else 0
    up = StemUpsampler(schedule, 3, channels)
    heard = np.pad(x.T, [(wait, 0), (0, 0)])
    late = np.pad(heard, [(schedule.delay, 0), (0, 0)])
    outs, number = [], 0
    while schedule.end(number + 1) <= len(heard):
        span = slice(schedule.end(number), schedule.end(number + 1))
        hop = heard[span]
        if schedule.needs_resampling:
            hop = np.zeros((down.room, channels), np.float32)
            assert down.process(heard[span], hop) == 256
        stems, weights = separator.process_with_highband(hop[:256].reshape(256, -1).squeeze())
        mixture = np.ascontiguousarray(late[span])
        out = np.zeros((3, len(mixture), channels), np.float32)
        up.process(stems.reshape(3, 256, channels), weights, mixture, out)
        if mixer is not None:
            if changes and number in changes:
                mixer.set_gain("speech", changes[number])
            stems, out = out, np.zeros((1, len(mixture), channels), np.float32)
            mixer.process(stems, mixture, out)
        outs.append(out.transpose(0, 2, 1).reshape(-1, len(mixture)))
        number += 1
    return schedule.delay, np.hstack(outs)[:, wait:]


def assert_late(found: Floats, expected: Floats, late: int, atol: float) -> None:
    """Check that `found` is silence, then all that there is of `expected`."""
    assert late >= 0
    n = min(found.shape[1] - late, expected.shape[1])
    assert n > 0.9 * found.shape[1]
    np.testing.assert_allclose(found[:, :late], 0, rtol=0, atol=atol)
    np.testing.assert_allclose(found[:, late : late + n], expected[:, :n], rtol=0, atol=atol)


# At the model's rate


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("variant", [v.name for v in find_target().variants])
def test_stems_are_the_separators(
    variant: str, precision: str, channels: int, library: Library
) -> None:
    if not library.runs(variant):
        pytest.skip(f"this processor can't run {variant}")
    x = noise(channels, 2 * SECOND)
    expected = separated(x, precision)
    model = library.open(model_bytes(precision), variant)
    assert model.variant == variant
    stream = model.stream(channels=channels)
    found = stream.process(x, random_blocks(seed=channels))
    assert stream.latency == load(MODEL, block=1).delay
    if next(v for v in find_target().variants if v.name == variant).has_fma:
        np.testing.assert_array_equal(found, expected)
    elif precision == "int8":
        assert snr_db(expected, found) > 45  # roundings to int8 that fall to the other side
    else:
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_the_best_build_that_the_processor_runs_is_chosen(library: Library) -> None:
    names = [variant.name for variant in find_target().variants]
    model = library.open(model_bytes("int8"))
    assert model.variant == next(name for name in names if library.runs(name))


@pytest.mark.parametrize("rate", [16000, 44100])
def test_the_output_does_not_depend_on_the_blocks(rate: int, library: Library) -> None:
    x = noise(2, rate // 2)
    model = library.open(model_bytes("int8"))
    for output in (0, MIX):
        whole = model.stream(rate, 2, output).process(x)
        for seed in range(3):
            parts = model.stream(rate, 2, output).process(x, random_blocks(seed))
            np.testing.assert_array_equal(parts, whole)


# At other rates


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", RATES)
def test_stems_at_other_rates_are_those_of_live(
    rate: int, channels: int, library: Library
) -> None:
    x = noise(channels, rate)
    delay, expected = live(x, rate)
    stream = library.open(model_bytes("f32")).stream(rate, channels)
    found = stream.process(x, random_blocks(seed=rate))
    assert_late(found, expected, stream.latency - delay, atol=1e-6)


@pytest.mark.parametrize("rate", ALL_RATES)
def test_stems_sum_to_the_input_as_late_as_reported(rate: int, library: Library) -> None:
    x = noise(2, rate)
    stream = library.open(model_bytes("int8")).stream(rate, 2)
    stems = stream.process(x, random_blocks(seed=rate))
    total = stems.reshape(3, 2, -1).sum(axis=0)
    np.testing.assert_allclose(total, delayed(x, stream.latency), rtol=0, atol=1e-6)


@pytest.mark.parametrize("rate", ALL_RATES)
@pytest.mark.parametrize("at", [0, 5003])
def test_an_impulse_comes_out_as_late_as_reported(at: int, rate: int, library: Library) -> None:
    x = np.zeros((1, rate // 2 + 6000), np.float32)
    x[0, at] = 0.5
    stream = library.open(model_bytes("f32")).stream(rate, 1, MIX)
    assert np.argmax(np.abs(stream.process(x))) == at + stream.latency


@pytest.mark.parametrize("rate", ALL_RATES)
def test_the_past_does_not_depend_on_the_future(rate: int, library: Library) -> None:
    x, cut = noise(1, rate // 2), rate // 4 + 17
    other = np.hstack([x[:, :cut], noise(1, x.shape[1] - cut, seed=9)])
    model = library.open(model_bytes("int8"))
    a, b = (model.stream(rate).process(sound) for sound in (x, other))
    np.testing.assert_array_equal(a[:, :cut], b[:, :cut])
    assert not np.array_equal(a, b)


# The mix


@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (44100, 2)])
def test_the_mix_is_the_live_mixers_through_a_change_of_gain(
    rate: int, channels: int, library: Library
) -> None:
    x = noise(channels, rate)
    gains = {"speech": 6.0, "music": -12.0, "noise": -float("inf")}
    mixer = Mixer(
        list(gains), rate, channels, gains_db=gains, strength_db=30, is_bypass_matched=False
    )
    delay, expected = live(x, rate, mixer, {20: -9.0})
    stream = library.open(model_bytes("f32")).stream(rate, channels, MIX)
    stream.set_gains(*gains.values())
    stream.set_strength(30)
    stream.reset()  # as a Mixer begins: without a ramp
    # Hop 20 is complete with the last sample of its block; the gain is set before that.
    schedule = HopSchedule(load(MODEL, block=256), rate)
    wait = Converter(rate, 16000, 1, 1).wait if schedule.needs_resampling else 0
    before = schedule.end(21) - wait - 1
    found = np.full_like(x, np.nan)
    stream.into(x[:, :before], found[:, :before], random_blocks(1))
    stream.set_gains(-9.0)
    stream.into(x[:, before:], found[:, before:], random_blocks(2))
    assert_late(found, expected, stream.latency - delay, atol=1e-6)
    assert np.abs(found).max() > 0.02


@pytest.mark.parametrize("rate", [16000, 48000])
def test_a_settled_bypass_is_the_input_to_the_bit(rate: int, library: Library) -> None:
    x = noise(2, rate)
    stream = library.open(model_bytes("int8")).stream(rate, 2, MIX)
    stream.set_gains(20.0, -60.0, -3.0)
    half = x.shape[1] // 2
    stream.process(x[:, :half])
    stream.set_bypass(True)
    found = stream.process(x[:, half:])
    # The ramp begins with the next hop, which is not yet heard.
    settled = round(RAMP_MS * rate / 1000) + 2 * stream.latency
    expected = delayed(x, stream.latency)[:, half:]
    np.testing.assert_array_equal(found[:, settled:], expected[:, settled:])
    assert not np.array_equal(found, expected)


@pytest.mark.parametrize("rate", [16000, 48000])
def test_without_strength_the_input_stays_as_it_is(rate: int, library: Library) -> None:
    x = noise(2, rate // 2)
    stream = library.open(model_bytes("int8")).stream(rate, 2, MIX)
    stream.set_gains(0.0, -60.0, -70.0)
    stream.set_strength(-5.0)  # taken as 0
    stream.reset()
    found = stream.process(x, random_blocks(3))
    np.testing.assert_allclose(found, delayed(x, stream.latency), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("gain_db", "same_as"), [(-60.0, -np.inf), (90.0, 20.0)])
def test_gains_out_of_range_are_muted_or_clamped(
    gain_db: float, same_as: float, library: Library
) -> None:
    x, outs = noise(1, SECOND // 2), []
    for gain in (gain_db, same_as):
        stream = library.open(model_bytes("int8")).stream(output=MIX)
        stream.set_gains(gain, 0.0, 0.0)
        outs.append(stream.process(x))
    np.testing.assert_array_equal(*outs)


def test_gains_apply_to_the_stems_of_their_number(library: Library) -> None:
    x = noise(1, SECOND)
    model = library.open(model_bytes("f32"))
    stems = model.stream().process(x)
    for stem in range(3):
        stream = model.stream(output=MIX)
        stream.set_gains(*(0.0 if s == stem else -60.0 for s in range(3)))
        stream.reset()
        np.testing.assert_allclose(stream.process(x)[0], stems[stem], rtol=0, atol=1e-6)


@pytest.mark.parametrize("rate", [16000, 44100])
def test_the_mix_may_be_written_over_the_input(rate: int, library: Library) -> None:
    x = noise(2, rate // 2)
    model = library.open(model_bytes("int8"))
    expected = model.stream(rate, 2, MIX).process(x)
    shared = x.copy()
    model.stream(rate, 2, MIX).into(shared, shared, random_blocks(4))
    np.testing.assert_array_equal(shared, expected)


# Streams by themselves


@pytest.mark.parametrize("rate", [16000, 48000])
def test_what_no_sample_can_be_does_no_lasting_harm(rate: int, library: Library) -> None:
    x = noise(1, rate)
    wild, tame = x.copy(), x.copy()
    for at, (value, taken) in enumerate(
        [(np.nan, 0.0), (np.inf, 0.0), (-np.inf, 0.0), (1e30, 1e9), (-1e30, -1e9)]
    ):
        span = slice(2000 + 100 * at, 2003 + 100 * at)
        wild[:, span], tame[:, span] = value, taken
    model = library.open(model_bytes("f32"))
    found, expected = (model.stream(rate).process(sound) for sound in (wild, tame))
    np.testing.assert_array_equal(found, expected)
    assert np.isfinite(found).all()
    silent = model.stream(rate)
    silent.process(np.full((1, 3000), np.nan, np.float32))
    assert not silent.process(np.zeros((1, 3000), np.float32)).any()


@pytest.mark.parametrize("rate", [16000, 44100])
@pytest.mark.parametrize("output", [0, MIX])
def test_a_reset_stream_is_a_new_stream(output: int, rate: int, library: Library) -> None:
    x = noise(2, rate // 2)
    stream = library.open(model_bytes("int8")).stream(rate, 2, output)
    first = stream.process(x)
    stream.process(noise(2, 1234, seed=5))
    stream.reset()
    np.testing.assert_array_equal(stream.process(x), first)


def test_streams_of_one_model_run_in_threads_as_they_run_alone(library: Library) -> None:
    model = library.open(model_bytes("int8"))
    inputs = [noise(2, 3 * SECOND, seed) for seed in range(2)]
    rates = [16000, 48000]
    alone = [model.stream(*pair).process(x) for pair, x in zip([(r, 2) for r in rates], inputs)]
    together: list[Floats] = [np.zeros(0, np.float32)] * 2

    def run(number: int) -> None:
        stream = model.stream(rates[number], 2)
        together[number] = stream.process(inputs[number], random_blocks(number))

    threads = [threading.Thread(target=run, args=[number]) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for found, expected in zip(together, alone, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_settings_may_change_while_another_thread_processes(library: Library) -> None:
    x = noise(1, 4 * SECOND)
    stream = library.open(model_bytes("int8")).stream(output=MIX)
    is_done = threading.Event()

    def turn() -> None:
        rng = np.random.default_rng(0)
        while not is_done.is_set():
            stream.set_gains(*rng.uniform(-70, 0, 3).tolist())
            stream.set_strength(float(rng.uniform(0, 40)))
            stream.set_bypass(bool(rng.integers(2)))

    thread = threading.Thread(target=turn)
    thread.start()
    try:
        found = stream.process(x, random_blocks(6, (64, 480)))
    finally:
        is_done.set()
        thread.join()
    assert np.isfinite(found).all()
    stems = np.abs(library.open(model_bytes("int8")).stream().process(x)).sum(axis=0)
    limit = np.maximum(stems, np.abs(delayed(x, stream.latency)[0]))
    assert (np.abs(found[0]) <= limit + 1e-6).all()
    stream.set_gains(0.0, 0.0, 0.0)
    stream.set_bypass(False)
    stream.process(x)
    np.testing.assert_allclose(
        stream.process(x)[0, stream.latency :], x[0, : -stream.latency], rtol=0, atol=1e-6
    )
