"""The command by subprocess: exit codes, messages, pipes, signals, memory."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fakes import FakeSeparator

import rtmtass
from rtmtass.cli.main import build_parser, main
from rtmtass.fullband import FullBandSeparator
from rtmtass.io.wav_header import stream_header

HERE = Path(__file__).parent
FAKE = [sys.executable, str(HERE / "fake_rtmtass.py")]
REAL = [sys.executable, "-m", "rtmtass"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{HERE.parent}:{HERE}", "OMP_NUM_THREADS": "1"}
STEMS = ("speech", "music", "noise")


def run(folder, *words, data=b"", command=FAKE, code=None):
    done = subprocess.run(
        [*command, *map(str, words)], cwd=folder, env=ENVIRONMENT, input=data, capture_output=True,
        timeout=120, check=False,
    )  # fmt: skip
    if code is not None:
        assert done.returncode == code, done.stderr.decode()
    return done


def start(folder, *words):
    return subprocess.Popen(
        [*FAKE, *map(str, words)],
        cwd=folder,
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def noise(n, channels=1):
    return np.random.default_rng(n).uniform(-0.5, 0.5, (n, channels)).astype(np.float32)


@pytest.fixture
def talk(tmp_path):
    soundfile.write(tmp_path / "talk.flac", noise(50000, 2), 44100)
    return tmp_path


def listing(folder):
    return sorted(os.listdir(folder))


def outputs(suffix="flac"):
    return [f"talk.{stem}.{suffix}" for stem in sorted(STEMS)]


def test_a_recording_becomes_three_stems(talk):
    done = run(talk, "separate", "talk.flac", code=0)
    assert listing(talk) == sorted(["talk.flac", *outputs()])
    assert done.stdout == done.stderr == b""  # no terminal, no progress
    stems = [soundfile.read(talk / name)[0] for name in outputs()]
    error = sum(stems) - soundfile.read(talk / "talk.flac")[0]
    assert np.abs(error).max() < 2 * 2**-15


def test_json_has_one_object_per_file(talk):
    shutil.copy(talk / "talk.flac", talk / "other.flac")
    (talk / "third.wav").touch()
    done = run(talk, "separate", ".", "-o", "out", "--stems", "speech,noise", "--json", code=1)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(x["input"], x["status"]) for x in lines] == [
        ("other.flac", "done"), ("talk.flac", "done"), ("third.wav", "failed"),
    ]  # fmt: skip
    assert lines[1]["outputs"]["noise"] == "out/talk.noise.flac"
    assert lines[1]["frames"] == 50000
    first, second = done.stderr.decode().splitlines()
    assert first == "rtmtass: 1 of 3 recordings failed:"
    assert second.startswith("  third.wav is empty")
    again = run(talk, "separate", "talk.flac", "-o", "out", "--stems", "noise", "--json", code=0)
    assert json.loads(again.stdout)["status"] == "skipped"


def test_a_remix(talk):
    words = ("--gain", "speech=0,music=-12,noise=-inf", "--mix", "mix.wav", "--subtype", "FLOAT")
    run(talk, "separate", "talk.flac", "--format", "wav", *words, code=0)
    assert listing(talk) == sorted(["mix.wav", "talk.flac", *outputs("wav")])
    stem = {name: soundfile.read(talk / f"talk.{name}.wav")[0] for name in STEMS}
    expected = stem["speech"] + 10 ** (-12 / 20) * stem["music"]
    np.testing.assert_allclose(soundfile.read(talk / "mix.wav")[0], expected, atol=1e-6)


# --- what is refused


@pytest.fixture
def refused(talk, monkeypatch, capfd):
    """Run a command line that fails, in this process; return what it writes to stderr.

    Processes are started by the other tests; to start one takes a second.
    """
    monkeypatch.chdir(talk)
    monkeypatch.setattr(rtmtass, "load", lambda *_, **__: FakeSeparator())

    def run(code, *words):
        with open(os.devnull) as nothing:
            monkeypatch.setattr(sys, "stdin", nothing)
            try:
                exit_code: str | int | None = main(words)
            except SystemExit as end:
                exit_code = end.code
        stdout, stderr = capfd.readouterr()
        assert (exit_code, stdout) == (code, ""), stderr
        return stderr

    return run


def bad_files(folder):
    x = noise(16000)
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("not sound at all, but text\n" * 50)
    (folder / "notes").touch()
    soundfile.write(folder / "zero.wav", x[:0], 16000)
    soundfile.write(folder / "cut.wav", x, 16000, "PCM_16")
    os.truncate(folder / "cut.wav", 16044)
    x[8000] = np.nan
    soundfile.write(folder / "nan.wav", x, 16000, "FLOAT")
    x[8000] = -np.inf
    soundfile.write(folder / "inf.wav", x, 16000, "FLOAT")
    soundfile.write(folder / "slow.wav", noise(100), 2000)
    (folder / "folder").mkdir()


@pytest.mark.parametrize(("words", "line"), [
    (["missing.wav"], "missing.wav doesn't exist; check the spelling: ls ."),
    (["empty.wav"], "empty.wav is empty (0 bytes); record or fetch it again"),
    (["text.wav"], "text.wav is not audio that libsndfile can read; convert it first:"),
    (["zero.wav"], "zero.wav holds no samples (0 s); record or export it again"),
    (["cut.wav"], "cut.wav is cut short: its header promises 1.00 s (16000 frames), it holds"),
    (["nan.wav"], "nan.wav contains NaN at 0.500 s (frame 8000);"),
    (["inf.wav"], "inf.wav contains Inf at 0.500 s (frame 8000);"),
    (["slow.wav"], "slow.wav has a sample rate of 2000 Hz; rtmtass supports 4000 to 384000 Hz"),
    (["folder"], "folder is a folder without recordings; to search the folders in it too, add"),
    (["talk.flac", "--stems", "vocals"], "unknown stem 'vocals'; choose from speech, music,"),
    (["talk.flac", "--gain", "x=1", "--mix", "m.wav"], "unknown stem 'x'; choose from speech,"),
    (["talk.flac", "-o", "/sys/rtmtass"], "/sys/rtmtass can't be written: permission denied;"),
    (["talk.flac", "--gain", "noise=-6", "--mix", "talk.flac"], "talk.flac is an input too; name"),
    (["talk.flac", "-o", "notes"], "notes can't be written: File exists; name another folder"),
    (["talk.flac", "--format", "opus"], "opus doesn't support 44100 Hz; add --format flac, or wav"),
    (["-", "--rate", "100", "-o", "out"], "stdin has a sample rate of 100 Hz; rtmtass supports"),
    (["-", "-o", "out"], "stdin holds no samples; check that the program"),
])  # fmt: skip
def test_input_errors_are_one_line_and_exit_1(talk, refused, words, line):
    bad_files(talk)
    before = listing(talk)
    stderr = refused(1, "separate", *words)
    assert stderr.startswith(f"rtmtass: {line}")
    assert stderr.count("\n") == 1
    assert listing(talk) == before


@pytest.mark.parametrize(("words", "line"), [
    ([], "the following arguments are required: COMMAND; see rtmtass --help"),
    (["seperate"], "argument COMMAND: invalid choice: 'seperate'"),
    (["separate"], "the following arguments are required: FILE; see rtmtass separate --help"),
    (["separate", "talk.flac", "--format", "aac"], "argument --format: invalid choice: 'aac'"),
    (["separate", "talk.flac", "--gain", "speech"], "argument --gain: 'speech' is not STEM=DB"),
    (["separate", "talk.flac", "--gain", "speech=0"], "a remix needs both: its gains"),
    (["separate", "talk.flac", "--mix", "m.wav"], "a remix needs both: its gains"),
    (["separate", "talk.flac", "-o", "-"], "stdout takes one stem; choose it: --stems speech"),
    (["separate", "-", "--rate", "16000"], "stdin has no folder; add -o FOLDER, or --stems"),
    (["separate", "-", "--raw", "s16", "-o", "x"], "raw samples have no header; give their rate"),
    (["separate", "talk.flac", "--rate", "8000"], "--rate, --channels-in and --raw describe"),
    (["separate", "talk.flac", "--format", "flac", "--subtype", "FLOAT"], "flac doesn't support"),
    (["separate", "talk.flac", "--stems", "speech", "-o", "-", "--json"], "stdout is used for"),
    (["separate", "talk.flac", "--stems", "speech", "-o", "-", "--format", "mp3"],
     "stdout carries WAV or raw samples, not mp3; add -o FOLDER"),
    (["separate", "talk.flac", "-o", "talk.flac"], "-o names the folder of the stems, and talk.fl"),
    (["separate", "talk.flac", "-o", "new.M4A"], "-o names the folder of the stems, and new.M4A l"),
    *((["separate", "talk.flac", "--gain", "speech=0", "--mix", f"remix.{suffix}"],
       f"--mix remix.{suffix} can't be written as .{suffix}; name a file that ends in .wav, .flac,")
      for suffix in ("wma", "aac", "aiff", "xyz", "WMA")),
])  # fmt: skip
def test_usage_errors_are_one_line_and_exit_2(talk, refused, words, line):
    assert refused(2, *words).startswith(f"rtmtass: {line}")
    assert listing(talk) == ["talk.flac"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read any file")
def test_an_unreadable_file(talk):
    (talk / "talk.flac").chmod(0)
    output = run(talk, "separate", "talk.flac", code=1).stderr.decode()
    assert output.startswith("rtmtass: talk.flac can't be read: permission denied; chmod u+r talk")


def test_a_full_disk(talk):
    code = (
        "import fake_rtmtass, failing_file\n"
        "failing_file.fail(lambda n, name, path: name == 'write' and 'noise' in path)\n"
        "raise SystemExit(fake_rtmtass.main(['separate', 'talk.flac']))"
    )
    output = run(talk, command=[sys.executable, "-c", code], code=1).stderr.decode()
    assert output.startswith("rtmtass: talk.noise.flac can't be written: the disk is full; free")
    assert listing(talk) == ["talk.flac"]


def test_altered_weights_are_refused(talk):
    model = talk / "model"
    shutil.copytree(HERE.parent / "models" / "rtmtass-small", model)
    with (model / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    done = run(talk, "separate", "talk.flac", "--model", "model", command=REAL, code=1)
    assert "the file was altered; install rtmtass again" in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1
    assert listing(talk) == ["model", "talk.flac"]


def test_a_truncated_file_can_be_allowed(talk):
    bad_files(talk)
    run(talk, "separate", "cut.wav", "--allow-truncated", code=0)
    assert soundfile.info(talk / "cut.speech.wav").frames == 8000


# --- pipes


def rms_db(x):
    return 10 * np.log10((x.astype(np.float64) ** 2).mean() + 1e-24)


@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (44100, 2)])
def test_a_pipe_gives_the_same_as_a_file(tmp_path, rate, channels):
    x = noise(30000, channels)
    soundfile.write(tmp_path / "a.wav", x, rate, "FLOAT")
    run(tmp_path, "separate", "a.wav", code=0)
    expected = soundfile.read(tmp_path / "a.music.wav", dtype="float32", always_2d=True)[0]
    raw = ("--rate", rate, "--channels-in", channels)
    done = run(tmp_path, "separate", "-", *raw, "--stems", "music", "-o", "-", data=x.tobytes(),
               code=0)  # fmt: skip
    piped = np.frombuffer(done.stdout, np.float32).reshape(-1, channels)
    if rate == 16000:
        np.testing.assert_allclose(piped, expected, atol=1e-6)
    else:  # pipes use the low-latency resampler, which differs at the band edge
        assert rms_db(piped - expected) < rms_db(expected) - 20
    wav = stream_header(rate, channels, "f32") + x.tobytes()
    done = run(tmp_path, "separate", "-", "--stems", "music", "-o", "-", data=wav, code=0)
    samples, rate_out = soundfile.read(io.BytesIO(done.stdout), dtype="float32", always_2d=True)
    assert rate_out == rate
    np.testing.assert_array_equal(samples, piped)
    run(tmp_path, "separate", "-", "-o", "out", data=wav, code=0)
    assert listing(tmp_path / "out") == [f"stdin.{stem}.wav" for stem in sorted(STEMS)]
    samples = soundfile.read(tmp_path / "out" / "stdin.music.wav", always_2d=True)[0]
    np.testing.assert_array_equal(samples, piped)


def test_16_bits_in_are_16_bits_out(tmp_path):
    x = (noise(5000) * 32767).astype("<i2")
    raw = ("--rate", "16000", "--raw", "s16")
    done = run(tmp_path, "separate", "-", *raw, "--gain", "music=0", "--mix", "-",
               data=x.tobytes(), code=0)  # fmt: skip
    np.testing.assert_array_equal(np.frombuffer(done.stdout, "<i2"), x[:, 0])
    assert listing(tmp_path) == []


def test_a_file_to_stdout_is_a_wav_with_its_length(talk):
    done = run(talk, "separate", "talk.flac", "--stems", "speech", "-o", "-", code=0)
    samples, rate = soundfile.read(io.BytesIO(done.stdout))
    assert (samples.shape, rate) == ((50000, 2), 44100)
    assert int.from_bytes(done.stdout[4:8], "little") == len(done.stdout) - 8


def test_a_pipe_adds_no_latency_to_the_algorithms(tmp_path):
    """All but the 511 samples of the delay are written while stdin is still open."""
    x = noise(2048)
    live = start(tmp_path, "separate", "-", "--rate", "16000", "--stems", "speech", "-o", "-")
    live.stdin.write(x.tobytes())
    live.stdin.flush()
    early = live.stdout.read((2048 - 511) * 4)  # blocks if they aren't
    rest, _ = live.communicate(timeout=30)
    assert len(early + rest) == x.nbytes
    assert live.returncode == 0


def test_a_closed_pipe_ends_without_an_error(tmp_path):
    live = start(tmp_path, "separate", "-", "--rate", "16000", "--stems", "speech", "-o", "-")
    live.stdin.write(noise(16000).tobytes())
    live.stdin.flush()
    live.stdout.read(4000)
    live.stdout.close()
    with contextlib.suppress(BrokenPipeError):
        for _ in range(100):
            live.stdin.write(noise(16000).tobytes())
    with contextlib.suppress(BrokenPipeError):
        live.stdin.close()
    assert live.wait(30) == 0
    assert live.stderr.read() == b""
    live.stderr.close()


# --- signals


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_playable_part_files(tmp_path, number, code):
    live = start(tmp_path, "separate", "-", "--rate", "16000", "-o", "out", "--subtype", "PCM_16")
    live.stdin.write(noise(32000).tobytes())
    live.stdin.flush()
    parts = [tmp_path / "out" / f"stdin.{stem}.wav.part" for stem in STEMS]
    deadline = time.monotonic() + 30
    while not all(p.exists() and p.stat().st_size > 2 * (32000 - 511) for p in parts):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    live.send_signal(number)
    _, stderr = live.communicate(timeout=30)
    assert live.returncode == code
    assert stderr.decode().startswith(
        "rtmtass: stopped; unfinished files are playable as out/stdin.s"
    )
    assert stderr.count(b"\n") == 1
    assert listing(tmp_path / "out") == sorted(part.name for part in parts)
    assert [soundfile.info(part).frames for part in parts] == [32000 - 511] * 3


# --- terminal output


def test_progress_is_shown_on_a_terminal(talk):
    """On a terminal: a bar with elapsed and remaining time and the RTF, then a line per file."""
    import pty

    master, slave = pty.openpty()
    words = [*FAKE, "separate", "talk.flac"]
    environment = {**ENVIRONMENT, "TERM": "xterm", "COLUMNS": "120", "NO_COLOR": "1"}
    subprocess.run(words, cwd=talk, env=environment, stderr=slave, timeout=60, check=True)
    os.set_blocking(master, False)
    output = os.read(master, 1_000_000).decode()
    os.close(master)
    os.close(slave)
    assert "RTF" in output
    assert "100%" in output or "0:00:0" in output
    assert "talk.flac → talk.speech.flac, talk.music.flac, talk.noise.flac" in output
    assert "\x1b[3" not in output  # NO_COLOR


def test_info_describes_a_recording(talk):
    output = run(talk, "info", "talk.flac", code=0).stdout.decode()
    for words in ("44100 Hz", "1.13 s (50000 frames)", "talk.noise.flac",
                  "flac PCM_16, 2 channels\n", "linked",
                  "16000 Hz, resampled", "time needed"):  # fmt: skip
        assert words in output
    assert listing(talk) == ["talk.flac"]


def test_models_are_listed(tmp_path):
    output = run(tmp_path, "models", code=0).stdout.decode()
    assert output.splitlines()[0].split()[:3] == ["model", "version", "size"]
    assert "rtmtass-small" in output
    assert "32 ms" in output
    assert "MIT" in output
    facts = json.loads(run(tmp_path, "models", "--json", code=0).stdout.splitlines()[0])
    assert facts["sample_rate"] == 16000


def test_a_models_metrics_are_read_from_its_folder(tmp_path):
    from rtmtass.cli.info import _model_facts

    released = HERE.parent / "models" / "rtmtass-small"
    shutil.copy(released / "config.json", tmp_path)
    assert _model_facts(tmp_path)["si_sdri_db"] is None
    figures = {"si_sdri": {"average": {"mean": 3.5}}, "sdri": {"average": {"mean": 6.5}}}
    (tmp_path / "metrics.json").write_text(json.dumps(figures))
    facts = _model_facts(tmp_path)
    assert (facts["si_sdri_db"], facts["sdri_db"]) == (3.5, 6.5)


def test_the_demo_writes_stems_a_report_and_a_table(talk):
    output = run(talk, "demo", "talk.flac", code=0).stdout.decode()
    assert listing(talk / "demo") == sorted(
        ["mixture.flac", "report.png", *(f"{stem}.wav" for stem in STEMS)]
    )
    assert (talk / "demo" / "report.png").read_bytes()[:4] == b"\x89PNG"
    for words in ("duration", "algorithmic latency", "32 ms", "p50 / p99", "real-time factor",
                  "level of mixture", "level of noise", "error of the stems' sum"):  # fmt: skip
        assert words in output


@pytest.mark.parametrize("words", [["--help"], ["separate", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(words):
    code = (
        "import sys; from rtmtass.cli.main import main\n"
        f"try: main({words!r})\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'numba', 'numpy', 'soundfile', 'soxr', 'rich', 'matplotlib'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = run(HERE, command=[sys.executable, "-c", code])
    assert done.stderr == b""
    assert done.returncode == 0


# --- memory


@pytest.mark.parametrize(("rate", "channels", "minutes"), [(16000, 1, 10), (44100, 2, 3)])
def test_memory_does_not_grow_with_length(tmp_path, rate, channels, minutes):
    second = (noise(rate, channels) * 32767).astype(np.int16)
    peaks_mb = []
    for length_s in (minutes * 6, minutes * 60):
        with soundfile.SoundFile(tmp_path / "a.wav", "w", rate, channels) as file:
            for _ in range(length_s):
                file.write(second)
        code = (
            "import sys, resource, fake_rtmtass\n"
            "sys.argv[1:] = ['separate', 'a.wav', '--overwrite']\n"
            "assert fake_rtmtass.main() == 0\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
        )
        done = run(tmp_path, command=[sys.executable, "-c", code], code=0)
        peaks_mb.append(float(done.stdout))
    assert peaks_mb[1] - peaks_mb[0] < 20


# --- with the real model, once


def test_the_real_separator_from_files_and_pipes(talk):
    words = ("separate", "talk.flac", "--format", "wav", "--subtype", "FLOAT", "--quiet")
    run(talk, *words, command=REAL, code=0)
    stems = [soundfile.read(talk / f"talk.{stem}.wav", dtype="float32")[0] for stem in STEMS]
    x = soundfile.read(talk / "talk.flac", dtype="float32")[0]
    assert stems[0].shape == x.shape
    assert 20 * np.log10(np.abs(sum(stems) - x).max() + 1e-12) < -90
    raw = ("--rate", 44100, "--channels-in", 2, "--stems", "noise", "-o", "-", "--quiet")
    piped = run(talk, "separate", "-", *raw, data=x.tobytes(), command=REAL, code=0).stdout
    result = np.frombuffer(piped, np.float32).reshape(-1, 2)
    separator = FullBandSeparator(rtmtass.load(), 44100, 2, low_latency=True)
    late = np.concatenate([separator.process(x), separator.flush()], axis=1)
    np.testing.assert_allclose(result, late[2, separator.delay :], atol=1e-6)
    # The recording is noise: the other stems hold only leakage.
    assert rms_db(result - stems[2]) < rms_db(stems[2]) - 20


def test_every_commands_help_can_be_printed() -> None:
    """An unescaped % in a help text raises in argparse."""
    parsers = [build_parser()]
    while parsers:
        parser = parsers.pop()
        assert parser.format_help()
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                parsers += action.choices.values()
