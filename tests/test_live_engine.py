"""The engine over arrays: exact output, late hops, discontinuities, stop and errors."""

from __future__ import annotations

import math
import os
import textwrap
import threading
import time
import tracemalloc

import numpy as np
import pytest
import soundfile
from fakes import FakeSeparator

import rtmtass
import rtmtass.live
from rtmtass.amplitude import first_damaged
from rtmtass.errors import InputError, UsageError
from rtmtass.io.arrays import ArraySink, ArraySource
from rtmtass.io.pipes import StreamSource
from rtmtass.io.udp import UdpSink, UdpSource
from rtmtass.io.wav_header import WavHeader
from rtmtass.live.engine import LEVEL_INTERVAL_S, Engine
from rtmtass.live.full_band import HopSchedule
from rtmtass.live.mixer import FADE_MS, Levels, Mixer
from rtmtass.live.recorder import TakeRecorder
from rtmtass.live.sources import PacedSource
from rtmtass.live.stats import DeviceStats

HOP, RATE = 256, 16000


class Splitter(FakeSeparator):
    """The fake with the interface of the live engine, and a gate that can delay each hop."""

    def __init__(self, channels=1, weights=(0.5, 0.3, 0.2)):
        super().__init__(channels, weights, delay=256)
        self.gates: dict[int, threading.Event] = {}
        self.error_at: int | None = None
        self.hops = 0

    def process_into(self, block, out, highband_weights):
        gate = self.gates.get(self.hops)
        if gate:
            assert gate.wait(30)
        if self.hops == self.error_at:
            raise RuntimeError("the separator broke")
        self.hops += 1
        stems, weights = self.process_with_highband(block if self.channels > 1 else block[:, 0])
        out[:] = stems if self.channels > 1 else stems[..., None]
        highband_weights[:] = weights


class RealtimeArray(ArraySource):
    """An array as a real-time source; the deadlines of hops in `late` have passed."""

    def __init__(self, samples, late=(), reads=None):
        super().__init__(samples, RATE)
        self.late, self.discontinuities, self.reads = set(late), 0, reads or {}
        self.hop = -1

    def read(self, out):
        self.hop += 1
        if action := self.reads.get(self.hop):
            action()
        return super().read(out)

    def deadline_s(self):
        return -math.inf if self.hop in self.late else math.inf

    def device_stats(self):
        return DeviceStats()


def sound(n, channels=1, seed=0):
    rng = np.random.default_rng(seed)
    t = np.arange(n) / RATE
    tone = np.sin(2 * np.pi * 220 * t) * (1 + np.sin(2 * np.pi * 3 * t))
    return (0.1 * (tone[:, None] + rng.standard_normal((n, channels)))).astype(np.float32)


def run(separator, source, **options):
    sink = ArraySink()
    engine = Engine(separator, source, sink, **options)
    with engine:
        assert engine.wait(60)
    assert sink.is_closed
    return sink.samples(), engine


@pytest.mark.parametrize("passes", [1, 4])
@pytest.mark.parametrize("n", [0, 1, 255, 256, 257, 12345])
def test_the_output_is_the_separators(n, passes):
    x, separator = sound(n), rtmtass.load(block=HOP, passes=passes)
    mixer = Mixer(separator.stems, RATE, is_split=True)
    out, engine = run(separator, ArraySource(x, RATE), mixer=mixer)
    assert out.shape == (3, n + separator.delay, 1)
    assert engine.delay == separator.delay == {1: 256, 4: 384}[passes]
    expected = separator.fork(block=1).separate(x[:, 0])
    np.testing.assert_allclose(out[:, engine.delay :, 0], expected, atol=1e-6)
    assert engine.stats().deadline_misses == 0


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e30])
def test_damage_in_the_input_becomes_a_block_of_silence_as_process_advises(value):
    x, separator = sound(40 * HOP), rtmtass.load(block=HOP)
    events: list[str] = []
    x[5000], x[5100], x[7000] = value, value, value
    out, engine = run(separator, ArraySource(x, RATE), on_event=events.append)
    process, expected = separator.fork(), []
    for start in range(0, len(x), HOP):
        block = x[start : start + HOP, 0]
        if first_damaged(block) is not None:
            if not np.isfinite(value):
                with pytest.raises(InputError):
                    process.process(block)
            block[:] = 0
        expected.append(process.process(block))
    assert np.flatnonzero(x.reshape(-1, HOP).any(axis=1) == 0).tolist() == [19, 27]
    np.testing.assert_allclose(out[0, :-256, 0], np.concatenate(expected, axis=1).sum(0), atol=1e-6)
    assert engine.stats().damaged == 2
    assert sum("silence is used instead" in event for event in events) == 2


def test_a_mix_in_stereo():
    x, separator = sound(9000, 2), rtmtass.load(block=HOP, channels=2)
    mixer = Mixer(separator.stems, RATE, 2, gains_db={"music": -12, "noise": -math.inf})
    out, engine = run(separator, ArraySource(x, RATE), mixer=mixer)
    stems = separator.fork(block=1).separate(x)
    expected = stems[0] + 10 ** (-12 / 20) * stems[1]
    np.testing.assert_allclose(out[0, engine.delay :], expected, atol=1e-6)


def test_a_stereo_source_is_averaged_for_a_mono_separator():
    x = sound(4000, 2)
    out, engine = run(Splitter(), ArraySource(x, RATE))
    np.testing.assert_allclose(out[0, engine.delay :, 0], x.mean(axis=1), atol=1e-6)


def test_a_late_hop_outputs_the_input_and_keeps_the_latency():
    x, separator = sound(60 * HOP), Splitter()
    gate = threading.Event()
    separator.gates[20] = gate
    source = RealtimeArray(x, late={20}, reads={21: gate.set})
    mixer = Mixer(separator.stems, RATE, gains_db={"music": -math.inf, "noise": -math.inf})
    out, engine = run(separator, source, mixer=mixer)
    speech = 0.5 * x[:, 0]  # the input is matched to the mix, so all of it is half the input
    np.testing.assert_allclose(out[0, engine.delay :, 0], speech, atol=2e-3)
    stats = engine.stats()
    assert (stats.deadline_misses, stats.skipped) == (1, 0)
    assert separator.hops == 61  # the late hop was separated all the same


def test_the_input_is_output_only_while_hops_are_late():
    """The mix is the inverted input, so the sign tells what was output."""
    x = sound(200 * HOP)
    separator = Splitter(weights=(1.0, -1.0, 1.0))
    gate = threading.Event()
    separator.gates[100] = gate
    source = RealtimeArray(x, late={100}, reads={101: gate.set})
    mixer = Mixer(separator.stems, RATE, gains_db={"speech": -math.inf, "noise": -math.inf})
    out, _ = run(separator, source, mixer=mixer)
    delayed = np.concatenate([np.zeros(256), x[:, 0]])[: out.shape[1]]
    sign = out[0, :, 0] * delayed
    hop_sign = sign[: 200 * HOP].reshape(-1, HOP).sum(axis=1)
    input_hops = np.flatnonzero(hop_sign > 0)
    assert input_hops[0] == 100
    assert 1 <= len(input_hops) <= 5
    assert np.abs(np.diff(out[0, :, 0])).max() <= 1.1 * np.abs(np.diff(delayed)).max()


def test_a_slow_worker_skips_hops_but_keeps_the_latency():
    x, separator = sound(300 * HOP), Splitter()
    gate = threading.Event()
    separator.gates[50] = gate
    source = RealtimeArray(x, late=set(range(50, 90)), reads={90: gate.set})
    out, engine = run(separator, source)
    stats = engine.stats()
    assert out.shape[1] == 300 * HOP + 256
    assert stats.skipped >= 30
    assert separator.hops == 301 - stats.skipped
    np.testing.assert_allclose(out[0, 256:, 0], x[:, 0], atol=5e-3)  # complete and on time
    np.testing.assert_allclose(out[0, -50 * HOP :, 0], x[-50 * HOP :, 0], atol=1e-6)
    assert stats.advice == "" or "extra-buffer" in stats.advice


@pytest.mark.parametrize("when_late", ["dry", "silence"])
def test_a_slow_separator_leaves_the_input_or_silence(when_late):
    """All gains are 0 dB, so the output is the delayed input where it isn't silence."""
    x, separator = sound(260 * HOP), Splitter()
    gate = threading.Event()
    separator.gates[50] = gate
    source = RealtimeArray(x, late=set(range(50, 90)), reads={90: gate.set})
    mixer = Mixer(separator.stems, RATE, when_late=when_late)
    events: list[str] = []
    out, engine = run(separator, source, mixer=mixer, on_event=events.append)
    y, delayed = out[0, :, 0], np.concatenate([np.zeros(256), x[:, 0]])
    fade = round(FADE_MS * RATE / 1000)
    overloaded = slice(50 * HOP + fade, 90 * HOP)
    np.testing.assert_allclose(y[: 50 * HOP], delayed[: 50 * HOP], atol=1e-6)
    np.testing.assert_allclose(y[-50 * HOP :], delayed[-50 * HOP :], atol=1e-6)
    if when_late == "silence":
        assert not y[overloaded].any()
        assert set(events) == {"stems were late: nothing is output for a moment"}
    else:
        np.testing.assert_allclose(y[overloaded], delayed[overloaded], atol=5e-3)
        assert set(events) == {"stems were late: the input is output for a moment"}
    steps = np.abs(np.diff(y))
    assert steps.max() <= np.abs(np.diff(delayed)).max() + np.pi / 2 / fade * np.abs(x).max()
    assert engine.stats().deadline_misses + engine.stats().skipped >= 35


def test_stems_are_metered_before_their_gains():
    x, separator = sound(60 * HOP), Splitter()
    mixer = Mixer(separator.stems, RATE, gains_db={"music": -math.inf, "noise": -20})
    _, engine = run(separator, ArraySource(x, RATE), mixer=mixer)
    levels = engine.stats().levels
    assert levels.stems["music"] == (-math.inf, -math.inf)
    rms_db = levels.separated["speech"][0]
    for stem, weight in zip(separator.stems, separator.weights, strict=True):
        expected_db = rms_db + 20 * math.log10(weight / 0.5)
        assert levels.separated[stem][0] == pytest.approx(expected_db, abs=0.01)
    assert levels.stems["noise"][0] == pytest.approx(levels.separated["noise"][0] - 20, abs=0.01)
    whole = engine.stats().run_levels.levels
    rms = np.sqrt(np.mean(np.square(x, dtype=np.float64)) * 60 / 61)
    assert whole["mixture"][0] == pytest.approx(20 * np.log10(rms), abs=0.01)
    assert whole["mixture"][1] == pytest.approx(20 * np.log10(np.abs(x).max()), abs=0.01)


def test_an_unmonitored_engine_outputs_silence_and_records_the_mix(tmp_path):
    x, separator = sound(60 * HOP), Splitter()
    recorder = TakeRecorder(tmp_path, separator.stems, HopSchedule(separator, RATE), has_mix=True)
    recorder.start()
    mixer = Mixer(separator.stems, RATE)
    out, engine = run(
        separator, ArraySource(x, RATE), mixer=mixer, recorder=recorder, is_monitored=False
    )
    assert not out.any()
    (take,) = recorder.takes
    mix, mixture = (
        soundfile.read(take.folder / f"{name}.wav", dtype="float32")[0]
        for name in ("mix", "mixture")
    )
    np.testing.assert_allclose(mix, mixture, atol=1e-6)  # all gains are 0 dB
    np.testing.assert_array_equal(mixture[engine.delay :], x[:, 0])


def test_history_is_discarded_at_a_discontinuity():
    x = sound(40 * HOP)
    source = RealtimeArray(x)

    def gap():
        source.discontinuities += 1

    source.reads[20] = gap
    out, engine = run(Splitter(), source)
    assert out.shape[1] == 40 * HOP + 256
    assert engine.stats().deadline_misses == 0
    np.testing.assert_allclose(out[0, 30 * HOP :, 0], x[30 * HOP - 256 :, 0], atol=1e-6)


def test_gains_can_change_while_running():
    x = sound(60 * HOP)
    separator = Splitter(weights=(1.0, 0.0, 0.0))
    mixer = Mixer(separator.stems, RATE)
    source = RealtimeArray(x, reads={30: lambda: mixer.set_gain("speech", -20)})
    out, _ = run(separator, source, mixer=mixer)
    np.testing.assert_allclose(out[0, 256 : 28 * HOP, 0], x[: 27 * HOP, 0], atol=1e-6)
    np.testing.assert_allclose(
        out[0, 40 * HOP : 60 * HOP, 0], 0.1 * x[39 * HOP : 59 * HOP, 0], atol=1e-6
    )


def test_stop_fades_out_and_can_be_repeated():
    class Endless(ArraySource):
        def read(self, out):
            out[:] = 0.5
            return len(out)

    has_output = threading.Event()

    class SignallingSink(ArraySink):
        def write(self, stems):
            super().write(stems)
            if stems.any():
                has_output.set()

    sink = SignallingSink()
    engine = Engine(Splitter(), Endless(np.zeros(1, np.float32), RATE), sink)
    engine.start()
    assert has_output.wait(30)
    engine.stop()
    engine.stop()
    out = sink.samples()[0, :, 0]
    assert not engine.is_running
    assert out[-1] == 0
    assert np.abs(np.diff(out)[256:]).max() < 0.002
    assert engine.stats().state == "stopped"


def test_the_watch_thread_does_not_spin_while_stopping():
    """At real-time priority a busy loop would starve the threads that are to end."""
    gate, reached = threading.Event(), threading.Event()
    calls: list[Levels] = []

    def hold():
        reached.set()
        gate.wait(30)

    source = RealtimeArray(sound(40 * HOP), reads={20: hold})
    engine = Engine(Splitter(), source, ArraySink(), on_levels=calls.append)
    engine.start()
    assert reached.wait(30)
    stopping = threading.Thread(target=engine.stop)
    stopping.start()
    before, started = len(calls), time.monotonic()
    time.sleep(0.4)
    n_calls, waited_s = len(calls) - before, time.monotonic() - started
    gate.set()
    stopping.join(30)
    assert n_calls <= waited_s / LEVEL_INTERVAL_S + 2


class NullIO:
    """A constant source and a sink that discards; calls `actions` before given reads."""

    sample_rate, channels = RATE, 1

    def __init__(self, n_hops, actions):
        self._n_left, self._actions = n_hops, actions

    def read(self, out):
        self._n_left -= 1
        if action := self._actions.get(self._n_left):
            action()
        out[:] = 0.1
        return len(out) if self._n_left > 0 else 0

    def write(self, stems):
        assert np.isfinite(stems[0, 0, 0])

    def close(self):
        pass


def test_processing_a_hop_allocates_no_arrays():
    """Views are allocated, arrays aren't: the peak stays below the size of a hop's stems."""
    traced: list[int] = []

    def mark():
        traced.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.reset_peak()

    null = NullIO(400, {
        300: tracemalloc.start,
        290: mark,
        10: lambda: traced.extend(tracemalloc.get_traced_memory()),
    })  # fmt: skip
    try:
        with Engine(rtmtass.load(block=HOP), null, null) as engine:
            assert engine.wait(60)
    finally:
        tracemalloc.stop()
    before, after, peak = traced
    assert after - before < 1024  # in 280 hops
    assert peak - before < 3 * HOP * 4


def test_raw_samples_from_a_pipe():
    x = sound(30 * HOP)
    reader, writer = os.pipe()
    source = StreamSource(
        os.fdopen(reader, "rb", buffering=0), "stdin", WavHeader(RATE, 1, "f32", None, 0, 4)
    )

    def send():
        with os.fdopen(writer, "wb", buffering=0) as pipe:
            data = memoryview(x.astype("<f4").tobytes())
            while data:
                data = data[pipe.write(data[:999]) :]

    thread = threading.Thread(target=send)
    thread.start()
    out, engine = run(Splitter(), source)
    thread.join(30)
    np.testing.assert_allclose(out[0, engine.delay :, 0], x[:, 0], atol=1e-6)


def test_the_bypass_is_aligned_with_the_mix():
    x = sound(80 * HOP)
    mixer = Mixer(Splitter.stems, RATE, gains_db={"music": -math.inf, "noise": -math.inf})
    source = RealtimeArray(x, reads={40: lambda: mixer.set_bypass(True)})
    out, engine = run(Splitter(), source, mixer=mixer)
    # The speech stem is half the input, and the bypass is matched to it.
    np.testing.assert_allclose(out[0, engine.delay :, 0], 0.5 * x[:, 0], atol=2e-3)


@pytest.mark.parametrize("culprit", ["separator", "source", "sink", "recorder"])
def test_stop_raises_the_error_of_the_engines_thread(culprit, monkeypatch):
    separator, sink, source = Splitter(), ArraySink(), RealtimeArray(sound(40 * HOP))
    options = {}

    def fail(*_):
        raise RuntimeError(f"the {culprit} broke")

    if culprit == "separator":
        separator.error_at = 5
    elif culprit == "source":
        source.reads[5] = fail
    elif culprit == "sink":
        monkeypatch.setattr(sink, "write", fail)
    else:
        options["recorder"] = type("R", (), {"add_mixture": fail, "close": lambda _: None})()
    engine = Engine(separator, source, sink, **options)
    engine.start()
    assert engine.wait(30)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=f"the {culprit} broke"):
            engine.stop()
    assert sink.is_closed


def test_callbacks_get_levels_and_events():
    x, separator = sound(100 * HOP), Splitter()
    gate, has_event = threading.Event(), threading.Event()
    separator.gates[20] = gate
    levels: list[Levels] = []
    events: list[str] = []
    source = RealtimeArray(x, late={20}, reads={21: gate.set, 60: lambda: has_event.wait(30)})

    def on_levels(level):
        levels.append(level)
        if events:
            has_event.set()

    run(separator, source, on_levels=on_levels, on_event=events.append)
    assert events == ["stems were late: the input is output for a moment"]
    assert levels[-1].mixture[0] == pytest.approx(-17, abs=4)


def test_the_recorder_gets_every_hop_aligned():
    class Recorder:
        def __init__(self):
            self.mixture, self.stems = {}, {}

        def add_mixture(self, number, mixture):
            self.mixture[number] = mixture.copy()

        def add_stems(self, number, stems, highband_weights):
            self.stems[number] = stems.copy()

        def close(self):
            pass

    x, separator, recorder = sound(60 * HOP), Splitter(), Recorder()
    gate = threading.Event()
    separator.gates[20] = gate
    run(separator, RealtimeArray(x, late={20}, reads={21: gate.set}), recorder=recorder)
    assert list(recorder.stems) == list(recorder.mixture) == list(range(61))
    for number, stems in recorder.stems.items():
        np.testing.assert_allclose(stems.sum(axis=0), recorder.mixture[number], atol=1e-6)


def test_udp_in_and_out_at_the_pace_of_real_time():
    x = sound(20 * HOP)
    back = UdpSource("127.0.0.1", 0, RATE)
    inlet = UdpSource("127.0.0.1", 0, RATE)
    engine = Engine(Splitter(), inlet, UdpSink("127.0.0.1", back.port))
    received = []

    def receive():
        out = np.zeros((500, 1), np.float32)
        while n := back.read(out):
            received.append(out[:n].copy())

    thread = threading.Thread(target=receive)
    thread.start()
    with engine:
        paced, out = PacedSource(ArraySource(x, RATE)), np.zeros((HOP, 1), np.float32)
        sender = UdpSink("127.0.0.1", inlet.port)
        while n := paced.read(out):
            sender.write(out[None, :n])
        sender.close()
        assert engine.wait(30)
    thread.join(30)
    back.close()
    np.testing.assert_allclose(np.concatenate(received)[256:, 0], x[:, 0], atol=1e-6)


def test_the_example_in_the_package_docstring_compiles():
    example = rtmtass.live.__doc__.split("\n\n", 1)[1]
    compile(textwrap.dedent(example.rsplit("\n\nThe input", 1)[0]), "rtmtass.live", "exec")
    for name in rtmtass.live.__all__:
        assert getattr(rtmtass.live, name)


def test_invalid_use_is_refused():
    with pytest.raises(UsageError, match=r"3 channels.*load it with channels=3"):
        Engine(Splitter(channels=2), ArraySource(sound(10, 3), RATE), ArraySink())
    engine = Engine(Splitter(), ArraySource(sound(10), RATE), ArraySink())
    engine.start()
    with pytest.raises(UsageError, match="create another"):
        engine.start()
    engine.stop()
    with pytest.raises(InputError, match="can't listen on UDP"):
        UdpSource("203.0.113.1", 5, RATE)
