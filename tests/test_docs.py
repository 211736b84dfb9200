"""The documentation runs: commands, Python, examples; links, paths and figures are right."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import wave
from collections.abc import Iterator
from pathlib import Path

import jack_rig
import numpy as np
import pytest
import soundfile
from media_clips import Track, noise, write_clip
from native_builds import Builds

import rtmtass
from rtmtass.cli.main import build_parser
from rtmtass.io.udp import UdpSink, UdpSource
from rtmtass.runtime.onnx.export import export_onnx

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "rtmtass" / "examples"
PAGES = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in (
        "README.md", "CONTRIBUTING.md", "DECISIONS.md", "EXPERIMENTS.md", "CHANGELOG.md",
        "rtmtass/training/GUIDE.md", "rtmtass/native/README.md", "rtmtass/native/PLUGINS.md",
        "rtmtass/web/README.md", "rtmtass/serve/README.md", "rtmtass/agents/README.md",
        "rtmtass/cluster/README.md",
    )
}  # fmt: skip
README = PAGES["README.md"]

FFMPEG = """#!{python}
# Stands in for ffmpeg: writes the file named after -i to stdout as raw float32.
import sys
import soundfile
samples, rate = soundfile.read(sys.argv[sys.argv.index("-i") + 1], dtype="float32")
assert rate == 16000
sys.stdout.buffer.write(samples.tobytes())
"""
TIMEOUT_S = 300


def blocks(page: str, language: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", PAGES[page], re.M | re.S)
    return [text for name, text in fenced if name == language]


def commands(page: str) -> Iterator[str]:
    for block in blocks(page, ""):
        for line in block.splitlines():
            command = line.split("  #")[0].strip()
            if re.search(r"(^|\| |^python -m )rtmtass[ .]\w", command):
                yield command


COMMANDS = list(commands("README.md"))
GUIDE = list(commands("rtmtass/training/GUIDE.md"))
TRAINING = [
    c for c in COMMANDS if re.match(r"rtmtass (data|train|evaluate|release)", c) or "RUNS" in c
]
DEVICES = [
    c for c in COMMANDS if re.match(r"rtmtass (live|web|serve|doctor|latency|devices|bench)", c)
]
RUNNABLE = [c for c in COMMANDS if c not in TRAINING and c not in DEVICES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, builds: Builds) -> Path:
    """The files and programs that the README's commands use.

    Exports compile their kernels where no other test of this run has.
    """
    folder = tmp_path_factory.mktemp("readme")
    rng = np.random.default_rng(0)
    sound = (0.1 * rng.standard_normal(32000)).astype(np.float32)
    soundfile.write(folder / "talk.flac", sound, 16000)
    write_clip(folder / "talk.mp4", [Track(noise())])
    (folder / "recordings").mkdir()
    soundfile.write(folder / "recordings" / "one.wav", sound, 16000)
    tools = folder / "tools"
    tools.mkdir()
    (tools / "ffmpeg").write_text(FFMPEG.format(python=sys.executable))
    (tools / "rtmtass").write_text(f"""#!/bin/sh
test "$1" = export && exec {shlex.join(builds.command())} "$@"
exec {sys.executable} -m rtmtass "$@"
""")
    (tools / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    return folder


def run_example(name: str, *arguments: str) -> str:
    """Run an example to its end; return its output."""
    process = subprocess.run(
        [sys.executable, "-m", f"rtmtass.examples.{name}", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_the_readme_has_commands() -> None:
    assert len(RUNNABLE) >= 6
    assert len(DEVICES) >= 5
    assert len(TRAINING) >= 3
    assert len(GUIDE) >= 10


@pytest.mark.parametrize("command", RUNNABLE)
def test_readme_command_runs(command: str, folder: Path) -> None:
    for output in [*folder.glob("talk.*.*"), *folder.glob("remix*"), *folder.glob("stems/*")]:
        output.unlink()
    environment = {**os.environ, "PATH": f"{folder / 'tools'}{os.pathsep}{os.environ['PATH']}"}
    process = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    assert process.returncode == 0, process.stderr
    if "speech.f32" in command:
        assert (folder / "speech.f32").stat().st_size == 4 * 32000


@pytest.mark.parametrize("command", [*TRAINING, *DEVICES, *GUIDE])
def test_command_parses(command: str) -> None:
    assert callable(build_parser().parse_args(shlex.split(command)[1:]).run)


@pytest.mark.parametrize(
    "code", [*blocks("README.md", "python"), *blocks("CONTRIBUTING.md", "python")]
)
def test_python_block_runs(code: str, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=TIMEOUT_S)


def test_every_example_is_tested_and_listed() -> None:
    names = {path.stem for path in EXAMPLES.glob("*.py")} - {"__init__"}
    assert names == {"numpy_array", "recording", "microphone", "udp", "batch", "onnx_stems"}
    listing = (EXAMPLES / "__init__.py").read_text()
    for name in names:
        assert f"python -m rtmtass.examples.{name} " in listing
        assert f"(rtmtass/examples/{name}.py)" in README


def test_array_example_streams_the_same_bits() -> None:
    lines = run_example("numpy_array").splitlines()
    assert [line.split()[0] for line in lines[:3]] == list(rtmtass.STEMS)
    assert lines[3] == "stream equals array: True"


def test_recording_example_writes_what_the_array_holds(tmp_path: Path) -> None:
    sound = 0.1 * np.random.default_rng(0).standard_normal((30_000, 2))
    soundfile.write(tmp_path / "talk.flac", sound, 44100)
    lines = run_example("recording", str(tmp_path / "talk.flac"), str(tmp_path / "out"))
    assert "30000 of 30000 frames" in lines
    assert "0.68 s at 44100 Hz, 2 channels" in lines
    assert lines.count("equals the array: True") == 3


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["recording"], "usage: python -m rtmtass.examples.recording RECORDING FOLDER"),
        (["recording", "nofile.flac", "out"], "nofile.flac doesn't exist; check the spelling:"),
        (["onnx_stems"], "usage: python onnx_stems.py small.onnx talk.wav"),
    ],
)
def test_examples_say_what_is_missing(words: list[str], line: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", f"rtmtass.examples.{words[0]}", *words[1:]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith(line)
    assert done.stderr.count("\n") == 1


def test_batch_example() -> None:
    assert run_example("batch", "3").startswith("3 streams, a hop every 16 ms: step p50 ")


@pytest.mark.skipif(bool(jack_rig.missing_parts()), reason=jack_rig.missing_parts())
def test_microphone_example_over_jack() -> None:
    server = jack_rig.JackServer()
    try:
        last = run_example("microphone", "2").splitlines()[-1]
    finally:
        server.close()
    seconds, latency_ms = map(float, re.findall(r"^([\d.]+) s, latency ([\d.]+) ms", last)[0])
    assert seconds > 0.5
    assert latency_ms >= 32


def test_udp_example_sends_the_stems() -> None:
    receiver = UdpSource("127.0.0.1", 0, 16000, channels=3)
    command = [sys.executable, "-m", "rtmtass.examples.udp", "0", str(receiver.port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(re.findall(r":(\d+) ->", process.stdout.readline())[0])
        mixture = 0.1 * np.random.default_rng(0).standard_normal(8000).astype(np.float32)
        sender = UdpSink("127.0.0.1", port)
        sender.write(mixture[None, :, None])
        sender.close()  # an empty datagram: the example ends, and its sink sends one, too
        received, block = [], np.zeros((4096, 3), np.float32)
        while n := receiver.read(block):
            received.append(block[:n].copy())
        receiver.close()
        assert process.wait(TIMEOUT_S) == 0
    separator = rtmtass.load(block=256)
    stems = np.concatenate(received).T[:, separator.delay :]
    np.testing.assert_allclose(stems, separator.separate(mixture), atol=1e-6)


ONNX_ONLY = """
import runpy, sys
for name in ("rtmtass", "torch", "onnx", "numba", "scipy", "soundfile", "soxr"):
    sys.modules[name] = None  # an import of it raises ImportError
sys.argv = ["onnx_stems.py", "small.onnx", "talk.wav"]
runpy.run_path("onnx_stems.py", run_name="__main__")
"""


def test_onnx_example_needs_only_onnxruntime_and_numpy(tmp_path: Path) -> None:
    export_onnx("rtmtass-small", tmp_path / "small.onnx")
    shutil.copy(EXAMPLES / "onnx_stems.py", tmp_path)
    samples = (3000 * np.random.default_rng(0).standard_normal(12345)).astype("<i2")
    with wave.open(str(tmp_path / "talk.wav"), "wb") as file:
        file.setparams((1, 2, 16000, len(samples), "NONE", ""))
        file.writeframes(samples.tobytes())
    subprocess.run([sys.executable, "-c", ONNX_ONLY], cwd=tmp_path, check=True, timeout=TIMEOUT_S)
    expected = rtmtass.load(precision="f32").separate(samples.astype(np.float32) / 32768)
    for name, stem in zip(rtmtass.STEMS, expected, strict=True):
        written, _ = soundfile.read(tmp_path / f"talk.{name}.wav", dtype="float32")
        np.testing.assert_allclose(written, stem, atol=5e-5)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_make_targets_exist(page: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    text = PAGES[page]
    for target in re.findall(r"^make (\w+)", text, re.M) + re.findall(r"`make (\w+)`", text):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_every_command_is_documented() -> None:
    usage = subprocess.run(
        [sys.executable, "-m", "rtmtass", "--help"], capture_output=True, text=True, check=True
    ).stdout
    listed = re.findall(r"^    (\w+) ", usage, re.M)
    assert "separate" in listed
    text = README + PAGES["rtmtass/training/GUIDE.md"] + PAGES["CHANGELOG.md"]
    assert [c for c in listed if f"rtmtass {c}" not in text and f"`{c}`" not in text] == []


@pytest.mark.parametrize("page", PAGES)
def test_links_and_paths_exist(page: str) -> None:
    here = (ROOT / page).parent
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", PAGES[page]):
        assert (here / target).exists(), target
    for path in re.findall(r"`((?:rtmtass|tests|benchmarks|models)/[\w./-]+)`", PAGES[page]):
        assert page != "CONTRIBUTING.md" or (ROOT / path).exists(), path


def test_the_layout_in_contributing_is_complete() -> None:
    layout = next(b for b in blocks("CONTRIBUTING.md", "") if b.startswith("rtmtass/\n"))
    folders = {path.parent.name for path in (ROOT / "rtmtass").glob("*/__init__.py")}
    assert {
        line.split("/")[0].strip() for line in layout.splitlines()[1:] if "/ " in line
    } >= folders


def test_readme_figures_are_those_of_the_release() -> None:
    metrics = json.loads((ROOT / "models" / "rtmtass-small" / "metrics.json").read_text())
    si_sdri = {stem: f"{value['mean']:.2f}" for stem, value in metrics["si_sdri"].items()}
    row = next(line for line in README.splitlines() if line.startswith("| separation"))
    assert f"**{si_sdri['average']} dB**" in row
    for stem in rtmtass.STEMS:
        assert f"{stem} {si_sdri[stem]}" in row
    assert f"SDRi is {metrics['sdri']['average']['mean']:.2f} dB" in README


def test_readme_is_short_and_expands_mtass_once() -> None:
    assert sum(bool(line.strip()) for line in README.splitlines()) <= 110
    assert README.count("(MTASS)") == 1


def test_decisions_are_numbered_and_short() -> None:
    text = PAGES["DECISIONS.md"]
    numbers = [int(n) for n in re.findall(r"^(\d+)\. \*\*", text, re.M)]
    assert numbers == list(range(1, len(numbers) + 1))
    for entry in re.split(r"^(?=\d+\. \*\*)", text, flags=re.M)[1:]:
        lines = entry.strip().splitlines()
        assert len(lines) <= 10, lines[0]
        assert max(map(len, lines)) <= 110, lines[0]
