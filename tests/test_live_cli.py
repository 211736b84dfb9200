"""`rtmtass live` and `latency` by subprocess, on a jackd with a dummy driver."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import jack_rig
import numpy as np
import pytest
import soundfile
from test_live_session import COMPILING

from rtmtass.cli.live_display import parse_keys
from rtmtass.cli.main import main
from rtmtass.live.controls import Controls
from rtmtass.live.mixer import Mixer

MISSING = jack_rig.missing_parts()
IS_CI = os.environ.get("CI") == "true"
on_a_sound_card = pytest.mark.skipif(bool(MISSING) and not IS_CI, reason=MISSING)

STEMS = ("speech", "music", "noise")
DEVICES = (*jack_rig.INPUT, *jack_rig.OUTPUT)
COMMAND = [sys.executable, "-m", "rtmtass"]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(Path(__file__).parent.parent),
    "OMP_NUM_THREADS": "1",
}
TIMEOUT_S = 40.0


@pytest.fixture(scope="module")
def card():
    server = jack_rig.JackServer(rate=48000, period=256, channels=2)
    yield server
    server.close()


def run(*words, code=0):
    done = subprocess.run(
        [*COMMAND, *words],
        capture_output=True,
        text=True,
        env={**ENVIRONMENT, **os.environ},
        timeout=120,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done


def start(*words):
    return subprocess.Popen(
        [*COMMAND, *words],
        text=True,
        env={**ENVIRONMENT, **os.environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


# --- keys


def test_keys_change_the_mix():
    mixer = Mixer(STEMS, 16000)
    controls = Controls(mixer)
    for key in parse_keys("\x1b[C\x1b[B\x1b[Bm]]"):
        controls.press(key)
    assert controls.selected == "music"
    assert mixer.settings.gains_db["music"] == -2
    assert mixer.settings.muted == {"music"}
    assert mixer.settings.strength_db == math.inf
    for key in "[[b":
        controls.press(key)
    assert mixer.settings.strength_db == 57
    assert mixer.settings.is_bypassed
    for _ in range(70):
        controls.press("down")
    assert controls.state().gains_db["music"] is None
    controls.press("up")
    assert controls.state().gains_db["music"] == -60
    for key in ("0", "s", "x", "r", "q"):
        controls.press(key)
    assert mixer.settings.gains_db == dict.fromkeys(STEMS, 0.0)
    assert controls.state().soloed == ("music",)
    assert controls.has_quit


# --- the command line


@pytest.mark.parametrize(("words", "code", "line"), [
    (["--plain", "--json"], 2, "rtmtass: --plain and --json exclude each other; give one"),
    (["--record-mix"], 2, "rtmtass: --record-mix goes with a recording, and without a display"),
    (["--record-mix", "--plain"], 2, "rtmtass: --record-mix goes with a recording, and without"),
    (["--gain", "speech"], 2, "rtmtass: argument --gain: 'speech' is not STEM=DB; write it as in"),
    (["--duration", "0"], 2, "rtmtass: argument --duration: '0' is not a time in seconds; give"),
    (["--duration", "long"], 2, "rtmtass: argument --duration: 'long' is not a time in seconds"),
    (["--stems-out", "a,b"], 2, "rtmtass: --stems-out takes 3 devices, for speech, music, noise"),
    (["--strength", "-1"], 2, "rtmtass: argument --strength: '-1' is not a level in dB; give 0"),
    (["--extra-buffer", "-1"], 2, "rtmtass: argument --extra-buffer: '-1' is not a time in ms;"),
    (["--slack", "900"], 2, "rtmtass: an extra buffer of 900 ms was given; give 0 to 250 ms"),
    (["--block", "0"], 2, "rtmtass: argument --block: '0' is not a whole number; give 1"),
    (["--block", "99999"], 2, "rtmtass: a block of 99999 samples was given; give 1 to 8192"),
    (["--rate", "48k"], 2, "rtmtass: argument --rate: '48k' is not a whole number; give 1"),
    (["--input-channels", "left"], 2, "rtmtass: argument --input-channels: 'left' is not a list"),
    (["--input-channels", "0"], 2, "rtmtass: argument --input-channels: '0' is not a list"),
    (["--gain", "vocals=0"], 2, "rtmtass: unknown stem 'vocals'; choose from speech, music"),
    (["--record", "/dev/null/x"], 1, "rtmtass: /dev/null/x can't be written"),
    (["--source", "9000"], 2, "rtmtass: argument --source: '9000' has no known scheme; write it as"
     " udp:[HOST:]PORT or file:PATH"),
    (["--source", "ws:a:1"], 2, "rtmtass: argument --source: 'ws:a:1' has no known scheme; write"),
    (["--sink", "file:a"], 2, "rtmtass: argument --sink: 'file:a' has no known scheme; write it as"
     " udp:HOST:PORT"),
    (["--source", "udp:mic"], 2, "rtmtass: argument --source: 'udp:mic': 'mic' is not a port, 1 to"
     " 65535; write it as udp:[HOST:]PORT"),
    (["--sink", "udp:9000"], 2, "rtmtass: argument --sink: 'udp:9000': the host to send to is"),
    (["--sink", "udp:host:0"], 2, "rtmtass: argument --sink: 'udp:host:0': '0' is not a port, 1"),
    (["--source", "file:"], 2, "rtmtass: argument --source: 'file:' names no location; write it"),
    (["--source", "udp:9000", "--input", "1"], 2, "rtmtass: --input is for devices, but --source"
     " udp:9000 takes the place of one; leave out --input or --source"),
    (["--sink", "udp:a:9", "--stems-out", "a,b,c"], 2, "rtmtass: --stems-out with devices is for"),
    (["--sink", "udp:a:9", "--measure"], 2, "rtmtass: --measure is for devices, but --sink"),
    (["--source", "file:none.wav"], 1, "rtmtass: none.wav doesn't exist; check the spelling"),
    (["--source", "udp:no.such.host.invalid:9000"], 1, "rtmtass: the host 'no.such.host.invalid'"
     " can't be resolved: "),
])  # fmt: skip
def test_invalid_options_are_refused_in_one_line(capsys, words, code, line):
    try:
        exit_code: str | int | None = main(["live", *words])
    except SystemExit as stop:
        exit_code = stop.code
    assert exit_code == code
    assert capsys.readouterr().err.startswith(line)


def test_the_start_of_the_process_is_known():
    code = "from rtmtass.live.process_clock import process_start_s; print(process_start_s())"
    before = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    if done.stdout.strip() == "None":
        assert sys.platform == "darwin"
        return
    assert before - 0.03 <= float(done.stdout) <= time.monotonic()


def is_a_second(lines):
    """Whether a second of sound passed between the last two lines."""
    return 0.5 < lines[-1]["seconds"] - lines[-2]["seconds"] < 1.5


def read_until(process, pattern):
    """Read stdout to a line that matches, and return it."""
    while not re.search(pattern, line := process.stdout.readline()):
        assert process.poll() is None
    return line


@on_a_sound_card
@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_json_once_a_second_and_exit_code_0_on_signals(card, stop):
    with start(
        "live", "--json", "--gain", "music=-20,noise=-inf", "--rate", "48000", *DEVICES
    ) as process:
        lines: list[dict] = []
        events: list[dict] = []
        while len(lines) < 2 or not is_a_second(lines):
            assert len(lines) < 8  # a computer may stall for seconds, but not each second
            line = json.loads(process.stdout.readline())
            (events if "event" in line else lines).append(line)
        process.send_signal(stop)
        rest, stderr = process.communicate(timeout=30)
    assert process.returncode == 0, stderr
    assert stderr.replace(COMPILING, "") == ""
    assert lines[1]["state"] == "running"
    assert lines[1]["device"]["latency"]["algorithm_ms"] == pytest.approx(34.9, abs=0.05)
    assert lines[1]["device"]["latency"]["measured_ms"] is None
    requests = {event["event"].partition(":")[0]: event for event in events}
    assert {"garbage collection", "locked memory", "real-time priority"} <= set(requests)
    assert requests["locked memory"]["at"] == "00:00"
    summary = json.loads(rest.splitlines()[-1])["summary"]
    assert summary["takes"] == []
    assert summary["seconds"] >= lines[-1]["seconds"]
    assert 0 < lines[0]["start_up_s"] == lines[1]["start_up_s"]


@on_a_sound_card
def test_a_suspend_is_reported(card):
    with start("live", "--plain", *DEVICES) as process:
        read_until(process, "running [1-9]")
        process.send_signal(signal.SIGSTOP)
        stopped = time.monotonic()
        time.sleep(2)
        process.send_signal(signal.SIGCONT)
        line = read_until(process, r"suspended for \d")
        most_s = time.monotonic() - stopped
        read_until(process, "running [1-9]")
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=30)
    assert 1.9 < float(re.findall(r"suspended for ([\d.]+) s", line)[0]) < most_s + 0.1
    assert (process.returncode, stderr.replace(COMPILING, "")) == (0, "")


@on_a_sound_card
def test_a_recording_survives_a_kill(card, tmp_path):
    x = (0.1 * np.random.default_rng(0).standard_normal((48000 * 8, 1))).astype(np.float32)
    with start("live", "--plain", "--record", str(tmp_path), *DEVICES) as process:
        assert process.stdout.readline().startswith("[0] system, JACK")
        speaker = jack_rig.Loudspeaker(card, x, 8)
        speaker.wait_until_playing()
        line = read_until(process, r" rec ([3-9]|\d\d) s")
        process.send_signal(signal.SIGKILL)
    speaker.close()
    (take,) = tmp_path.glob("take-*")
    tracks = {p.stem: soundfile.read(p, dtype="float32")[0] for p in take.glob("*.wav")}
    n = min(map(len, tracks.values()))
    reported_s = int(re.findall(r" rec (\d+) s", line)[0])
    assert n >= (reported_s - 1) * 48000  # at most one is lost
    mixture, stems = tracks["mixture"][:n], [tracks[stem][:n] for stem in STEMS]
    assert np.abs(mixture).max() > 0.05
    np.testing.assert_allclose(sum(stems), mixture, atol=1e-5)


@contextlib.contextmanager
def cable():
    """Connect the output to the input whenever their ports appear."""
    done = threading.Event()

    def connect():
        while not done.is_set():
            words = ["jack_connect", "PortAudio:out_0", "PortAudio:in_0"]
            subprocess.run(words, capture_output=True, check=False)
            time.sleep(0.02)

    thread = threading.Thread(target=connect)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@on_a_sound_card
def test_the_reported_latency_is_the_measured_one(card):
    with cable():
        trip = json.loads(run("latency", "--json", *DEVICES).stdout)
    assert abs(trip["engine"] - trip["reported"]) <= 1
    assert trip["without"] == 256  # one period


@on_a_sound_card
def test_live_shows_the_measured_latency_too(card):
    with cable():
        done = run("live", "--json", "--measure", *DEVICES, "--gain",
                   "speech=-inf,music=-inf,noise=-inf",
                   "--duration", "1.5")  # fmt: skip
    latency = json.loads(done.stdout.splitlines()[0])["device"]["latency"]
    engine_ms = latency["algorithm_ms"] + latency["buffer_ms"]
    assert latency["measured_ms"] == pytest.approx(engine_ms + 1000 * 256 / 48000, abs=0.1)


class Terminal:
    """A pseudo-terminal of 120 x 40 that runs a command."""

    def __init__(self, *words):
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        environment = {**ENVIRONMENT, **os.environ, "TERM": "xterm-256color"}
        self.process = subprocess.Popen(
            [*COMMAND, *words], stdin=slave, stdout=slave, stderr=slave, env=environment,
            start_new_session=True,
        )  # fmt: skip
        os.close(slave)

    def send(self, keys):
        os.write(self._master, keys.encode())

    def wait_for(self, pattern):
        """Read until the output from now on matches; return that output."""
        shown, deadline = "", time.monotonic() + TIMEOUT_S
        while not re.search(pattern, shown):
            assert time.monotonic() < deadline, shown[-3000:]
            if select.select([self._master], [], [], 0.2)[0]:
                with contextlib.suppress(OSError):
                    shown += os.read(self._master, 65536).decode("utf-8", "replace")
            shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
        return shown

    def close(self):
        """Wait for the end; return the exit code."""
        deadline = time.monotonic() + TIMEOUT_S
        while self.process.poll() is None and time.monotonic() < deadline:
            if select.select([self._master], [], [], 0.1)[0]:
                with contextlib.suppress(OSError):
                    os.read(self._master, 65536)
        os.close(self._master)
        return self.process.wait(5)


@on_a_sound_card
def test_the_display_shows_the_state_and_reads_keys(card, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    terminal = Terminal("live", "--gain", "noise=-30", *DEVICES)
    shown = terminal.wait_for(r"latency +\d+\.\d ms = device in[^\n]*")
    assert "system → system" in shown
    assert re.search(r"noise .* -30\.0 dB", shown)
    terminal.send("m")
    terminal.wait_for(r"speech[^\n]*MUTE")
    terminal.send("m\x1b[C\x1b[A\x1b[A")
    terminal.wait_for(r"> music[^\n]* 2\.0 dB")
    terminal.send("s")
    terminal.wait_for("SOLO")
    terminal.send("[[")
    terminal.wait_for("strength 57 dB")
    terminal.send("b")
    terminal.wait_for("BYPASS")
    terminal.send("r")
    terminal.wait_for(r"REC +0:00:01 in ")
    terminal.send("q")
    terminal.wait_for(r"ended after 00:[\s\S]*take +\S*take-")
    assert terminal.close() == 0
    (take,) = tmp_path.glob("take-*")
    lengths = {soundfile.info(p).frames for p in take.glob("*.wav")}
    assert len(lengths) == 1
    assert lengths.pop() > 16000
