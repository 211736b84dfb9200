"""PortAudio streams over a jackd with a dummy driver: output, latency, reconnection."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace

import jack_rig
import numpy as np
import pytest
import soundfile

import rtmtass
from rtmtass.fullband import FullBandSeparator
from rtmtass.io.arrays import ArraySink, ArraySource
from rtmtass.live import os_priority
from rtmtass.live.devices import portaudio, stream_config
from rtmtass.live.devices.device_io import DeviceIO
from rtmtass.live.devices.drift import DriftControl
from rtmtass.live.devices.stream_config import StreamRequest
from rtmtass.live.engine import Engine
from rtmtass.live.full_band import HopSchedule
from rtmtass.live.mixer import Mixer
from rtmtass.live.recorder import TakeRecorder
from rtmtass.live.sources import PacedSource
from rtmtass.types import Floats

MISSING = jack_rig.missing_parts()
IS_CI = os.environ.get("CI") == "true"
pytestmark = pytest.mark.skipif(bool(MISSING) and not IS_CI, reason=MISSING)

HOP = 256
SECONDS = float(os.environ.get("RTMTASS_JACK_SECONDS", "30"))
GAINS = {"speech": 0.0, "music": -20.0, "noise": -np.inf}


@pytest.fixture(autouse=True)
def undisturbed():
    """Run with the priorities of `rtmtass live`."""
    with os_priority.realtime_interpreter():
        os_priority.request_priority(os_priority.OTHER_PRIORITY)
        yield
    os_priority.drop_priority()


@pytest.fixture
def server(request):
    jackd = jack_rig.JackServer(**getattr(request, "param", {}))
    try:
        portaudio.restart_portaudio()
        yield jackd
    finally:
        portaudio.close_portaudio()
        jackd.close()


def sound(n, rate, seed=0):
    """A speech-like signal over tones and noise, at any rate."""
    rng = np.random.default_rng(seed)
    t = np.arange(n) / rate
    voice = sum(np.sin(2 * np.pi * 140 * k * t) / k for k in range(1, 12))
    voice *= np.clip(np.sin(2 * np.pi * 2.7 * t), 0, None)
    hum = np.sin(2 * np.pi * 523 * t) + np.sin(2 * np.pi * 659 * t)
    return (0.12 * voice + 0.06 * hum + 0.03 * rng.standard_normal(n)).astype(np.float32)[:, None]


class Session:
    """An engine between the devices of a server; keeps what it captured."""

    def __init__(self, request=None, *, separator=None, mixer=None, messages=None, recorder=None):
        self.separator = separator or rtmtass.load(block=HOP)
        on_message = None if messages is None else messages.append
        n_rows = mixer.n_rows if mixer else 1
        request = request or StreamRequest()
        request = replace(
            request,
            input=request.input or jack_rig.DEVICE,
            output=request.output or jack_rig.DEVICE,
        )
        self.devices = DeviceIO(request, self.separator, n_rows=n_rows, on_message=on_message)
        self.captured: list[Floats] = []
        read = self.devices.connection.capture.read

        def tapped(out):
            n = read(out)
            self.captured.append(out[:n].copy())
            return n

        self.devices.connection.capture.read = tapped  # type: ignore[method-assign]
        self.mixer = mixer or Mixer(self.separator.stems, 16000, gains_db=GAINS)
        self.engine = Engine(
            self.separator, self.devices, self.devices, mixer=self.mixer, recorder=recorder,
            is_realtime=True,
        )  # fmt: skip
        self.engine.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.engine.stop()

    def locate(self, x):
        """Return what was captured, and where `x` begins in it, bit-exact."""
        captured = np.concatenate(self.captured)[:, 0]
        start = int(np.flatnonzero(captured == x[100, 0])[0]) - 100
        match = captured[start : start + len(x)]
        np.testing.assert_array_equal(match, x[: len(match), 0])
        return captured, start


def loop(session, server):
    """Return the latency from microphone to loudspeaker through a stream that only copies.

    As measured; PortAudio needs a period more to collect blocks of its client's length.
    """
    return server.period * (1 if session.devices.connection.config.has_host_blocks[1] else 2)


def wait_for(condition, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def mixed(separator, captured):
    stems = separator.fork(block=1).separate(captured)
    return sum(10 ** (gain / 20) * stem for gain, stem in zip(GAINS.values(), stems, strict=True))


@pytest.mark.parametrize(
    "server", [{"period": 256}, {"period": 128}], indirect=True, ids=["16ms", "8ms"]
)
@jack_rig.on_a_steady_machine
def test_the_loudspeaker_plays_the_separators_output(server):
    seconds = SECONDS if server.period == 256 else 2.0
    x = sound(int(16000 * seconds) // server.period * server.period, 16000)
    with Session(StreamRequest(block=server.period)) as session:
        speaker = jack_rig.Loudspeaker(server, x, seconds)
        recording, xruns = speaker.recorded()
        stats = session.engine.stats()
    captured, start = session.locate(x)
    latency = session.devices.connection.fill + session.separator.delay
    assert latency == 512  # 32 ms: the algorithm's latency alone
    latency += loop(session, server)
    device = stats.device
    assert (xruns, device.xruns, device.overruns, device.underruns, device.reopened) == (0,) * 5
    assert (stats.deadline_misses, stats.skipped) == (0, 0)
    expected = mixed(session.separator, captured)[start - latency :][: len(recording)]
    np.testing.assert_allclose(recording[:, 0], expected, atol=1e-5)
    assert (
        np.abs(expected[latency:] - x[: len(recording) - latency, 0]).max() > 0.05
    )  # it isn't the input


@pytest.mark.parametrize("server", [{"rate": 48000, "channels": 2}], indirect=True)
@jack_rig.on_a_steady_machine
def test_a_stereo_device_at_48_khz(server):
    x = np.repeat(sound(48000 * 4, 48000), 2, axis=1)
    x[:, 1] *= -0.5  # the first channel is chosen: the second must not be used
    with Session() as session:
        assert session.devices.connection.config.rates == (48000, 48000)
        recording, xruns = jack_rig.Loudspeaker(server, x, 4, n_speakers=2).recorded()
        stats = session.engine.stats()
    captured, start = session.locate(x[:, :1])
    full_band = FullBandSeparator(session.separator, 48000, 1, low_latency=True)
    stems = np.concatenate((full_band.process(captured[:, None]), full_band.flush()), axis=1)
    gains = 10 ** (np.array(list(GAINS.values())) / 20)
    expected = np.tensordot(gains, stems[:, full_band.delay + start :, 0], 1)
    fill, delay = session.devices.connection.fill, session.engine.delay
    latency = fill + delay + loop(session, server)
    n = min(len(recording) - latency, len(expected))
    for channel in range(2):
        np.testing.assert_allclose(
            recording[latency : latency + n, channel], expected[:n], atol=1e-5
        )
    assert n > 3.8 * 48000
    assert (xruns, stats.device.underruns, stats.deadline_misses) == (0, 0, 0)
    # Beyond the algorithm's latency: at most a block and a hop.
    assert fill - 3 * HOP <= server.period + 3 * HOP


@pytest.mark.parametrize("server", [{"rate": 48000}, {"rate": 44100}], indirect=True)
@jack_rig.on_a_steady_machine
def test_with_all_gains_at_0_db_the_loudspeaker_plays_the_whole_band(server):
    x = 0.2 * np.random.default_rng(0).standard_normal((server.rate * 3, 1)).astype(np.float32)
    with Session(mixer=Mixer(rtmtass.STEMS, server.rate)) as session:
        recording, xruns = jack_rig.Loudspeaker(server, x, 3).recorded()
        stats = session.engine.stats()
    connection, delay = session.devices.connection, session.engine.delay
    latency = connection.fill + delay + loop(session, server)
    n = len(recording) - latency
    error = recording[latency:, 0] - x[:n, 0]
    assert 10 * np.log10(np.mean(error**2)) < -90
    assert (xruns, stats.deadline_misses, stats.device.underruns) == (0, 0, 0)
    # Less than 3 ms more than without resampling, which is 512 samples at 16 kHz.
    assert stats.device.latency.algorithm_ms - 32 < 3
    engine_ms = stats.device.latency.algorithm_ms + stats.device.latency.buffer_ms
    assert engine_ms == pytest.approx(1000 * (connection.fill + delay) / server.rate, abs=0.01)


def lag(x, recording, start, n):
    """Return by how many samples `recording` lags `x`, from (n,) of it at `start`."""
    later = recording[start + n // 2 : start + n // 2 + n, 0]
    match = np.correlate(x[start - n : start + 2 * n, 0], later, "valid")
    assert match.max() > 0.98 * np.dot(later, later)
    return 3 * n // 2 - int(np.argmax(match))


@pytest.mark.parametrize(
    "server",
    [
        {"rate": 48000, "period": 1024}, {"rate": 16000, "period": 1000},
        {"rate": 48000, "period": 4096}, {"rate": 44100, "period": 441},
    ],
    indirect=True, ids=lambda p: f"{p['period']}",
)  # fmt: skip
@jack_rig.on_a_steady_machine
def test_nothing_is_lost_at_any_period_and_the_latency_is_the_reported_one(server):
    x = sound(server.rate * 4, server.rate)
    with Session(mixer=Mixer(rtmtass.STEMS, server.rate)) as session:
        speaker = jack_rig.Loudspeaker(server, x, 4)
        speaker.wait_until_playing()
        stats = session.engine.stats()
        recording, xruns = speaker.recorded()
        after = session.engine.stats()
    assert (xruns, after.device.underruns, after.deadline_misses) == (0, 0, 0)
    assert after.device.xruns == stats.device.xruns  # the speaker's start may disturb jackd
    measured_ms = 1000 * lag(x, recording, server.rate, server.rate) / server.rate
    assert measured_ms == pytest.approx(after.device.latency.total_ms, abs=0.1)
    assert stats.device.latency.total_ms == after.device.latency.total_ms
    # The summary is of the closed devices.
    assert session.engine.stats().device.latency == after.device.latency


@pytest.mark.parametrize("server", [{"rate": 48000, "period": 256}], indirect=True)
@jack_rig.on_a_steady_machine
def test_jacks_period_may_change_while_running(server):
    messages: list[str] = []
    x = sound(server.rate * 4, server.rate)
    with Session(mixer=Mixer(rtmtass.STEMS, server.rate), messages=messages) as session:
        session.devices.unbuffered_ms = 10.0
        for period in (1024, 512):
            server.set_period(period)
            change = f"takes {period} samples at once now"
            wait_for(lambda words=change: any(words in message for message in messages))
            before = session.engine.stats().device
            speaker = jack_rig.Loudspeaker(server, x, 4)
            recording, xruns = speaker.recorded()
            device = session.engine.stats().device
            assert (xruns, device.xruns - before.xruns) == (0, 0)
            buffer_and_algorithm = device.latency.buffer_ms + device.latency.algorithm_ms
            expected = round(server.rate * buffer_and_algorithm / 1000) + period
            assert abs(lag(x, recording, server.rate, server.rate) - expected) <= 5
            # A latency measured before the change counts the buffer of now.
            fill_ms = 1000 * session.devices.connection.fill / server.rate
            assert device.latency.measured_ms == pytest.approx(10 + fill_ms)
    assert any("takes 1024 samples at once now: the buffer was raised" in m for m in messages)
    assert any("takes 512 samples at once now: the buffer was lowered" in m for m in messages)


@jack_rig.on_a_steady_machine
def test_gains_change_while_playing_without_a_click(server):
    t = np.arange(16000 * 4) / 16000
    x = (0.4 * np.sin(2 * np.pi * 200 * t)).astype(np.float32)[:, None]
    with Session(mixer=Mixer(rtmtass.STEMS, 16000)) as session:
        speaker = jack_rig.Loudspeaker(server, x, 4)
        speaker.wait_until_playing()
        for turn in range(12):
            time.sleep(0.2)
            for stem in rtmtass.STEMS:
                session.mixer.set_gain(stem, -40.0 if turn % 2 else 0.0)
        recording, xruns = speaker.recorded()
    inner = recording[2000:-2000, 0]
    levels = np.abs(inner[: len(inner) // 400 * 400].reshape(-1, 400)).max(axis=1)
    assert levels.max() > 0.35
    assert levels.min() < 0.01
    assert np.abs(np.diff(inner)).max() <= 1.02 * np.abs(np.diff(x[:, 0])).max()
    assert xruns == 0


class Slow:
    """The real separator; slower than real time while `is_slow`."""

    def __init__(self):
        self._inner = rtmtass.load(block=HOP)
        self.is_slow = False

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def process_into(self, block, out, highband_weights):
        if self.is_slow:
            time.sleep(0.03)  # a hop is 16 ms
        self._inner.process_into(block, out, highband_weights)


@jack_rig.on_a_steady_machine
def test_on_a_slow_computer_the_input_is_output_at_the_same_latency(server):
    seconds = 6
    t = np.arange(16000 * seconds) / 16000
    x = (0.3 * np.sin(2 * np.pi * 180 * t) * (1 + 0.5 * np.sin(2 * np.pi * t))).astype(np.float32)
    separator = Slow()
    with Session(separator=separator, mixer=Mixer(rtmtass.STEMS, 16000)) as session:
        speaker = jack_rig.Loudspeaker(server, x[:, None], seconds)
        speaker.wait_until_playing()
        time.sleep(1.5)
        separator.is_slow = True
        time.sleep(2)
        during = session.engine.stats()
        separator.is_slow = False
        recording, _ = speaker.recorded()
        stats = session.engine.stats()
    # All stems at 0 dB sum to the input: it must be output throughout, on time and without clicks.
    latency = session.devices.connection.fill + HOP + loop(session, server)
    np.testing.assert_allclose(recording[latency:, 0], x[: len(recording) - latency], atol=0.02)
    assert np.abs(np.diff(recording[:, 0])).max() <= 1.1 * np.abs(np.diff(x)).max()
    assert stats.deadline_misses + stats.skipped > 20
    assert "too slow" in during.advice
    assert stats.device.underruns == 0
    np.testing.assert_allclose(
        recording[-8000:, 0],
        x[len(recording) - latency - 8000 : len(recording) - latency],
        atol=1e-5,
    )


@jack_rig.on_a_steady_machine
def test_reconnection_to_a_restarted_server(server):
    messages: list[str] = []
    x = sound(16000 * 3, 16000)
    mixer = Mixer(rtmtass.STEMS, 16000)  # all at 0 dB: the mix is the input
    with Session(mixer=mixer, messages=messages) as session:
        for _ in range(2):
            time.sleep(0.5)
            server.kill()
            wait_for(lambda: session.engine.stats().state == "reconnecting")
            server.start()
            wait_for(lambda: session.engine.stats().state == "running")
        speaker = jack_rig.Loudspeaker(server, x, 3)
        speaker.wait_until_playing()
        before = session.engine.stats()
        recording, xruns = speaker.recorded()
        stats = session.engine.stats()
    latency = session.devices.connection.fill + HOP + loop(session, server)
    played, piece = recording[:, 0].astype(float), x[8000:16000, 0]
    energy = np.convolve(played**2, np.ones(len(piece)), "valid")
    match = np.correlate(played, piece, "valid") / np.sqrt(energy + 1e-3)
    assert abs(int(np.argmax(match)) - 8000 - latency) <= 3 * HOP
    assert stats.device.reopened == 2
    assert stats.device.underruns == before.device.underruns
    assert xruns == 0
    assert messages == 2 * ["system is gone; trying to open it again", "system is back"]


@jack_rig.on_a_steady_machine
def test_a_paced_array_to_an_output_device(server):
    t = np.arange(16000 * 12) / 16000
    x = (0.3 * np.sin(2 * np.pi * (200 + 20 * t) * t)).astype(np.float32)[:, None]
    separator = rtmtass.load(block=HOP)
    output = DeviceIO(StreamRequest(output=jack_rig.DEVICE, has_input=False), separator)
    source = PacedSource(ArraySource(x, 16000))
    with Engine(separator, source, output, is_realtime=True) as engine:
        wait_for(lambda: engine.stats().seconds > 1)
        server.kill()
        wait_for(lambda: engine.stats().state == "reconnecting")
        server.start()
        wait_for(lambda: engine.stats().state == "running")
        nothing = np.zeros((0, 0), np.float32)
        recording, xruns = jack_rig.Loudspeaker(server, nothing, 3).recorded()
        stats = engine.stats()
    # All stems at 0 dB sum to the input.
    piece = recording[24000:28000, 0]
    match = np.correlate(x[:, 0], piece, "valid") / np.dot(piece, piece)
    assert match.max() == pytest.approx(1, abs=0.05)
    assert stats.device.fill < 3 * output.connection.fill
    assert stats.device.reopened == 1
    assert xruns == 0


@jack_rig.on_a_steady_machine
def test_an_input_device_to_an_array(server):
    separator, sink = rtmtass.load(block=HOP), ArraySink()
    messages: list[str] = []
    request = StreamRequest(input=jack_rig.DEVICE, has_output=False)
    device = DeviceIO(request, separator, on_message=messages.append)
    x = sound(16000 * 3, 16000)
    with Engine(separator, device, sink, is_realtime=True) as engine:
        wait_for(lambda: engine.stats().seconds > 0.5)
        server.kill()
        wait_for(lambda: engine.stats().state == "reconnecting")
        server.start()
        wait_for(lambda: engine.stats().state == "running")
        jack_rig.Loudspeaker(server, x, 3, n_speakers=0).recorded()
        stats = engine.stats()
    captured = sink.samples()[0, :, 0]
    piece = x[16000:20000, 0]
    match = np.correlate(captured, piece, "valid") / np.dot(piece, piece)
    assert match.max() == pytest.approx(1, abs=0.01)
    assert stats.deadline_misses == stats.device.overruns == 0
    assert messages == ["system is gone; trying to open it again", "system is back"]


@jack_rig.on_a_steady_machine
def test_a_stopped_server_is_waited_for(server):
    messages: list[str] = []
    with Session(messages=messages) as session:
        time.sleep(0.5)
        os.kill(server.process.pid, signal.SIGSTOP)
        wait_for(lambda: session.engine.stats().state == "waiting")
        os.kill(server.process.pid, signal.SIGCONT)
        wait_for(lambda: session.engine.stats().state == "running")
        recording, _ = jack_rig.Loudspeaker(server, sound(16000 * 2, 16000), 2).recorded()
    assert messages[:2] == ["system has fallen silent; waiting for it", "system is back"]
    assert np.abs(recording[16000:]).max() > 0.05


@jack_rig.on_a_steady_machine
def test_reconnection_to_a_server_that_stopped_and_died(server):
    messages: list[str] = []
    with Session(messages=messages) as session:
        time.sleep(0.5)
        os.kill(server.process.pid, signal.SIGSTOP)
        wait_for(lambda: session.engine.stats().state == "waiting")
        server.kill()
        wait_for(lambda: session.engine.stats().state == "reconnecting")
        server.start()
        wait_for(lambda: session.engine.stats().state == "running")
        recording, _ = jack_rig.Loudspeaker(server, sound(16000 * 2, 16000), 2).recorded()
    assert messages[-2:] == ["system is gone; trying to open it again", "system is back"]
    assert np.abs(recording[16000:]).max() > 0.05


@jack_rig.on_a_steady_machine
def test_reconnection_at_another_rate(server, tmp_path):
    separator = rtmtass.load(block=HOP)
    recorder = TakeRecorder(tmp_path, separator.stems, HopSchedule(separator, 16000))
    with Session(separator=separator, recorder=recorder) as session:
        recorder.start()
        time.sleep(1)
        server.kill()
        wait_for(lambda: session.engine.stats().state == "reconnecting")
        server.rate, server.channels = 48000, 2
        server.start()
        wait_for(lambda: session.engine.stats().state == "running")
        assert session.devices.connection.config.rates == (48000, 48000)
        x = sound(48000 * 3, 48000)
        recording, _ = jack_rig.Loudspeaker(server, x, 3).recorded()
        stats = session.engine.stats()
    assert stats.device.reopened == 1
    assert np.abs(recording[48000:]).max() > 0.05
    (take,) = tmp_path.glob("take-*")
    tracks = {p.stem: soundfile.read(p, dtype="float32")[0] for p in take.glob("*.wav")}
    assert len({len(track) for track in tracks.values()}) == 1
    mixture = tracks.pop("mixture")
    assert len(mixture) > 3 * 16000
    assert np.abs(mixture).max() > 0.05
    # Only right after the gap, while the stems settle, they may be missing.
    off = np.abs(sum(tracks.values()) - mixture).reshape(-1, HOP).max(axis=1)
    assert (off > 1e-4).sum() <= 3


@jack_rig.on_a_steady_machine
def test_reconnection_is_retried_until_the_rate_is_supported(server):
    messages: list[str] = []
    with Session(StreamRequest(sample_rate=16000), messages=messages) as session:
        time.sleep(0.3)
        for rate in (48000, 16000):
            server.kill()
            server.rate = rate
            server.start()
            wait_for(lambda: session.engine.stats().state != "running")
            if rate == 48000:
                wait_for(lambda: any("doesn't support 16000 Hz" in line for line in messages))
        wait_for(lambda: session.engine.stats().state == "running")
    assert sum("doesn't support 16000 Hz" in line for line in messages) == 1  # not at every attempt
    assert messages[-1] == "system is back"


class FixedWeights:
    """A separator whose stems are the input times fixed weights, one of them negative."""

    stems, sample_rate, hop, delay, algorithmic_latency, channels = (
        rtmtass.STEMS, 16000, HOP, HOP, 2 * HOP, 1,
    )  # fmt: skip
    weights = (0.75, 0.5, -0.25)

    def __init__(self):
        self._before = np.zeros((HOP, 1), np.float32)

    def process_into(self, block, out, highband_weights):
        for weight, stem in zip(self.weights, out, strict=True):
            stem[:] = weight * self._before
        self._before[:] = block

    def reset(self):
        self._before[:] = 0


@jack_rig.on_a_steady_machine
def test_one_device_per_stem(server):
    seconds = 4
    t = np.arange(16000 * seconds) / 16000
    chirps = np.sin(2 * np.pi * (200 + 100 * np.sin(2 * np.pi * 0.7 * t)) * t)
    x = (0.3 * chirps).astype(np.float32)[:, None]
    separator = FixedWeights()
    session = Session(
        StreamRequest(more_outputs=(jack_rig.DEVICE, jack_rig.DEVICE)),
        separator=separator,
        mixer=Mixer(rtmtass.STEMS, 16000, is_split=True),
    )
    with session:
        recording, xruns = jack_rig.Loudspeaker(server, x, seconds, n_speakers=3).recorded()
        stats = session.engine.stats()
    for weight, track in zip(separator.weights, recording.T, strict=True):
        piece = x[20000:24000, 0]
        match = np.correlate(track[20000:30000], piece, "valid") / np.dot(piece, piece)
        offset = int(np.argmax(match * np.sign(weight)))
        assert match[offset] == pytest.approx(weight, abs=0.05)
        assert 2 * HOP <= offset <= 2500
    latency = session.devices.connection.fill + HOP + loop(session, server)
    np.testing.assert_allclose(
        recording[latency:, 0], 0.75 * x[: len(recording) - latency, 0], atol=1e-5
    )
    assert (xruns, stats.device.underruns) == (0, 0)


@pytest.mark.parametrize("server", [{"channels": 4}], indirect=True)
@jack_rig.on_a_steady_machine
def test_stems_side_by_side_on_one_device_and_averaged_inputs(server):
    x = np.repeat(sound(16000 * 3, 16000), 4, axis=1)
    x[:, 3] *= -0.5
    x[:, :2] = 0.3  # not requested
    separator = FixedWeights()
    session = Session(
        StreamRequest(input_channels=(3, 4)),
        separator=separator,
        mixer=Mixer(rtmtass.STEMS, 16000, is_split=True),
    )
    with session:
        recording, xruns = jack_rig.Loudspeaker(server, x, 3, n_speakers=3).recorded()
    latency = session.devices.connection.fill + HOP + loop(session, server)
    for weight, track in zip(separator.weights, recording.T, strict=True):
        np.testing.assert_allclose(
            track[latency:], weight * 0.25 * x[: len(recording) - latency, 2], atol=1e-5
        )
    assert xruns == 0


@jack_rig.on_a_steady_machine
def test_two_clocks_keep_their_latency(server, monkeypatch):
    """One server opened as two devices: no drift, constant latency."""
    monkeypatch.setattr(stream_config, "have_one_clock", lambda *_: False)
    seconds = 6
    x = sound(16000 * seconds, 16000)
    with Session(mixer=Mixer(rtmtass.STEMS, 16000)) as session:
        recording, xruns = jack_rig.Loudspeaker(server, x, seconds).recorded()
        stats = session.engine.stats()

    def lag(start):
        piece = x[start : start + 4000, 0]
        window = recording[start : start + 4000 + 4000, 0]
        return int(np.argmax(np.correlate(window, piece, "valid")))

    lags = [lag(start) for start in range(16000, 16000 * (seconds - 1), 8000)]
    assert max(lags) - min(lags) <= 32  # 2 ms while the loop settles
    assert stats.device.underruns == 0
    assert abs(stats.device.drift_ppm) < 1e6 * DriftControl.LIMIT  # the loop isn't limited
    assert xruns == 0
