"""`rtmtass live` from a file to UDP, by subprocess: events, summaries, takes, gains and stops."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import soundfile

from rtmtass.cli.main import main

RATE = 16000
SECONDS = 20
TIMEOUT_S = 60
PRELUDE = """
import sys, time
import rtmtass
from rtmtass.cli import live, live_watch
from rtmtass.cli.main import main

def block():
    print("blocked", file=sys.stderr, flush=True)
    time.sleep(100)
"""
on_unix = pytest.mark.skipif(sys.platform == "win32", reason="sends Unix signals")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a sound file, as the current one; the config folder is in it."""
    rng = np.random.default_rng(0)
    x = (0.05 * rng.standard_normal(SECONDS * RATE)).astype(np.float32)
    soundfile.write(tmp_path / "talk.wav", x, RATE, "FLOAT")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start(*words, patch=""):
    """Run `live` on the file in a process whose modules have been patched."""
    # Port 9 discards: nothing has to listen there.
    command = ["live", "--source", "file:talk.wav", "--sink", "udp:127.0.0.1:9", *words]
    code = f"{PRELUDE}\n{textwrap.dedent(patch)}\nsys.exit(main({command!r}))"
    environment = {
        **os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1",
        "PYTHONIOENCODING": "utf-8",
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-c", code], text=True, encoding="utf-8", env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


COMPILING = "rtmtass: compiling for this CPU, once (about 20 s) …\n"


def finish(process, code=0):
    stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == code, stderr
    return stdout, stderr.replace(COMPILING, "")  # where no earlier test has compiled


def wait_until_recorded(process):
    """Read stdout until a second has been recorded; a slow computer may not print each second."""
    while not re.search(r"rec [1-9]\d* s", process.stdout.readline()):
        assert process.poll() is None


def read(path):
    return soundfile.read(path, dtype="float32")[0]


def test_a_stream_ends_with_a_summary_and_a_command_that_works(folder):
    words = ("--plain", "--duration", "3", "--record", "my takes", "--record-mix")
    # The buffer so that a busy computer doesn't matter.
    stdout, stderr = finish(start(*words, "--extra-buffer", "250"))
    assert stderr == ""
    lines = stdout.splitlines()
    assert lines[0] == "file:talk.wav → udp:127.0.0.1:9, 32.0 ms; Ctrl-C ends"
    seconds = [line for line in lines[1:] if "  running " in line]
    assert len(seconds) <= 3  # one a second, events included
    assert all(re.match(r"\d\d:\d\d  running \d s  dB: in -", line) for line in seconds)
    assert stdout.count("locked memory") == 1  # printed once
    assert "| 00:00 locked memory: " in stdout
    assert all(line.isprintable() for line in lines)
    first = next(i for i, line in enumerate(lines) if line.startswith("ended after 00:0"))
    assert [line.split()[0] for line in lines[first + 1 : first + 4]] == [
        "late", "latency", "levels",
    ]  # fmt: skip
    (take,) = (folder / "my takes").iterdir()
    assert f"take     my takes/{take.name}: 00:0" in stdout
    # All gains are 0 dB: the mix is the input, aligned with it.
    mixture, mix = read(take / "mixture.wav"), read(take / "mix.wav")
    np.testing.assert_allclose(mix, mixture, atol=1e-6)
    np.testing.assert_array_equal(mixture[256:], read("talk.wav")[: len(mixture) - 256])
    command = shlex.split(lines[-1].partition("to remix it: ")[2])
    assert main(command[1:]) == 0
    assert len(read(take / "remix.wav")) == len(mixture)


def test_events_and_summary_as_json(folder):
    words = ("--json", "--duration", "2.5", "--record", "takes", "--gain", "noise=-20")
    lines = [json.loads(line) for line in finish(start(*words))[0].splitlines()]
    events = [line for line in lines if "event" in line]
    assert {"at", "at_s", "count", "event"} == set(events[0])
    assert len({event["event"] for event in events}) == len(events)
    assert lines[0]["seconds"] < lines[-1]["seconds"]
    levels = lines[0]["levels"]
    assert levels["separated"]["noise"][0] > levels["stems"]["noise"][0] + 10
    summary = lines[-1]["summary"]
    (take,) = summary["takes"]
    assert take["tracks"] == ["speech", "music", "noise", "mixture"]
    assert {p.stem for p in Path(take["folder"]).iterdir()} == set(take["tracks"])
    assert take["command"].endswith("--gain speech=0,music=0,noise=-20")


def test_gains_are_saved_in_the_end_and_used_by_name(folder, capsys):
    words = ("--plain", "--duration", "1", "--gains", "quiet", "--gain", "noise=-inf")
    stdout, _ = finish(start(*words, "--save-gains", "evening"))
    assert "to use them: rtmtass live --gains evening" in stdout
    assert main(["live", "--list-gains"]) == 0
    listed = capsys.readouterr().out
    assert re.search(r"evening +speech=0,music=-12,noise=-inf", listed)
    assert re.search(r"voice +speech=0,music=-inf,noise=-inf", listed)
    (folder / "config" / "rtmtass" / "gains" / "bad.json").write_text("{")
    assert main(["live", "--list-gains"]) == 0
    assert "bad.json doesn't hold gains" in capsys.readouterr().out
    for wrong, code, line in (
        (["--gains", "bad"], 1, "bad.json doesn't hold gains: it isn't JSON"),
        (["--gains", "night"], 2, "no gains are saved as 'night'; known are voice, no-music"),
        (["--save-gains", "../x"], 2, "gains can't be saved as '../x'"),
        (["--save-gains", "voice"], 2, "voice is built in"),
    ):
        assert main(["live", "--source", "file:talk.wav", *wrong]) == code
        assert line in capsys.readouterr().err


@on_unix
def test_a_full_disk_ends_the_take_with_valid_files_and_exit_code_1(folder):
    patch = """
    import resource
    load = rtmtass.load
    def load_then_fill(*args, **options):
        separator = load(*args, **options)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        return separator
    rtmtass.load = load_then_fill
    """
    words = ("--plain", "--duration", "4", "--record", "takes", "--record-mix")
    stdout, stderr = finish(start(*words, patch=patch), code=1)
    (take,) = (folder / "takes").iterdir()
    assert stderr == (
        "rtmtass: the recording ended early: the file has reached the largest size that the disk"
        f" or ulimit allows; 00:01 are in takes/{take.name}\n"
    )
    assert stdout.count("recording stopped, the audio continues") == 1
    assert "ended after 00:0" in stdout
    lengths = {len(read(path)) for path in take.iterdir()}
    assert len(list(take.iterdir())) == 5
    assert len(lengths) == 1
    assert RATE < lengths.pop() < 2 * RATE


@on_unix
@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP"])
def test_signals_end_a_stream_with_its_files_closed_and_named(folder, name):
    process = start("--plain", "--record", "takes")
    wait_until_recorded(process)
    process.send_signal(getattr(signal, name))
    stdout, stderr = finish(process)
    assert stderr == ""
    (take,) = (folder / "takes").iterdir()
    assert f"take     takes/{take.name}: 00:0" in stdout
    assert len({len(read(path)) for path in take.iterdir()}) == 1


@on_unix
@pytest.mark.parametrize(("name", "where"), [
    ("SIGINT", "rtmtass.load"),
    ("SIGHUP", "rtmtass.load"),
    ("SIGTERM", "live._open_ends"),
])  # fmt: skip
def test_signals_end_the_start_at_once(folder, name, where):
    """While machine code is compiled or loaded, or a device opened."""
    process = start("--plain", "--record", "takes", patch=f"{where} = lambda *_, **__: block()")
    assert process.stderr.readline() == "blocked\n"
    process.send_signal(getattr(signal, name))
    stdout, stderr = finish(process, code=128 + getattr(signal, name))
    assert (stdout, stderr) == ("", "rtmtass: stopped before the sound began\n")
    assert list((folder / "takes").iterdir()) == []


@on_unix
def test_a_start_that_swallows_exceptions_is_ended_too(folder):
    """As compilers do that call back into Python."""
    patch = """
    def compile_on(*_, **__):
        while True:
            try:
                block()
            except BaseException:
                pass
    rtmtass.load = compile_on
    """
    process = start("--plain", patch=patch)
    assert process.stderr.readline() == "blocked\n"
    process.send_signal(signal.SIGINT)
    finish(process, code=130)


@on_unix
@pytest.mark.parametrize("patch", [
    "live_watch.Printer.text = lambda *_: block()",  # a pipe that nobody reads
    "from rtmtass.live.engine import Engine; Engine.stop = lambda _: block()",  # a device
])  # fmt: skip
def test_a_stream_that_cannot_be_closed_is_ended_with_its_files_named(folder, patch):
    process = start("--plain", "--record", "takes", patch=patch)
    if "Printer" in patch:
        assert process.stderr.readline() == "blocked\n"
    else:
        wait_until_recorded(process)
    process.send_signal(signal.SIGINT)
    _, stderr = finish(process, code=130)
    (take,) = (folder / "takes").iterdir()
    assert f"rtmtass: stopped, though something blocked\nrecorded takes/{take.name}\n" in stderr
    assert len({len(read(path)) for path in take.iterdir()}) == 1


@on_unix
def test_a_hangup_that_is_ignored_stays_ignored(folder):
    patch = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    process = start("--plain", "--duration", "2", patch=patch)
    assert process.stdout.readline().startswith("file:talk.wav")
    process.send_signal(signal.SIGHUP)
    assert "ended after 00:0" in finish(process)[0]


def test_a_reader_that_goes_away_ends_the_stream(folder):
    process = start("--plain", "--record", "takes")
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(TIMEOUT_S) == 0
    assert process.stderr.read().replace(COMPILING, "") == ""
    process.stderr.close()
    (take,) = (folder / "takes").iterdir()
    assert len({len(read(path)) for path in take.iterdir()}) == 1


@on_unix
def test_ctrl_c_while_python_imports_prints_no_traceback():
    code = (
        "import signal, runpy, sys; sys.modules['rtmtass.cli.main'] = None\n"
        "try: import rtmtass.__main__\n"
        "except ImportError: pass\n"
        "signal.raise_signal(signal.SIGINT)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (-signal.SIGINT, b"")
