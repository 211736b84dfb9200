"""Pipes, devices and the standard streams: closed, full, not UTF-8, without a reader."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fakes import FakeSeparator

import rtmtass
from rtmtass.cli.main import build_parser, main
from rtmtass.errors import InputError
from rtmtass.io.part_file import why_unreadable
from rtmtass.io.paths import quoted
from rtmtass.io.special_files import open_special
from rtmtass.offline import plan

HERE = Path(__file__).parent
FAKE = f"{shlex.quote(sys.executable)} {shlex.quote(str(HERE / 'fake_rtmtass.py'))}"
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{HERE.parent}:{HERE}", "OMP_NUM_THREADS": "1"}
STEMS = ("speech", "music", "noise")
REMIX = "separate a.wav --stems none --gain speech=0 --mix"
pytestmark = pytest.mark.skipif(os.name != "posix", reason="pipes have names, and bash runs")


def bash(folder, line, code=0, **environment):
    """Run a line in which `rtmtass` is the command line with the fake separator."""
    script = f'set -o pipefail; rtmtass() {{ {FAKE} "$@"; }}; {line}'
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=ENVIRONMENT | environment, capture_output=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    return done


@pytest.fixture
def tone(tmp_path):
    samples = 0.3 * np.sin(np.arange(16000) / 9)
    soundfile.write(tmp_path / "a.wav", samples, 16000, "PCM_16")
    return tmp_path


def frames(path):
    return soundfile.info(path).frames


# --- pipes and devices by name


@pytest.mark.parametrize(("line", "name"), [
    ("mkfifo in.wav; cat a.wav > in.wav & rtmtass separate in.wav -o o", "in"),
    ("cat a.wav | rtmtass separate /dev/stdin -o o", "stdin"),
    ("rtmtass separate /dev/stdin -o o < a.wav", "stdin"),
    ("exec 7< <(cat a.wav); rtmtass separate /dev/fd/7 -o o", "7"),
])  # fmt: skip
def test_a_pipe_is_an_input(tone, line, name):
    bash(tone, line)
    assert [frames(tone / "o" / f"{name}.{stem}.wav") for stem in STEMS] == [16000] * 3


@pytest.mark.parametrize("line", [
    f"rtmtass {REMIX} >(cat > got.wav); sleep 0.2",
    f"rtmtass {REMIX} /dev/stdout > got.wav",
    f"rtmtass {REMIX} /dev/stdout | cat > got.wav",
    f"mkfifo out.wav; cat out.wav > got.wav & rtmtass {REMIX} out.wav --overwrite; wait",
    "rtmtass separate a.wav --stems music -o /dev/stdout > got.wav",
])  # fmt: skip
def test_a_pipe_is_an_output(tone, line):
    bash(tone, line)
    assert frames(tone / "got.wav") == 16000
    if "out.wav" in line:
        assert stat.S_ISFIFO((tone / "out.wav").stat().st_mode)


@pytest.mark.parametrize(("line", "message", "code"), [
    ("rtmtass separate <(cat a.wav)", "a pipe has no folder; add -o FOLDER", 2),
    ("rtmtass separate <(echo hello there) -o o", "is a pipe without a WAV in it", 1),
    ("rtmtass separate /dev/null -o o", "/dev/null holds no samples", 1),
    (f"rtmtass {REMIX} >(true)", "can't be written: its reader has ended", 1),
    (f"rtmtass {REMIX} /dev/full", "/dev/full can't be written: the disk is full", 1),
    (f"mkfifo o.flac; rtmtass {REMIX} o.flac", "which carries WAV, not flac", 2),
    ("rtmtass separate a.wav b.wav --gain speech=0 --mix /dev/null", "/dev/null is one file,", 2),
    ("rtmtass separate a.wav -o /dev/null", "can't be written: /dev/null is not a folder;", 1),
])  # fmt: skip
def test_what_cannot_be_a_pipe_is_refused_in_one_line(tone, line, message, code):
    done = bash(tone, line, code)
    assert message in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1
    assert not list(tone.glob("**/*.part"))


def test_a_device_stays_a_device(tone):
    bash(tone, f"rtmtass {REMIX} /dev/null --overwrite")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    try:
        os.mknod(tone / "null.wav", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root may make devices")
    bash(tone, f"rtmtass {REMIX} null.wav --overwrite")
    assert stat.S_ISCHR((tone / "null.wav").stat().st_mode)


def test_outputs_of_another_stream_are_not_kept(tone):
    bash(tone, "rtmtass separate - -o o < a.wav")
    done = bash(tone, "rtmtass separate - -o o < a.wav", 1)
    assert b"can't be compared with what comes through a pipe; add --overwrite" in done.stderr
    bash(tone, "rtmtass separate - -o o --overwrite < a.wav")


def test_a_signal_ends_the_wait_for_a_reader(tmp_path):
    """The pipe is full, so that the thread that writes is in the middle of a block."""
    soundfile.write(tmp_path / "a.wav", np.zeros(480_000), 16000, "PCM_16")
    os.mkfifo(tmp_path / "p")
    words = [*shlex.split(FAKE), "separate", "a.wav", "-o", "o", "--gain", "noise=0", "--mix", "p"]
    live = subprocess.Popen(words, cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE)
    with (tmp_path / "p").open("rb") as reader:
        reader.read(100)
        live.send_signal(signal.SIGINT)
        _, stderr = live.communicate(timeout=30)
    assert live.returncode == 130
    assert stderr.startswith(b"rtmtass: stopped")
    assert stderr.count(b"\n") == 1


def test_a_pipe_of_another_kind_is_closed(tmp_path):
    os.mkfifo(tmp_path / "p")
    writer = threading.Thread(target=lambda: (tmp_path / "p").write_bytes(b"fLaC" * 9))
    writer.start()
    with pytest.raises(InputError, match="decode into it"):
        open_special(tmp_path / "p")
    writer.join()


# --- closed, full, and without a reader


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-", "> /dev/full"])
def test_files_are_written_without_streams(tone, closed):
    bash(tone, f"rtmtass separate a.wav -o o {closed}")
    assert [frames(tone / "o" / f"a.{stem}.wav") for stem in STEMS] == [16000] * 3


def test_a_reader_that_has_gone_does_not_end_the_series(tone):
    done = bash(tone, "cp a.wav b.wav; cp a.wav c.wav;"
        " rtmtass separate a.wav b.wav c.wav -o o --json | head -1")  # fmt: skip
    assert done.stdout.count(b"\n") == 1
    assert len(list((tone / "o").iterdir())) == 9


def test_a_full_disk_under_stdout_is_told_and_does_not_end_the_series(tone):
    done = bash(tone, "cp a.wav b.wav; rtmtass separate a.wav b.wav -o o --json > /dev/full", 1)
    assert done.stderr.startswith(b"rtmtass: stdout can't be written: No space left on device;")
    assert len(list((tone / "o").iterdir())) == 6
    for words in ("--help", "info a.wav"):
        done = bash(tone, f"rtmtass {words} > /dev/full", 1)
        assert done.stderr.startswith(b"rtmtass: stdout can't be written: No space left")


@pytest.mark.parametrize("words", ["--help", "models"])
def test_a_closed_pipe_is_no_error_of_any_command(tone, words):
    assert bash(tone, f"rtmtass {words} | true").stderr == b""


# --- any encoding, any name


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1", "cp437", "utf-8"])
def test_every_text_can_be_printed_in_every_encoding(encoding):
    """In one process: the help of each command, and all symbols of our messages."""
    code = (
        "import sys; from rtmtass.cli.main import build_parser, _Parser\n"
        "from rtmtass.cli.streams import prepare_streams; prepare_streams()\n"
        "import argparse\n"
        "def show(parser):\n"
        "    parser.print_help()\n"
        "    for a in parser._actions:\n"
        "        if isinstance(a, argparse._SubParsersAction):\n"
        "            [show(p) for p in a.choices.values()]\n"
        "show(build_parser())\n"
        "for stream in (sys.stdout, sys.stderr):\n"
        "    print('a → b … 1–2 │█ é \\udce0 \\u65e5 \\U0001f600', file=stream)"
    )
    environment = ENVIRONMENT | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True,
        check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    last = done.stdout.decode(encoding).splitlines()[-1]
    assert "\\xe0" in last
    if encoding == "ascii":
        assert last == "a -> b ... 1-2 |# \\u00e9 \\xe0 \\u65e5 \\ud83d\\ude00"


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_commands_print_text_and_valid_json_in_every_encoding(tone, encoding):
    (tone / "a.wav").rename(tone / os.fsdecode("é→".encode() + b"\xe0.wav"))
    environment = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    done = bash(tone, "rtmtass separate . -o o --json", **environment)
    result = json.loads(done.stdout.decode(encoding))
    assert os.fsencode(result["input"]) == "é→".encode() + b"\xe0.wav"
    assert len(os.listdir(os.fsencode(tone / "o"))) == 3
    bash(tone, "rtmtass info *.wav", **environment)
    done = bash(tone, "rtmtass separate $'\\xe0x.wav' 2>&1", 1, **environment)
    assert done.stdout.decode(encoding).startswith("rtmtass: \\xe0x.wav doesn't exist")


# --- what is meant


@pytest.mark.parametrize(("words", "meant"), [
    ("seperate a.wav", "separate"), ("dcotor", "doctor"),
    ("separate a.wav --overwite", "--overwrite"),
    ("separate a.wav --stem=speech --qiet", "--quiet"), ("info a.wav --jsn", "--json"),
    ("separate a.wav --channels linkd", "linked"), ("separate a.wav --format wave", "wav"),
])  # fmt: skip
def test_unknown_words_are_answered_with_the_nearest(capsys, words, meant):
    with pytest.raises(SystemExit) as end:
        build_parser().parse_args(words.split())
    assert end.value.code == 2
    assert f"did you mean {meant}?" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a b.wav", "it's.wav", "-x.wav", "$HOME.wav", "ä.wav", "a\nb.wav",
    "\udce0'\\.wav", "*", "~"])  # fmt: skip
def test_quoted_names_mean_the_file_to_a_shell(tmp_path, name):
    (tmp_path / name).write_text("x")
    done = subprocess.run(["bash", "-c", f"cat {quoted(name)}"], cwd=tmp_path, capture_output=True,
        check=False)  # fmt: skip
    assert done.stdout == b"x", done.stderr


def test_info_describes_several_files_and_goes_on_after_a_bad_one(tone):
    (tone / "bad.wav").write_text("text")
    soundfile.write(tone / "z.flac", np.zeros(8000), 8000)
    done = bash(tone, "rtmtass info . --json", 1)
    facts = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(f["input"], f["frames"]) for f in facts] == [("a.wav", 16000), ("z.flac", 8000)]
    assert facts[1]["outputs"]["speech"] == "z.speech.flac"
    assert done.stderr.startswith(b"rtmtass: bad.wav is not audio")
    text = bash(tone, "rtmtass info a.wav z.flac").stdout.decode()
    assert text.count("recording ") == 2


def test_files_left_out_of_a_folder_are_told_and_the_others_done(tone, monkeypatch, capsys):
    monkeypatch.chdir(tone)
    monkeypatch.setattr(rtmtass, "load", lambda *_, **__: FakeSeparator())
    monkeypatch.setattr(plan, "has_backend", lambda: False)
    for name in ("b.m4a", "c.mp4", "d.mkv", "e f.aac"):
        (tone / name).touch()
    assert main(["separate", "."]) == 0
    line = capsys.readouterr().err
    start = "rtmtass: 4 files skipped: b.m4a, c.mp4, d.mkv, …; to read them too: "
    assert line.startswith(f'{start}pip install "rtmtass[video]", or install ffmpeg')
    assert (tone / "a.speech.wav").exists()


def test_the_best_model_of_a_run_is_found_by_the_runs_folder(tmp_path):
    from rtmtass.cli.arguments import model_name

    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "config.json").touch()
    arguments = build_parser().parse_args(["separate", "a.wav", "--model", str(tmp_path)])
    assert model_name(arguments) == str(tmp_path / "best")
    (tmp_path / "config.json").touch()
    assert model_name(arguments) == str(tmp_path)


@pytest.mark.parametrize("error", [FileNotFoundError(2, "no"), PermissionError(13, "no")])
def test_hints_of_missing_files_name_them_as_a_shell_takes_them(error):
    hint = why_unreadable(Path("my talks/a b.wav"), error)
    assert re.search(r"ls 'my talks'|chmod u\+r 'my talks/a b\.wav'", hint)


# --- hints, typed as printed


def prepare(folder):
    """Make recordings with a space in their name, each of which fails in its own way."""
    samples = 0.3 * np.sin(np.arange(8000) / 9)
    soundfile.write(folder / "my talk.wav", samples, 44100, "PCM_16")
    soundfile.write(folder / "cut off.wav", samples, 16000, "PCM_16")
    os.truncate(folder / "cut off.wav", 8044)
    samples[800] = np.nan
    soundfile.write(folder / "not a number.wav", samples, 16000, "FLOAT")
    (folder / "of folders" / "one of").mkdir(parents=True)
    soundfile.write(folder / "of folders" / "one of" / "them.wav", samples[:99], 16000)
    os.mkfifo(folder / "my talk.music.wav.part")
    soundfile.write(folder / "older.mp3", samples[:799], 16000)
    (folder / "older.speech.mp3").touch()
    os.utime(folder / "older.speech.mp3", (1e9, 1e9))


REMIXED = "--gain noise=0 -o o --mix"
COMMANDS = [
    ("'missing one.wav'", r"spelling: (ls .*)"),
    ("'my talk.wav'", r"plain file; (rm .*); or"),
    ("'not a number.wav'", r"integers: (ffmpeg .*)"),
]
OPTIONS = [
    ("'cut off.wav'", r"there with (--allow-truncated)", "'cut off.wav' {}"),
    ("'of folders'", r"add (--recursive)", "'of folders' {}"),
    ("'my talk.wav' -o 'my stems.wav'", r"as in (-o .*)", "'my talk.wav' {}"),
    ("'my talk.wav' -o o --format opus", r"add (--format flac)", "'my talk.wav' -o o {}"),
    (f"'my talk.wav' {REMIXED} x.m4a", r"ends in (\.\w+)", f"'my talk.wav' {REMIXED} x{{}}"),
    (f"'my talk.wav' of.wav {REMIXED} x.wav", r"as in --mix (.*)", f"'my talk.wav' {REMIXED} {{}}"),
    ("older.mp3 --stems speech", r"add (--overwrite) to", "older.mp3 --stems speech {}"),
    ("older.mp3 --stems speech", r"folder with (-o)", "older.mp3 --stems speech {} elsewhere"),
]


@pytest.fixture
def failed(tmp_path, monkeypatch, capfd):
    """Run a command line in the folder of recordings; return what its error says to type."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rtmtass, "load", lambda *_, **__: FakeSeparator())
    prepare(tmp_path)

    def run(line, pattern):
        assert main(["separate", *shlex.split(line)]) in (1, 2)
        found = re.search(pattern, capfd.readouterr().err.strip())
        assert found
        return found.group(1)

    return run


@pytest.mark.parametrize(("line", "pattern"), COMMANDS)
def test_commands_in_errors_work_as_printed(failed, line, pattern):
    hint = failed(line, pattern)
    if hint.startswith("ffmpeg") and not shutil.which("ffmpeg"):
        pytest.skip("needs ffmpeg")
    done = subprocess.run(["bash", "-c", hint], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    if hint.startswith("ffmpeg"):
        assert main(["separate", shlex.split(hint)[-1]]) == 0


@pytest.mark.parametrize(("line", "pattern", "mended"), OPTIONS)
def test_options_in_errors_work_as_printed(failed, line, pattern, mended):
    assert main(["separate", *shlex.split(mended.format(failed(line, pattern)))]) == 0


def test_notes_of_libmpg123_are_not_printed(tmp_path):
    soundfile.write(tmp_path / "a.mp3", 0.3 * np.sin(np.arange(441000) / 20), 44100)
    data, rng = bytearray((tmp_path / "a.mp3").read_bytes()), np.random.default_rng(1)
    for at in rng.integers(2000, len(data), 40):
        data[at] = rng.integers(256)
    (tmp_path / "damaged.mp3").write_bytes(data)
    read = "import soundfile, sys; soundfile.read(sys.argv[1])"
    command = [sys.executable, "-c", read, str(tmp_path / "damaged.mp3")]
    plain = subprocess.run(command, capture_output=True, check=False)
    assert b"libmpg123" in plain.stderr  # it does print them
    done = bash(tmp_path, "rtmtass separate damaged.mp3 --allow-truncated")
    assert b"mpg123" not in done.stderr
