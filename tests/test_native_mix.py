"""The library's mix: the live Mixer's, with settings that may change at any time."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from native_builds import MODEL, needs
from native_library import (
    MIX,
    MIX_AND_STEMS,
    Library,
    Stream,
    assert_late,
    delayed,
    live,
    model_bytes,
    noise,
    random_blocks,
)

from rtmtass import load
from rtmtass.dsp.live_resample import Converter
from rtmtass.live.full_band import HopSchedule
from rtmtass.live.mixer import RAMP_MS, Mixer, MixSettings

pytestmark = needs()

SECOND = 16000


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
    np.testing.assert_array_equal(outs[0], outs[1])


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


@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (44100, 2), (48000, 1)])
def test_mix_and_stems_are_those_of_a_mix_and_of_stems_to_the_bit(
    rate: int, channels: int, library: Library
) -> None:
    x = noise(channels, rate // 2)
    model = library.open(model_bytes("int8"))
    both, mix, stems = (model.stream(rate, channels, o) for o in (MIX_AND_STEMS, MIX, 0))
    for stream in (both, mix):
        stream.set_gains(6.0, -12.0, -3.0)
        stream.set_strength(30)
    assert both.latency == mix.latency == stems.latency
    found = both.process(x, random_blocks(7))
    np.testing.assert_array_equal(found[:channels], mix.process(x, random_blocks(8)))
    np.testing.assert_array_equal(found[channels:], stems.process(x, random_blocks(9)))


SWITCHES: list[tuple[set[int], set[int]]] = [
    ({1}, set()),
    (set(), {0}),
    ({0}, {0, 2}),
    ({0, 1, 2}, set()),
]
"""Numbers of the stems that are muted, and of those that are soloed."""


def switched(stream: Stream, muted: set[int], soloed: set[int]) -> Stream:
    """Set a stream's gains, strength, mutes and solos, without a ramp."""
    stream.set_gains(6.0, -12.0, -3.0)
    stream.set_strength(10)
    for stem in range(3):
        stream.set_mute(stem, stem in muted)
        stream.set_solo(stem, stem in soloed)
    stream.reset()
    return stream


@pytest.mark.parametrize(("muted", "soloed"), SWITCHES)
def test_mute_solo_and_meters_are_the_live_mixers_to_the_bit(
    muted: set[int], soloed: set[int], library: Library
) -> None:
    x, names = noise(2, SECOND), ("speech", "music", "noise")
    stream = switched(
        library.open(model_bytes("f32")).stream(16000, 2, MIX_AND_STEMS), muted, soloed
    )
    found = stream.process(x)
    gains = dict(zip(names, (6.0, -12.0, -3.0), strict=True))
    mixer = Mixer(names, SECOND, 2, gains_db=gains, strength_db=10, is_bypass_matched=False)
    for stem in muted:
        mixer.set_mute(names[stem], True)
    for stem in soloed:
        mixer.set_solo(names[stem], True)
    mixer.reset()
    # The stream mixes in hops, each heard a hop less a sample after its input is complete.
    hop, late = 256, stream.latency - 256
    stems = found[2:].reshape(3, 2, -1).transpose(0, 2, 1)
    dry = delayed(x, stream.latency).T
    n_hops = x.shape[1] // hop - 1
    mixed = np.zeros((1, hop, 2), np.float32)
    for number in range(n_hops):
        span = slice(hop - 1 + number * hop, hop - 1 + (number + 1) * hop)
        block, mixture = np.ascontiguousarray(stems[:, span]), np.ascontiguousarray(dry[span])
        mixer.process(block, mixture, mixed)
        np.testing.assert_array_equal(found[:2, span], mixed[0].T)
    assert late == hop - 1
    factors = MixSettings(
        gains, frozenset(names[s] for s in muted), frozenset(names[s] for s in soloed), 10.0
    ).factors()
    np.testing.assert_array_equal(stream.factors(), np.array([*factors.values()], np.float32))


def test_meters_are_the_live_mixers(library: Library) -> None:
    """Of the hops so far, also of the last, which isn't heard yet."""
    x, names = noise(1, SECOND), ("speech", "music", "noise")
    gains = dict(zip(names, (0.0, -12.0, 3.0), strict=True))
    stream = library.open(model_bytes("f32")).stream(output=MIX_AND_STEMS)
    assert not stream.levels().any()
    stream.set_gains(*gains.values())
    stream.reset()
    stream.process(x[:, : 40 * 256])
    levels = stream.levels()
    mixer = Mixer(names, SECOND, gains_db=gains, is_bypass_matched=False)
    live(x[:, : 40 * 256], SECOND, mixer)
    found = mixer.levels()
    expected = [*found.stems.values(), found.mixture, found.output]
    np.testing.assert_allclose(20 * np.log10(levels), expected, rtol=0, atol=1e-3)
    only_stems = library.open(model_bytes("f32")).stream()
    only_stems.process(x)
    assert not only_stems.levels().any()


@pytest.mark.parametrize("rate", [16000, 48000])
def test_the_last_hops_stems_are_the_separators(rate: int, library: Library) -> None:
    """At the model's rate also where the stream has another."""
    x = noise(2, rate // 2)
    stream = library.open(model_bytes("f32")).stream(rate, 2)
    assert not stream.last_stems(2).any()
    stream.process(x, random_blocks(10))
    wait = Converter(rate, SECOND, 2, 1).wait if rate != SECOND else 0
    schedule = HopSchedule(load(MODEL, block=256), rate)
    number = library.c.rtmtass_hops(stream.handle)
    assert schedule.end(number) - wait <= x.shape[1] < schedule.end(number + 1) - wait + rate
    separator = load(MODEL, precision="f32", channels=2, block=256)
    narrow = x
    if wait:
        down = Converter(rate, SECOND, 2, schedule.longest)
        padded = np.pad(x.T, [(wait, 0), (0, 0)])
        hops = []
        for k in range(number):
            hop = np.zeros((down.room, 2), np.float32)
            down.process(padded[schedule.end(k) : schedule.end(k + 1)], hop)
            hops.append(hop[:256])
        narrow = np.concatenate(hops).T
    for k in range(number):
        stems = separator.process(np.ascontiguousarray(narrow[:, 256 * k : 256 * (k + 1)].T))
    np.testing.assert_allclose(stream.last_stems(2), stems, rtol=0, atol=1e-6)
    stream.reset()
    assert library.c.rtmtass_hops(stream.handle) == 0
