"""The walks in tests/walks/ stop at surprises and use every command; `make walks` runs them."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from test_docs import COMMANDS

WALKS = Path(__file__).parent / "walks"
SCRIPTS = sorted(WALKS.glob("*.sh"))
MAKEFILE = (WALKS.parent.parent / "Makefile").read_text()
TIMEOUT_S = 300


def bash(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable, "TMPDIR": str(folder)}
    return subprocess.run(
        ["bash", *words],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )


@pytest.mark.parametrize(
    ("steps", "why"),
    [
        ("run 'false'", "exit code 1, expected 0"),
        ("run 'echo Traceback'", "a traceback"),
        ("refuses 2 word 'echo word; exit 1'", "exit code 1, expected 2"),
        ("refuses 1 word 'echo other; exit 1'", "it doesn't print 'word'"),
        ("holds '[ -e none ]'", "not true: [ -e none ]"),
        ("make_sounds a.wav 1 16000 1\nrun 'check length a.wav 15999'", "exit code 1, expected 0"),
        ("make_sounds a.wav 1 16000 1\nrun 'check sum -80 a.wav a.wav a.wav'", "exit code 1"),
    ],
)
def test_a_walk_stops_at_the_first_surprise(steps: str, why: str, tmp_path: Path) -> None:
    walk = tmp_path / "walk.sh"
    walk.write_text(f"source '{WALKS}/steps.sh'\ncd_work x\n{steps}\necho went on\n")
    done = bash(str(walk), folder=tmp_path)
    assert done.returncode == 1
    assert f"SURPRISE: {why}" in done.stdout
    assert "went on" not in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["walk.sh"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_walk_parses(script: Path, tmp_path: Path) -> None:
    done = bash("-n", str(script), folder=tmp_path)
    assert done.returncode == 0, done.stderr


def test_make_walks_runs_all_of_them() -> None:
    names = {path.stem for path in SCRIPTS} - {"steps"}
    line = re.search(r"for walk in ([a-z ]+);", MAKEFILE)
    assert line is not None
    assert set(line[1].split()) == names


def parts(command: str) -> tuple[set[str], set[str]]:
    """Return the words that name a command, and its long options."""
    words = shlex.split(command.split(" | ")[-1], comments=True)
    start = next(k for k, word in enumerate(words) if word.startswith("rtmtass"))
    named = 2 if words[start + 1 : start + 2] == ["data"] else 1
    options = {word.split("=")[0] for word in words if word.startswith("--")}
    return set(words[start + 1 : start + 1 + named]), options


def test_every_command_of_the_readme_is_walked() -> None:
    """With all of its options, in one command: a name may differ, as of a device or a file."""
    walked = [
        parts(command)
        for script in SCRIPTS
        for command in re.findall(r"(?:^|')(rtmtass [a-z][^'\n]*)", script.read_text(), re.M)
    ]
    missing = []
    for command in COMMANDS:
        if not command.startswith("rtmtass "):
            continue  # python -m, and pipes, which run by themselves
        name, options = parts(command)
        if not any(name == other and options <= given for other, given in walked):
            missing.append(command)
    assert missing == []
