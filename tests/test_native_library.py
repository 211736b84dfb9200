"""The C library gives what Python gives: at the model's rate the Separator, at others live."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from native_builds import MODEL, needs
from native_library import (
    MIX,
    Library,
    assert_late,
    delayed,
    live,
    model_bytes,
    noise,
    random_blocks,
    snr_db,
)

from rtmtass import load
from rtmtass.config import PRECISIONS
from rtmtass.native.targets import find_target
from rtmtass.types import Floats

pytestmark = needs()

RATES = [8000, 22050, 44100, 48000, 96000]
ALL_RATES = [16000, *RATES]
SECOND = 16000


def separated(x: Floats, precision: str) -> Floats:
    """The Separator's stems of x (C, n), as the library lays them out: (S * C, n)."""
    separator = load(MODEL, precision=precision, channels=len(x), block=1)
    stems = separator.process(x.T if len(x) > 1 else x[0]).reshape(3, x.shape[1], len(x))
    return np.ascontiguousarray(stems.transpose(0, 2, 1)).reshape(-1, x.shape[1])


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
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


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
def test_stems_at_other_rates_are_those_of_live(rate: int, channels: int, library: Library) -> None:
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
    alone = [model.stream(rates[k], 2).process(inputs[k]) for k in range(2)]
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
