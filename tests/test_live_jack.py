"""A real PortAudio stream over a jackd without a sound card: what is promised, measured."""

from __future__ import annotations

import os
import signal
import time

import jack_rig
import numpy as np
import pytest
import soundfile

import rtmtass
from rtmtass.dsp.live_resample import Converter
from rtmtass.live import os_priority as grants
from rtmtass.live.devices import portaudio
from rtmtass.live.devices import stream_config as shape
from rtmtass.live.devices.device_io import DeviceIO
from rtmtass.live.devices.drift import DriftControl
from rtmtass.live.devices.stream_config import StreamRequest
from rtmtass.live.engine import Engine
from rtmtass.live.mixer import Mixer
from rtmtass.live.recorder import TakeRecorder

MISSING = jack_rig.missing_parts()
IS_CI = os.environ.get("CI") == "true"
pytestmark = pytest.mark.skipif(bool(MISSING) and not IS_CI, reason=MISSING)

HOP = 256
SECONDS = float(os.environ.get("RTMTASS_JACK_SECONDS", "60"))
GAINS = {"speech": 0.0, "music": -20.0, "noise": -np.inf}
LOOP_PERIODS = 2
"""From the fake microphone to the fake loudspeaker through a stream that only copies: measured."""


@pytest.fixture(autouse=True)
def undisturbed():
    """Run as `rtmtass live` does: no ordinary program gets in while this one holds the lock."""
    with grants.realtime_interpreter():
        grants.request_priority(grants.OTHER_PRIORITY)
        yield
    grants.drop_priority()


@pytest.fixture
def server(request):
    made = jack_rig.JackServer(**getattr(request, "param", {}))
    try:
        portaudio.restart_portaudio()
        yield made
    finally:
        portaudio.close_portaudio()
        made.close()


def sound(n, rate, seed=0):
    """Something like speech over hum and noise, at any rate."""
    rng = np.random.default_rng(seed)
    t = np.arange(n) / rate
    voice = sum(np.sin(2 * np.pi * 140 * k * t) / k for k in range(1, 12))
    voice *= np.clip(np.sin(2 * np.pi * 2.7 * t), 0, None)
    hum = np.sin(2 * np.pi * 523 * t) + np.sin(2 * np.pi * 659 * t)
    return (0.12 * voice + 0.06 * hum + 0.03 * rng.standard_normal(n)).astype(np.float32)[:, None]


class Session:
    """An engine between the devices of a server; everything it captured is kept."""

    def __init__(self, request=None, *, separator=None, mixer=None, messages=None, recorder=None):
        self.separator = separator or rtmtass.load(block=HOP)
        tell = None if messages is None else messages.append
        n_rows = mixer.n_rows if mixer else 1
        self.link = DeviceIO(
            request or StreamRequest(), self.separator, n_rows=n_rows, on_message=tell
        )
        self.captured = []
        read = self.link.wire.capture.read

        def tapped(out):
            n = read(out)
            self.captured.append(out[:n].copy())
            return n

        self.link.wire.capture.read = tapped
        self.mixer = mixer or Mixer(self.separator.stems, 16000, gains_db=GAINS)
        self.engine = Engine(
            self.separator, self.link, self.link, mixer=self.mixer, recorder=recorder,
            is_realtime=True,
        )  # fmt: skip
        self.engine.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.engine.stop()

    def place_of(self, x):
        """Return the captured sound, and where in it `x` begins, to the bit."""
        captured = np.concatenate(self.captured)[:, 0]
        start = int(np.flatnonzero(captured == x[100, 0])[0]) - 100
        there = captured[start : start + len(x)]
        np.testing.assert_array_equal(there, x[: len(there), 0])
        return captured, start


def wait_for(claim, patience_s=20.0):
    deadline = time.monotonic() + patience_s
    while not claim():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def mixed(separator, captured):
    stems = separator.fork(block=1).separate(captured)
    return sum(10 ** (gain / 20) * stem for gain, stem in zip(GAINS.values(), stems, strict=True))


@pytest.mark.parametrize(
    "server", [{"period": 256}, {"period": 128}], indirect=True, ids=["16ms", "8ms"]
)
@jack_rig.on_a_steady_machine
def test_the_loudspeaker_plays_what_the_separator_gives(server):
    seconds = SECONDS if server.period == 256 else 2.0
    x = sound(int(16000 * seconds) // server.period * server.period, 16000)
    with Session(StreamRequest(block=server.period)) as session:
        speaker = jack_rig.Loudspeaker(server, x, seconds)
        heard, xruns = speaker.heard()
        stats = session.engine.stats()
    captured, start = session.place_of(x)
    late = session.link.wire.fill + session.separator.delay
    assert late == 512  # 32 ms: not a sample more than the algorithm's
    late += LOOP_PERIODS * server.period
    device = stats.device
    assert (xruns, device.xruns, device.overruns, device.underruns, device.reopened) == (0,) * 5
    assert (stats.deadline_misses, stats.skipped) == (0, 0)
    expected = mixed(session.separator, captured)[start - late :][: len(heard)]
    np.testing.assert_allclose(heard[:, 0], expected, atol=1e-5)
    assert np.abs(expected[late:] - x[: len(heard) - late, 0]).max() > 0.05  # it isn't the input


@pytest.mark.parametrize("server", [{"rate": 48000, "channels": 2}], indirect=True)
@jack_rig.on_a_steady_machine
def test_a_stereo_device_at_48_khz(server):
    x = np.repeat(sound(48000 * 4, 48000), 2, axis=1)
    x[:, 1] *= -0.5  # the first channel is chosen: the second must not be heard
    with Session() as session:
        assert session.link.wire.shape.rates == (48000, 48000)
        heard, xruns = jack_rig.Loudspeaker(server, x, 4, n_speakers=2).heard()
        stats = session.engine.stats()
    captured, start = session.place_of(x[:, :1])
    down = Converter(48000, 16000, 1, len(captured))
    at_model = np.zeros((down.room, 1), np.float32)
    n = down.process(captured[:, None], at_model)
    up = Converter(16000, 48000, 1, n)
    back = np.zeros((up.room, 1), np.float32)
    n = up.process(mixed(session.separator, at_model[:n, 0]).astype(np.float32)[:, None], back)
    expected = back[start:n, 0]
    late = session.link.wire.fill + 3 * session.separator.delay + LOOP_PERIODS * server.period
    n = min(len(heard) - late, len(expected))
    for channel in range(2):
        np.testing.assert_allclose(heard[late : late + n, channel], expected[:n], atol=1e-5)
    assert n > 3.8 * 48000
    assert (xruns, stats.device.underruns, stats.deadline_misses) == (0, 0, 0)
    # Beyond the algorithm: at most a block of the device and a hop.
    assert session.link.wire.fill - 3 * HOP <= session.link.wire.shape.blocks[1] + 3 * HOP


@jack_rig.on_a_steady_machine
def test_gains_change_on_the_air_without_a_click(server):
    t = np.arange(16000 * 4) / 16000
    x = (0.4 * np.sin(2 * np.pi * 200 * t)).astype(np.float32)[:, None]
    with Session(mixer=Mixer(rtmtass.STEMS, 16000)) as session:
        speaker = jack_rig.Loudspeaker(server, x, 4)
        speaker.wait_until_playing()
        for turn in range(12):
            time.sleep(0.2)
            for stem in rtmtass.STEMS:
                session.mixer.set_gain(stem, -40.0 if turn % 2 else 0.0)
        heard, xruns = speaker.heard()
    inner = heard[2000:-2000, 0]
    levels = np.abs(inner[: len(inner) // 400 * 400].reshape(-1, 400)).max(axis=1)
    assert levels.max() > 0.35
    assert levels.min() < 0.01
    assert np.abs(np.diff(inner)).max() <= 1.02 * np.abs(np.diff(x[:, 0])).max()
    assert xruns == 0


class Slow:
    """The real separator, but the computer is far too slow whenever `is_slow`."""

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
def test_a_computer_too_slow_lets_the_input_through_on_time(server):
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
        heard, _ = speaker.heard()
        stats = session.engine.stats()
    # All stems at 0 dB are the input, so it must be heard all along: never late, never a click.
    late = session.link.wire.fill + HOP + LOOP_PERIODS * server.period
    np.testing.assert_allclose(heard[late:, 0], x[: len(heard) - late], atol=0.02)
    assert np.abs(np.diff(heard[:, 0])).max() <= 1.1 * np.abs(np.diff(x)).max()
    assert stats.deadline_misses + stats.skipped > 20
    assert "too slow" in during.advice
    assert stats.device.underruns == 0
    np.testing.assert_allclose(
        heard[-8000:, 0], x[len(heard) - late - 8000 : len(heard) - late], atol=1e-5
    )


@jack_rig.on_a_steady_machine
def test_a_sound_server_that_dies_and_comes_back(server):
    messages, x = [], sound(16000 * 3, 16000)
    with Session(messages=messages) as session:
        for _ in range(2):
            time.sleep(0.5)
            server.kill()
            wait_for(lambda: session.engine.stats().state == "reconnecting")
            server.start()
            wait_for(lambda: session.engine.stats().state == "running")
        speaker = jack_rig.Loudspeaker(server, x, 3)
        speaker.wait_until_playing()
        before = session.engine.stats()
        heard, xruns = speaker.heard()
        stats = session.engine.stats()
    late = session.link.wire.fill + HOP + LOOP_PERIODS * server.period
    sums = np.correlate(heard[:, 0], x[8000:16000, 0], "valid")
    assert abs(int(np.argmax(sums)) - 8000 - late) <= 3 * HOP  # the mix isn't the input, but near
    assert stats.device.reopened == 2
    assert stats.device.underruns == before.device.underruns
    assert xruns == 0
    assert messages == 2 * ["system is gone; trying to open it again", "system is back"]


@jack_rig.on_a_steady_machine
def test_a_sound_server_that_stands_still_is_waited_for(server):
    messages = []
    with Session(messages=messages) as session:
        time.sleep(0.5)
        os.kill(server.process.pid, signal.SIGSTOP)
        wait_for(lambda: session.engine.stats().state == "waiting")
        os.kill(server.process.pid, signal.SIGCONT)
        wait_for(lambda: session.engine.stats().state == "running")
        heard, _ = jack_rig.Loudspeaker(server, sound(16000 * 2, 16000), 2).heard()
    assert messages[:2] == ["system has fallen silent; waiting for it", "system is back"]
    assert np.abs(heard[16000:]).max() > 0.05


@jack_rig.on_a_steady_machine
def test_a_sound_server_that_stands_still_and_then_dies(server):
    messages = []
    with Session(messages=messages) as session:
        time.sleep(0.5)
        os.kill(server.process.pid, signal.SIGSTOP)
        wait_for(lambda: session.engine.stats().state == "waiting")
        server.kill()
        wait_for(lambda: session.engine.stats().state == "reconnecting")
        server.start()
        wait_for(lambda: session.engine.stats().state == "running")
        heard, _ = jack_rig.Loudspeaker(server, sound(16000 * 2, 16000), 2).heard()
    assert messages[-2:] == ["system is gone; trying to open it again", "system is back"]
    assert np.abs(heard[16000:]).max() > 0.05


@jack_rig.on_a_steady_machine
def test_a_sound_server_that_comes_back_at_another_rate(server, tmp_path):
    separator = rtmtass.load(block=HOP)
    recorder = TakeRecorder(tmp_path, separator.stems, 16000)
    with Session(separator=separator, recorder=recorder) as session:
        recorder.start()
        time.sleep(1)
        server.kill()
        wait_for(lambda: session.engine.stats().state == "reconnecting")
        server.rate, server.channels = 48000, 2
        server.start()
        wait_for(lambda: session.engine.stats().state == "running")
        assert session.link.wire.shape.rates == (48000, 48000)
        x = sound(48000 * 3, 48000)
        heard, _ = jack_rig.Loudspeaker(server, x, 3).heard()
        stats = session.engine.stats()
    assert stats.device.reopened == 1
    assert np.abs(heard[48000:]).max() > 0.05
    (take,) = tmp_path.glob("take-*")
    tracks = {p.stem: soundfile.read(p, dtype="float32")[0] for p in take.glob("*.wav")}
    assert len({len(track) for track in tracks.values()}) == 1
    mixture = tracks.pop("mixture")
    assert len(mixture) > 3 * 16000
    assert np.abs(mixture).max() > 0.05
    # The first hops after the gap know no past: there stems are missing, nowhere else.
    off = np.abs(sum(tracks.values()) - mixture).reshape(-1, HOP).max(axis=1)
    assert (off > 1e-4).sum() <= 3


@jack_rig.on_a_steady_machine
def test_a_device_that_comes_back_unfit_is_tried_until_it_fits(server):
    messages = []
    with Session(StreamRequest(input="system", sample_rate=16000), messages=messages) as session:
        time.sleep(0.3)
        for rate in (48000, 16000):
            server.kill()
            server.rate = rate
            server.start()
            wait_for(lambda: session.engine.stats().state != "running")
            if rate == 48000:
                wait_for(lambda: any("doesn't take 16000 Hz" in line for line in messages))
        wait_for(lambda: session.engine.stats().state == "running")
    assert sum("doesn't take 16000 Hz" in line for line in messages) == 1  # not at every try
    assert messages[-1] == "system is back"


class Thirds:
    """A separator whose stems are known: parts of the input, and one upside down."""

    stems, sample_rate, hop, delay, algorithmic_latency, channels = (
        rtmtass.STEMS, 16000, HOP, HOP, 2 * HOP, 1,
    )  # fmt: skip
    parts = (0.75, 0.5, -0.25)

    def __init__(self):
        self._before = np.zeros((HOP, 1), np.float32)

    def process_into(self, block, out, highband_weights):
        for part, stem in zip(self.parts, out, strict=True):
            stem[:] = part * self._before
        self._before[:] = block

    def reset(self):
        self._before[:] = 0


@jack_rig.on_a_steady_machine
def test_every_stem_has_a_device_of_its_own(server):
    seconds = 4
    t = np.arange(16000 * seconds) / 16000
    chirps = np.sin(2 * np.pi * (200 + 100 * np.sin(2 * np.pi * 0.7 * t)) * t)
    x = (0.3 * chirps).astype(np.float32)[:, None]
    separator = Thirds()
    session = Session(
        StreamRequest(output="system", more_outputs=("system", "system")),
        separator=separator,
        mixer=Mixer(rtmtass.STEMS, 16000, is_split=True),
    )
    with session:
        heard, xruns = jack_rig.Loudspeaker(server, x, seconds, n_speakers=3).heard()
        stats = session.engine.stats()
    for part, track in zip(separator.parts, heard.T, strict=True):
        piece = x[20000:24000, 0]
        match = np.correlate(track[20000:30000], piece, "valid") / np.dot(piece, piece)
        at = int(np.argmax(match * np.sign(part)))
        assert match[at] == pytest.approx(part, abs=0.05)
        assert 2 * HOP <= at <= 2500
    late = session.link.wire.fill + HOP + LOOP_PERIODS * server.period
    np.testing.assert_allclose(heard[late:, 0], 0.75 * x[: len(heard) - late, 0], atol=1e-5)
    assert (xruns, stats.device.underruns) == (0, 0)


@pytest.mark.parametrize("server", [{"channels": 4}], indirect=True)
@jack_rig.on_a_steady_machine
def test_every_stem_has_a_channel_of_one_device_and_two_inputs_are_averaged(server):
    x = np.repeat(sound(16000 * 3, 16000), 4, axis=1)
    x[:, 3] *= -0.5
    x[:, :2] = 0.3  # not asked for
    separator = Thirds()
    session = Session(
        StreamRequest(input_channels=(3, 4)),
        separator=separator,
        mixer=Mixer(rtmtass.STEMS, 16000, is_split=True),
    )
    with session:
        heard, xruns = jack_rig.Loudspeaker(server, x, 3, n_speakers=3).heard()
    late = session.link.wire.fill + HOP + LOOP_PERIODS * server.period
    for part, track in zip(separator.parts, heard.T, strict=True):
        np.testing.assert_allclose(track[late:], part * 0.25 * x[: len(heard) - late, 2], atol=1e-5)
    assert xruns == 0


@jack_rig.on_a_steady_machine
def test_two_clocks_keep_their_distance(server, monkeypatch):
    """One server as two devices, opened apart: no drift to find, and no latency to lose."""
    monkeypatch.setattr(shape, "have_one_clock", lambda *_: False)
    seconds = 6
    x = sound(16000 * seconds, 16000)
    with Session(mixer=Mixer(rtmtass.STEMS, 16000)) as session:
        heard, xruns = jack_rig.Loudspeaker(server, x, seconds).heard()
        stats = session.engine.stats()

    def lag(at):
        piece = x[at : at + 4000, 0]
        window = heard[at : at + 4000 + 4000, 0]
        return int(np.argmax(np.correlate(window, piece, "valid")))

    lags = [lag(at) for at in range(16000, 16000 * (seconds - 1), 8000)]
    assert max(lags) - min(lags) <= 32  # 2 ms while the loop settles
    assert stats.device.underruns == 0
    assert abs(stats.device.drift_ppm) < 1e6 * DriftControl.LIMIT  # the loop is in its range
    assert xruns == 0
