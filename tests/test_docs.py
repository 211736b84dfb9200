"""The README runs: every command, every line of Python, every name it mentions."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from rtmtass.cli.main import build_parser

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")

FFMPEG = """#!{python}
# Stands in for ffmpeg: the file named after -i, as raw float32 on stdout.
import sys
import soundfile
samples, rate = soundfile.read(sys.argv[sys.argv.index("-i") + 1], dtype="float32")
assert rate == 16000
sys.stdout.buffer.write(samples.tobytes())
"""


def blocks(language: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.M | re.S)
    return [text for name, text in fenced if name == language]


def commands() -> Iterator[str]:
    for block in blocks(""):
        for line in block.splitlines():
            line = line.removeprefix("$ ").split("  #")[0].strip()
            if "rtmtass " in line and not line.startswith(("pip ", "talk")):
                yield line


COMMANDS = list(commands())
WORKSHOP = [
    c for c in COMMANDS if re.match(r"rtmtass (data|train|evaluate|release)", c) or "RUNS" in c
]
ENDLESS = [c for c in COMMANDS if re.match(r"rtmtass (live|doctor|latency|devices|bench)", c)]
QUICK = [c for c in COMMANDS if c not in WORKSHOP and c not in ENDLESS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the README's commands speak of."""
    folder = tmp_path_factory.mktemp("readme")
    rng = np.random.default_rng(0)
    sound = (0.1 * rng.standard_normal(32000)).astype(np.float32)
    soundfile.write(folder / "talk.flac", sound, 16000)
    (folder / "recordings").mkdir()
    soundfile.write(folder / "recordings" / "one.wav", sound, 16000)
    tools = folder / "tools"
    tools.mkdir()
    (tools / "ffmpeg").write_text(FFMPEG.format(python=sys.executable))
    (tools / "rtmtass").write_text(f'#!/bin/sh\nexec {sys.executable} -m rtmtass "$@"\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    return folder


def test_the_readme_has_commands() -> None:
    assert len(QUICK) >= 6
    assert len(WORKSHOP) >= 5


@pytest.mark.parametrize("command", QUICK)
def test_a_command_of_the_readme_runs(command: str, folder: Path) -> None:
    for made in [*folder.glob("talk.*.*"), *folder.glob("remix*"), *folder.glob("stems/*")]:
        made.unlink()
    environment = {**os.environ, "PATH": f"{folder / 'tools'}{os.pathsep}{os.environ['PATH']}"}
    answer = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert answer.returncode == 0, answer.stderr
    if "speech.f32" in command:
        assert (folder / "speech.f32").stat().st_size == 4 * 32000


@pytest.mark.parametrize("command", [*WORKSHOP, *ENDLESS])
def test_the_parser_takes_the_command(command: str) -> None:
    assert callable(build_parser().parse_args(shlex.split(command)[1:]).run)


@pytest.mark.parametrize("code", blocks("python"))
def test_the_python_runs(code: str, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=120)


def test_the_two_commands_are_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.M) + re.findall(r"`make (\w+)`", README):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_every_command_is_documented() -> None:
    helped = subprocess.run(
        [sys.executable, "-m", "rtmtass", "--help"], capture_output=True, text=True, check=True
    ).stdout
    listed = re.findall(r"^    (\w+) ", helped, re.M)
    assert "separate" in listed
    said = README + (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert [c for c in listed if f"rtmtass {c}" not in said and f"`{c}`" not in said] == []


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
