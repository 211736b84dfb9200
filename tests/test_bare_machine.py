"""Training with only torch, numpy and soundfile: what is left out, and how it is reported."""

from __future__ import annotations

import builtins
import importlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import NET, buzzing_corpus, config, write_toml
from test_training_pack import fill_bank

from rtmtass.cli.main import build_parser
from rtmtass.cli.progress import Lines, open_steps
from rtmtass.errors import MissingPartError
from rtmtass.net import cpu_kernels
from rtmtass.net import gru as gru_room
from rtmtass.training import requirements as equipment
from rtmtass.training.config import TrainConfig
from rtmtass.training.data.pack import pack
from rtmtass.training.requirements import compiler_problem, fitted, missing
from rtmtass.training.trainer import Trainer
from rtmtass.training.validation import write_snapshots
from rtmtass.weights import open_model

GUIDE = Path(equipment.__file__).with_name("README.md")

BARE = """
import sys

class Bare:
    def __init__(self, inner):
        self.inner = inner

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in {packages}:
            return self.inner.find_spec(name, path, target)

sys.meta_path[:] = map(Bare, sys.meta_path)
from rtmtass.cli.main import main
code = main(sys.argv[1:])
print("LOADED", sorted({packages} & set(sys.modules)))
raise SystemExit(code)
"""
PACKAGES = {
    "numba", "llvmlite", "soxr", "scipy", "rich", "safetensors", "sounddevice", "matplotlib",
    "pyworld", "onnx", "onnxruntime", "pesq", "pystoi", "fast_bss_eval",
}  # fmt: skip


def bare(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command without the optional packages and without a C++ compiler."""
    command = [sys.executable, "-c", BARE.format(packages=PACKAGES), *arguments]
    environment = {**os.environ, "CXX": "/there/is/none", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bare")
    (folder / "corpus").mkdir()
    for name in ("rooms", "singing", "generated"):
        fill_bank(folder / "cache", name, 4)
    corpus = buzzing_corpus(folder / "corpus")
    pack(corpus, folder / "packs", cache=folder / "cache", workers=1)
    return folder / "packs"


def test_training_from_packs_resumes(packs: Path, tmp_path: Path) -> None:
    changes = {"packs": str(packs), "cache": str(tmp_path / "cache"), "examples": "device"}
    values = config(tmp_path, tmp_path / "run", **changes, steps=2, compile=True, snapshots=1)
    write_toml(tmp_path / "bare.toml", values)
    process = bare("train", str(tmp_path / "bare.toml"))
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-2:] == [str(tmp_path / "run" / "best"), "LOADED []"]
    shown = [line for line in process.stderr.splitlines() if line.startswith("rtmtass: ")]
    words = [line.split(" ")[1] for line in shown]
    assert [word for word in words if word != "compiling"] == [
        "matplotlib",
        "numba",
        "torch.compile",
    ]
    assert "(InvalidCxxCompiler: No working C++ compiler" in shown[words.index("torch.compile")]
    assert "decoding packs: " in process.stderr
    assert open_model(str(tmp_path / "run" / "best")).about["training"]["steps"] == 2
    clip = tmp_path / "run" / "snapshots" / "clip-0"
    assert (clip / "mixture.flac").exists()
    assert not (clip / "truth.png").exists()
    again = bare("train", str(tmp_path / "bare.toml"), "--steps", "3")
    assert again.returncode == 0, again.stderr
    assert "decoding packs" not in again.stderr
    last = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert (last["step"], last["bank_sizes"]["rooms"]) == (3, 3)


def test_host_examples_are_rejected_without_their_packages(packs: Path, tmp_path: Path) -> None:
    values = config(tmp_path, tmp_path / "run", packs=str(packs), cache=str(tmp_path / "cache"))
    write_toml(tmp_path / "host.toml", values)
    process = bare("train", str(tmp_path / "host.toml"))
    assert process.returncode == 1
    assert process.stderr == (
        "rtmtass: examples = \"host\" needs scipy and soxr: pip install 'rtmtass[train]',"
        ' or set examples = "device", which needs only torch\n'
    )


def test_without_numba_torchs_gru_gradient_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_kernels, "HAS_KERNELS", False)
    torch.manual_seed(0)
    gru = torch.nn.GRU(6, 5, batch_first=True)
    x, h = torch.randn(3, 9, 6, requires_grad=True), torch.randn(3, 5)
    weight = torch.randn(3, 9, 5)
    with torch.autocast("cpu", torch.bfloat16):
        y, last = gru_room.gru_scan(x.bfloat16(), h, gru)
    assert (y.dtype, last.shape) == (torch.float32, (3, 5))
    y, last = gru_room.gru_scan(x, h, gru)
    expected, expected_last = gru(x, h[None])
    assert torch.equal(y, expected)
    assert torch.equal(last, expected_last[0])
    (y * weight).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_another_missing_module_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only numba may be missing: a misspelt import must not silently slow training down."""
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "rtmtass.net" and "gru_kernels" in str(rest):
            raise ModuleNotFoundError("No module named 'other'", name="other")
        return real(name, *rest)

    spec = importlib.util.find_spec("rtmtass.net.cpu_kernels")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModuleNotFoundError, match="other"):
        spec.loader.exec_module(module)


def test_available_features_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = config(tmp_path, tmp_path, compile=True)
    monkeypatch.setattr(equipment, "compiler_problem", lambda device: "")
    assert fitted(values) == (values, [])
    monkeypatch.setattr(equipment, "compiler_problem", lambda device: "no compiler")
    fitting, lines = fitted(values)
    assert not fitting.compile
    assert lines == ["torch.compile doesn't work here (no compiler): training without it, slower"]
    assert fitted(config(tmp_path, tmp_path)) == (config(tmp_path, tmp_path), [])
    assert missing("numpy", "no_such_package", "torch") == ["no_such_package"]


def test_a_failing_compiler_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(function: object) -> object:
        raise RuntimeError("\nPython.h: no such file\nmore of it")

    monkeypatch.setattr(torch, "compile", fail)
    assert compiler_problem("cpu") == "Python.h: no such file"


def test_snapshots_without_matplotlib_have_no_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rtmtass.spectrogram", None)
    trainer = Trainer(config(tmp_path, tmp_path / "run"), lambda _: None)
    sound = np.zeros(8000, np.float32)
    dev = [(sound, np.zeros((3, 8000), np.float32))]
    write_snapshots(tmp_path, 7, trainer.net, trainer.stft, dev, torch.device("cpu"))
    assert {path.name for path in (tmp_path / "clip-0").glob("*.*")} == {
        "mixture.flac", "speech.flac", "music.flac", "noise.flac",
    }  # fmt: skip
    assert trainer.model_config.net.hidden == NET["hidden"]


def test_progress_is_printed_in_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now_s)
    lines = Lines()
    lines("checking", 1, 9)
    lines("checking", 2, 9)
    now_s = 106.0
    lines("checking", 5, 9)
    lines("checking", 9, 9)
    lines("decoding", 1, 4)
    lines_shown = capsys.readouterr().err.splitlines()
    assert lines_shown == ["checking: 1/9", "checking: 5/9", "checking: 9/9", "decoding: 1/4"]
    with open_steps(quiet=True) as steps:
        steps("anything", 1, 2)
    assert capsys.readouterr().err == ""


def blocks(language: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", GUIDE.read_text("utf-8"), re.M | re.S)
    return [text for name, text in fenced if name == language]


def test_the_guides_commands_and_config_are_valid(tmp_path: Path) -> None:
    lines = [line.split("#")[0] for block in blocks("") for line in block.splitlines()]
    shown = [line.partition("rtmtass ")[2] for line in lines if not line.startswith("tar ")]
    assert len(shown) == 7
    for command in shown:
        assert callable(build_parser().parse_args(shlex.split(command)).run)
    (tmp_path / "gpu.toml").write_text(blocks("toml")[0])
    values = TrainConfig.read(tmp_path / "gpu.toml", minutes=11)
    assert (values.packs, values.examples) == ("PACKS", "device")
    assert values.is_trunk


def test_missing_training_tools_are_named() -> None:
    importlib.invalidate_caches()
    from rtmtass.cli.data import require_training_tools

    require_training_tools("torch", "numpy")
    with pytest.raises(MissingPartError, match="training tools need no_such_package: pip install"):
        require_training_tools("no_such_package")
