"""Sources and sinks of `rtmtass live --source` and `--sink`, over real UDP sockets and jackd."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import jack_rig
import numpy as np
import pytest
import soundfile
from fakes import FakeSeparator

from rtmtass.cli.main import main
from rtmtass.errors import InputError, OutputError, UsageError
from rtmtass.io import udp
from rtmtass.io.udp import UdpSink, UdpSource
from rtmtass.live.devices.stream_config import StreamRequest
from rtmtass.live.endpoints import SINKS, SOURCES, StreamFormat, parse_sink, parse_source
from rtmtass.live.full_band import HopSchedule

MISSING = jack_rig.missing_parts()
IS_CI = os.environ.get("CI") == "true"
on_a_sound_card = pytest.mark.skipif(bool(MISSING) and not IS_CI, reason=MISSING)

RATE, HOP = 16000, 256
FORMAT = StreamFormat(RATE, 1)
COMMAND = [sys.executable, "-m", "rtmtass", "live", "--json"]
TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def card():
    server = jack_rig.JackServer(rate=48000, period=256, channels=2)
    yield server
    server.close()


def sound(n, seed=0):
    rng = np.random.default_rng(seed)
    t = np.arange(n) / RATE
    tone = np.sin(2 * np.pi * 220 * t) * (1 + np.sin(2 * np.pi * 3 * t))
    return (0.1 * (tone + 0.5 * rng.standard_normal(n))).astype(np.float32)[:, None]


def free_port():
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def live(*words):
    environment = {
        **os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    return subprocess.Popen(
        [*COMMAND, *map(str, words)],
        text=True,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


class Receiver:
    """Reads a UDP stream to its end in a thread."""

    def __init__(self):
        self._source, self._blocks = UdpSource("127.0.0.1", 0, RATE), []
        self.port = self._source.port
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        out = np.zeros((1000, 1), np.float32)
        while n := self._source.read(out):
            self._blocks.append(out[:n, 0].copy())

    def received(self):
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()
        self._source.close()
        return np.concatenate(self._blocks)


def send(port, x, stop=None):
    """Send at the pace of real time until the end of `x`, or forever until `stop` is set."""
    sink, start, position = UdpSink("127.0.0.1", port), time.monotonic(), 0
    while stop is None or not stop.is_set():
        block = x[position % len(x) :][:HOP]
        sink.write(block[None])
        position += len(block)
        if stop is None and position >= len(x):
            break
        time.sleep(max(0.0, start + position / RATE - time.monotonic()))
    sink.close()


def finish(process):
    stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, stderr
    lines = [json.loads(line) for line in stdout.splitlines()]
    return [line for line in lines if not {"event", "summary"} & set(line)]


def wait_for_line(process):
    """Return the first statistics: the streams are open by then."""
    line = process.stdout.readline()
    assert line, process.stderr.read()
    return json.loads(line)


# --- names


def test_endpoints_are_parsed_and_opened(tmp_path):
    port = free_port()
    source = parse_source(f"udp:127.0.0.1:{port}").open(StreamFormat(48000, 2))
    assert isinstance(source, UdpSource)
    assert (source.port, source.sample_rate, source.channels) == (port, 48000, 2)
    sink = parse_sink(f"udp:localhost:{port}").open(FORMAT)
    sink.write(np.ones((1, 4, 2), np.float32))
    out = np.zeros((9, 2), np.float32)
    assert source.read(out) == 4
    sink.close()
    assert source.read(out) == 0
    source.close()
    soundfile.write(tmp_path / "a:b.wav", sound(100), 44100)
    file = parse_source(f"file:{tmp_path}/a:b.wav").open(FORMAT)
    assert (file.sample_rate, file.channels) == (44100, 1)
    file.close()
    assert parse_source("udp:9000").location == ("0.0.0.0", 9000)


@pytest.mark.parametrize("parse", [parse_source, parse_sink])
def test_an_unknown_scheme_lists_the_known_ones(parse):
    schemes = SOURCES if parse is parse_source else SINKS
    for text in ("", "microphone", "http://host/stream", ":9000"):
        with pytest.raises(UsageError, match="has no known scheme; write it as") as caught:
            parse(text)
        assert all(scheme.form in str(caught.value) for scheme in schemes.values())


@pytest.mark.parametrize("port", ["", "0", "65536", "-1", "abc", "1.5", "²"])
def test_an_invalid_port_is_refused(port):
    for parse in (parse_source, parse_sink):
        with pytest.raises(UsageError, match=r"not a port, 1 to 65535; write it as udp:"):
            parse(f"udp:host:{port}")


def test_endpoints_that_cannot_be_opened():
    host = "no.such.host.invalid"
    with pytest.raises(InputError, match=rf"'{host}' can't be resolved: .*; check the spelling"):
        parse_source(f"udp:{host}:9000").open(FORMAT)
    with pytest.raises(OutputError, match=rf"'{host}' can't be resolved: .*; check the spelling"):
        parse_sink(f"udp:{host}:9000").open(FORMAT)
    with pytest.raises(InputError, match="doesn't exist"):
        parse_source("file:none.wav").open(FORMAT)
    with (
        contextlib.closing(UdpSource("127.0.0.1", 0, RATE)) as taken,
        pytest.raises(InputError, match="can't listen on UDP"),
    ):
        parse_source(f"udp:127.0.0.1:{taken.port}").open(FORMAT)


# --- the command


def test_a_file_to_udp_without_any_device(tmp_path):
    x, receiver = sound(2 * RATE), Receiver()
    soundfile.write(tmp_path / "talk.wav", x, RATE, "FLOAT")
    words = ("--extra-buffer", 250)  # so that a busy computer doesn't matter
    started = time.monotonic()
    sink = f"udp:127.0.0.1:{receiver.port}"
    process = live("--source", f"file:{tmp_path}/talk.wav", "--sink", sink, *words)
    lines = finish(process)
    assert time.monotonic() - started > 2.0
    received = receiver.received()
    assert len(received) == len(x) + HOP
    np.testing.assert_allclose(received[HOP:], x[:, 0], atol=1e-5)  # all stems at 0 dB
    assert lines[0]["device"]["latency"]["total_ms"] == 32


def test_udp_to_udp_with_stems_side_by_side():
    x, port, receiver = sound(RATE), free_port(), Receiver()
    process = live("--source", f"udp:{port}", "--sink", f"udp:127.0.0.1:{receiver.port}",
                   "--stems-out")  # fmt: skip
    wait_for_line(process)
    send(port, x)
    lines = finish(process)
    stems = receiver.received().reshape(-1, 3)
    np.testing.assert_allclose(stems.sum(axis=1)[HOP:], x[:, 0], atol=1e-5)
    assert all(line["deadline_misses"] == 0 for line in lines)


def test_a_file_with_too_few_channels(tmp_path):
    soundfile.write(tmp_path / "mono.wav", sound(RATE), RATE)
    words = ("--source", f"file:{tmp_path}/mono.wav", "--sink", "udp:localhost:9")
    process = live("--channels", 2, *words)
    _, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 2
    assert stderr.endswith("has 1 channels, but --channels 2 was given; give --channels 1\n")


@on_a_sound_card
def test_a_device_to_udp(card):
    receiver = Receiver()
    process = live("--sink", f"udp:127.0.0.1:{receiver.port}", "--duration", 4, *jack_rig.INPUT)
    x = (0.3 * np.sin(2 * np.pi * 440 * np.arange(8 * 48000) / 48000)).astype(np.float32)
    microphone = jack_rig.Loudspeaker(card, x[:, None], 8, n_speakers=0)
    lines = finish(process)
    microphone.close()
    received = receiver.received()
    assert np.abs(received).max() > 0.1
    assert lines[-1]["device"]["latency"]["buffer_ms"] == 0
    assert lines[-1]["device"]["overruns"] == 0


@on_a_sound_card
def test_udp_to_a_device(card):
    port, stop = free_port(), threading.Event()
    process = live("--source", f"udp:{port}", "--duration", 6, *jack_rig.OUTPUT)
    sender = threading.Thread(target=send, args=(port, sound(RATE), stop))
    wait_for_line(process)
    sender.start()
    loudspeaker = jack_rig.Loudspeaker(card, np.zeros((0, 0), np.float32), 2)
    recording, _ = loudspeaker.recorded()
    lines = finish(process)
    stop.set()
    sender.join(TIMEOUT_S)
    assert np.sqrt((recording[24000:] ** 2).mean()) > 0.02
    assert lines[-1]["device"]["state"] == "running"
    assert lines[-1]["device"]["latency"]["buffer_ms"] > 0


@pytest.mark.parametrize(
    "words",
    [("--rate", "999999999"), ("--rate", "0"), ("--rate=-1",), ("--rate", "nan"), ("--rate", "1"),
     ("--rate", "9" * 5000), ("--block", "999999999"), ("--block", "0"), ("--channels", "99"),
     ("--extra-buffer", "inf"), ("--extra-buffer", "99999"), ("--input-channels", "0")],
    ids=lambda words: "-".join(words)[:25],
)  # fmt: skip
def test_absurd_sizes_are_one_line_before_anything_is_opened(words, capsys):
    with pytest.raises(SystemExit) as caught:
        raise SystemExit(main(["live", *words]))
    assert caught.value.code == 2
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert re.search(r"give|takes|write|choose|too large", line), line
    assert len(line) < 300


@pytest.mark.parametrize("rate", [0, -1, 1, 999_999_999, float("nan")])
def test_no_memory_is_asked_for_an_absurd_rate(rate):
    with pytest.raises(UsageError, match=r"live takes 2000 to 768000 Hz, as in --rate 48000"):
        StreamFormat(rate, 1)
    with pytest.raises(UsageError, match="live takes 2000 to 768000 Hz"):
        StreamRequest(sample_rate=rate)
    with pytest.raises(UsageError, match="live takes 2000 to 768000 Hz"):
        HopSchedule(FakeSeparator(), rate)


def test_absurd_channels_of_a_stream_are_refused():
    for channels in (0, -1, 999_999_999):
        with pytest.raises(UsageError, match="give 1 to 64"):
            StreamFormat(RATE, channels)


# --- strangers and damage


def datagrams(port, *payloads, sender=None):
    """Send datagrams from a socket of their own, or from `sender`; return it."""
    sender = sender or socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for payload in payloads:
        sender.sendto(payload, ("127.0.0.1", port))
    return sender


def floats(*values):
    return np.array(values, "<f4").tobytes()


STRANGE = {
    "NaN": floats(np.nan, 0.5), "Inf": floats(np.inf), "absurd": floats(1e30, 1e19),
    "empty": b"", "odd": floats(1, 2, 3)[:-1], "one byte": b"x", "huge": bytes(65507),
    "text": b"GET / HTTP/1.1\r\n\r\n1",
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "comes_first"),
    # Whole frames of silence that come first are a stream like any other.
    [*((kind, False) for kind in STRANGE), *((kind, True) for kind in STRANGE if kind != "huge")],
)
def test_a_strangers_datagram_neither_ends_nor_changes_a_stream(kind, comes_first):
    told: list[str] = []
    with contextlib.closing(UdpSource("127.0.0.1", 0, RATE, on_message=told.append)) as source:
        out = np.zeros((8, 1), np.float32)
        stranger = None
        if comes_first:
            stranger = datagrams(source.port, STRANGE[kind])
        sender = datagrams(source.port, floats(1, 2, 3))
        if not comes_first:
            stranger = datagrams(source.port, *3 * [STRANGE[kind]])
        datagrams(source.port, floats(4), b"", sender=sender)
        received = []
        while n := source.read(out):
            received += list(out[:n, 0])
        assert received == [1, 2, 3, 4]
        assert source.dropped == (1 if comes_first else 3)
        assert len(told) == 1
        assert re.match(r"a datagram from 127.0.0.1:\d+ was dropped: .+; further ones are", told[0])
        assert stranger is not None
        stranger.close()
        sender.close()
    assert len(told) == (1 if comes_first else 2)
    assert comes_first or told[1].endswith("3 datagrams dropped, 0 silenced")


def test_damage_in_the_senders_own_stream_becomes_silence_of_the_same_length():
    told: list[str] = []
    with contextlib.closing(UdpSource("127.0.0.1", 0, RATE, on_message=told.append)) as source:
        parts = floats(1, 2), floats(3, np.nan), floats(4, 1e30), b"odd", floats(5), b""
        sender = datagrams(source.port, *parts)
        out = np.zeros((9, 1), np.float32)
        received = []
        while n := source.read(out):
            received += list(out[:n, 0])
        assert received == [1, 2, 0, 0, 0, 0, 5]
        assert (source.dropped, source.silenced) == (1, 2)
        sender.close()
    assert len(told) == 3


def test_a_sender_that_is_restarted_takes_over(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(udp.time, "monotonic", lambda: now[0])
    with contextlib.closing(UdpSource("127.0.0.1", 0, RATE)) as source:
        out = np.zeros((9, 1), np.float32)
        first = datagrams(source.port, floats(1))
        assert source.read(out) == 1
        now[0] += 1.5
        second = datagrams(source.port, floats(2))
        assert source.read(out) == 1
        datagrams(source.port, b"", floats(8), sender=first)  # no longer the stream's
        datagrams(source.port, b"", sender=second)
        assert source.read(out) == 0
        assert source.dropped == 2
        first.close()
        second.close()


def test_a_flood_of_strange_datagrams_takes_no_memory():
    told: list[str] = []
    with contextlib.closing(UdpSource("127.0.0.1", 0, RATE, on_message=told.append)) as source:
        sender = datagrams(source.port, floats(1))
        out, stranger = np.zeros((9, 1), np.float32), None
        source.read(out)
        tracemalloc.start()
        for turn in range(300):
            stranger = datagrams(source.port, *STRANGE.values(), sender=stranger)
            datagrams(source.port, floats(turn), sender=sender)
            assert source.read(out) == 1
            assert out[0, 0] == turn
            if turn == 50:
                before = tracemalloc.get_traced_memory()[0]
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        assert grown < 20_000
        assert source.dropped == 300 * len(STRANGE)
        assert len(told) == 1
        assert stranger is not None
        stranger.close()
        sender.close()
