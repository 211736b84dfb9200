"""Streams of voice agents: the live engine's samples, in blocks of any length, always as late."""

from __future__ import annotations

import importlib
import re
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import rtmtass
from rtmtass.agents.call import Call, network, warm_up
from rtmtass.agents.stream import MixStream
from rtmtass.errors import MissingPartError, ModelError, UsageError
from rtmtass.io.arrays import ArraySink, ArraySource
from rtmtass.live.engine import Engine
from rtmtass.live.mixer import RAMP_MS, Mixer

RATES = [8000, 16000, 24000, 44100, 48000]
FULL_SCALE = 32768


def sound(n, channels=1, seed=0):
    """16-bit noise with pauses, so that the stems differ and change."""
    rng = np.random.default_rng(seed)
    envelope = np.repeat(rng.uniform(0, 6000, n // 500 + 1), 500)[:n, None]
    return (envelope * rng.standard_normal((n, channels))).clip(-32768, 32767).astype(np.int16)


def tone(n, rate, hz=200.0):
    return np.rint(8000 * np.sin(2 * np.pi * hz * np.arange(n) / rate)).astype(np.int16)[:, None]


def feed(stream, samples, lengths):
    """Process in blocks of the lengths given, over and over; check that each keeps its length."""
    parts, position = [], 0
    while position < len(samples):
        for length in lengths:
            block = samples[position : position + length]
            parts.append(stream.process(block))
            assert parts[-1].shape == block.shape
            assert parts[-1].dtype == np.int16
            position += length
    return np.concatenate(parts)


@pytest.mark.parametrize(("rate", "channels"), [*((rate, 1) for rate in RATES), (24000, 2)])
def test_the_samples_are_those_of_the_live_engine(rate, channels):
    mixture = sound(rate // 2, channels)
    stream = Call(strength_db=9.0, gains_db={"noise": -3.0}).open(rate, channels)
    out = feed(stream, mixture, [rate // 100, 1, rate // 50, 7, 3 * rate // 100, 0, rate // 5])
    separator = network().fork(block=network().hop, channels=channels)
    gains = {"speech": 0.0, "music": -np.inf, "noise": -3.0}
    mixer = Mixer(separator.stems, rate, channels, gains_db=gains, strength_db=9.0)
    sink = ArraySink()
    source = ArraySource(mixture.astype(np.float32) / FULL_SCALE, rate)
    with Engine(separator, source, sink, mixer=mixer) as engine:
        engine.wait()
    expected = np.rint(sink.samples()[0] * FULL_SCALE).clip(-32768, 32767)
    extra = stream.delay - engine.delay
    assert extra < stream.hop
    assert not out[:extra].any()
    np.testing.assert_array_equal(out[extra:], expected[: len(mixture) - extra])


@pytest.mark.parametrize("rate", [2000, 11025, *RATES, 96000])
def test_every_block_is_as_long_as_it_was_and_as_late_as_reported(rate):
    mixture = sound(rate)
    call = Call()
    call.set_bypass(True)
    stream = call.open(rate)
    ten_ms = rate // 100
    out = np.concatenate(
        [
            feed(stream, mixture[: 6 * ten_ms], [1]),
            feed(
                stream, mixture[6 * ten_ms :], [ten_ms, 2 * ten_ms, 3 * ten_ms, 0, 5 * ten_ms, 31]
            ),
        ]
    )
    np.testing.assert_array_equal(out[stream.delay :], mixture[: len(mixture) - stream.delay])
    assert not out[: stream.delay].any()
    assert call.delay_ms == 1000 * stream.delay / rate


def test_strength_0_leaves_the_sound_as_it_is():
    mixture = sound(9000)
    stream = Call(strength_db=0.0).open(24000)
    out = feed(stream, mixture, [240])
    error = out[stream.delay :].astype(int) - mixture[: len(mixture) - stream.delay]
    assert np.abs(error).max() <= 1


def test_strength_is_how_far_the_background_is_turned_down():
    mixture = sound(16000)
    full = {"speech": -np.inf, "noise": 0.0}  # the noise at 0 dB, all else as far down as allowed
    out = {
        strength: feed(Call(strength_db=strength, gains_db=full).open(16000), mixture, [160])
        for strength in (0.0, 6.0, np.inf)
    }
    # mix = kept + 10 ** (-strength / 20) * rest, and strength 0 gives kept + rest
    rest = out[0.0].astype(float) - out[np.inf]
    assert np.abs(rest).max() > 100
    np.testing.assert_allclose(out[6.0], out[np.inf] + 10 ** (-6 / 20) * rest, atol=2)


def test_a_bypass_switches_both_ways_without_a_click():
    rate = 16000
    wave = tone(2 * rate, rate)
    call = Call(gains_db=dict.fromkeys(("speech", "music", "noise"), -20.0))
    stream = call.open(rate)
    out = []
    for number, start in enumerate(range(0, len(wave), 160)):
        if number in (50, 100, 150):
            call.set_bypass(number != 100)
        out.append(stream.process(wave[start : start + 160]))
    heard = np.concatenate(out)[stream.delay :, 0].astype(float)
    expected = wave[: len(heard), 0].astype(float)
    ramp = round(RAMP_MS * rate / 1000)
    for switch, gain in ((8000, 1.0), (16000, 0.1), (24000, 1.0)):
        settled = slice(switch + ramp, switch + 7000)
        assert np.abs(heard[settled] - gain * expected[settled]).max() <= 2
        # a tone's second difference stays small through a smooth ramp, and jumps at a click
        around = heard[switch - stream.delay - 200 : switch + ramp + 200]
        assert np.abs(np.diff(around, 2)).max() < 1.1 * np.abs(np.diff(expected, 2)).max() + 2


def test_settings_hold_from_the_first_sample_and_outlive_a_stream():
    call = Call(strength_db=3.0)
    call.set_gain("music", -5.0)
    first = feed(call.open(24000), sound(9000), [240])
    call.close()
    assert call.stream is None
    assert call.delay_ms is None
    call.set_gain("noise", -30.0)
    call.set_gain("noise", -np.inf)
    assert call.settings.gains_db == {"speech": 0.0, "music": -5.0, "noise": -np.inf}
    assert call.settings.strength_db == 3.0
    np.testing.assert_array_equal(feed(call.open(24000), sound(9000), [240]), first)


def test_nothing_of_a_call_is_left_in_the_next():
    for rate in (16000, 48000):
        stream = Call().open(rate)
        fresh = feed(stream, sound(rate // 3, seed=1), [rate // 50])
        feed(stream, sound(rate // 2 + 123, seed=2), [rate // 100])
        stream.reset()
        np.testing.assert_array_equal(feed(stream, sound(rate // 3, seed=1), [rate // 50]), fresh)


def test_calls_at_once_share_weights_and_nothing_else():
    rates = [8000, 16000, 24000, 48000]
    alone = [
        feed(Call().open(rate), sound(rate, seed=rate)[: rate // 50 * 15], [rate // 50])
        for rate in rates
    ]
    streams = [Call().open(rate) for rate in rates]
    parts: list[list[np.ndarray]] = [[] for _ in rates]
    for number in range(15):
        for stream, rate, part in zip(streams, rates, parts, strict=True):
            block = rate // 50
            part.append(
                stream.process(sound(rate, seed=rate)[number * block : (number + 1) * block])
            )
    for part, expected in zip(parts, alone, strict=True):
        np.testing.assert_array_equal(np.concatenate(part), expected)
    assert len({id(stream._separator._runtime) for stream in streams}) == 1


def test_many_threads_open_the_weights_once(monkeypatch):
    opened = []
    real = network()

    def load(model):
        opened.append(model)
        return real

    monkeypatch.setattr("rtmtass.agents.call.load", load)
    monkeypatch.setattr("rtmtass.agents.call._networks", {})
    found = []
    threads = [threading.Thread(target=lambda: found.append(network())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 1
    assert found == [real] * 8


def test_what_was_warmed_up_needs_no_compilation_later():
    warm_up(8000, 24000)
    assert isinstance(Call().open(8000), MixStream)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strength": 3}, "unknown setting strength; choose from gains_db, strength_db"),
        ({"strength_db": "much"}, "expected numbers in dB"),
        ({"strength_db": -1}, "give 0 or more"),
        ({"strength_db": float("nan")}, "give 0 or more"),
        ({"gains_db": 3}, "expected numbers in dB"),
        ({"gains_db": {"voice": 0}}, "unknown stem 'voice'"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    call = Call()
    before = call.settings
    with pytest.raises(UsageError, match=message):
        call.update(settings)
    assert call.settings == before


def test_right_settings_are_taken():
    call = Call()
    call.update({"strength_db": 6, "gains_db": {"music": -20}})
    assert call.settings.strength_db == 6.0
    assert call.settings.gains_db["music"] == -20.0


def test_what_cannot_be_opened_says_why():
    with pytest.raises(UsageError, match="1000 Hz"):
        Call().open(1000)
    with pytest.raises(ModelError, match="nothing-here"):
        Call(model="nothing-here").open(16000)
    with pytest.raises(UsageError, match="give 0 or more"):
        Call(strength_db=-3.0)


@pytest.mark.parametrize("framework", ["pipecat", "livekit"])
def test_without_its_framework_an_adapter_says_what_to_install(framework, monkeypatch):
    for name in [name for name in sys.modules if name.startswith(f"{framework}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, framework, None)
    monkeypatch.delitem(sys.modules, f"rtmtass.agents.{framework}", raising=False)
    with pytest.raises(MissingPartError, match=rf"pip install 'rtmtass\[{framework}\]'"):
        importlib.import_module(f"rtmtass.agents.{framework}")


def readme_code(word):
    """The Python block of the adapters' page that has this word."""
    page = (Path(rtmtass.__file__).parent / "agents" / "README.md").read_text(encoding="utf-8")
    [code] = [c for c in re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S) if word in c]
    return code


@pytest.mark.parametrize("rate", [8000, 16000, 24000, 44100, 48000])
def test_the_page_names_the_delay(rate):
    page = (Path(rtmtass.__file__).parent / "agents" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\d., ]+) kHz \| ([\d.]+) ms \|$", page, re.M)
    delays = {float(k): float(ms) for rates, ms in rows for k in rates.split(",")}
    assert delays[rate / 1000] == pytest.approx(Call().open(rate).delay_ms, abs=0.06)
