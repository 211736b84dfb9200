"""Exported graphs match the network, frame by frame and in chunks, as their metadata says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from networks import SUBBANDS, arrays, seasoned, tiny

from rtmtass.config import ModelConfig
from rtmtass.errors import ModelError, OutputError, UsageError
from rtmtass.net.separation import SeparationNet
from rtmtass.runtime.compiled.runtime import CompiledRuntime
from rtmtass.runtime.onnx import level as onnx_level
from rtmtass.runtime.onnx import nodes as onnx_nodes
from rtmtass.runtime.onnx.export import (
    FRAMES,
    PROOF_HOPS,
    TOLERANCE,
    export_int8,
    export_network,
    export_onnx,
)
from rtmtass.runtime.onnx.runtime import OnnxRuntime
from rtmtass.separator import Separator

CONFIGS = {
    "recurrent": tiny(),
    "multiscale": tiny("multiscale"),
    "bands": tiny("bands"),
    "lookahead": tiny(lookahead=2),
    "magnitude_mask": tiny(target="magnitude_mask", compensation_target="none"),
    "level_by_power": tiny(level_by_power=True),
    "spectral_mapping": tiny(target="spectral_mapping", recurrent=13),
    "subbands": tiny(**SUBBANDS),
    "pops": tiny(level_pop_s=0.02),
    "expander": tiny(expander_db=-5.0),
    "steep expander": tiny(expander_db=-5.0, expander_ratio=4),
    "groups": tiny(
        recurrent=9, recurrent_groups=3, **{**SUBBANDS, "subband_channels": 14, "subband_groups": 2}
    ),
}


def export(net: SeparationNet, path: Path, frames: str = "any") -> OnnxRuntime:
    export_network(net.config, arrays(net), path, frames=frames)
    return OnnxRuntime(path)


def spectra(config: ModelConfig, frames: int) -> np.ndarray:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((frames, 2, config.stft.n_bins)) * rng.random((frames, 1, 1))
    return x.astype(np.float32)


@pytest.mark.parametrize("frames", FRAMES)
@pytest.mark.parametrize("name", CONFIGS)
def test_the_graph_matches_torch(name: str, frames: str, tmp_path: Path) -> None:
    net = seasoned(CONFIGS[name])
    step = export(net, tmp_path / "net.onnx", frames).step()
    x = spectra(net.config, 300)
    with torch.no_grad():
        expected = net(torch.from_numpy(x)[None])[0].numpy()
    sizes = [1] * 300 if frames == "1" else [1, 2, 7, 1, 90, 199]
    starts = np.cumsum([0, *sizes[:-1]])
    ours = [step.step(x[a : a + n]).copy() for a, n in zip(starts, sizes, strict=True)]
    delta = np.abs(np.concatenate(ours) - expected).max() / np.abs(expected).max()
    assert delta < 1e-5


def test_the_metadata_is_all_that_a_program_needs(tmp_path: Path) -> None:
    """With numpy's FFT, the window by its name, and states of zeros."""
    net = seasoned(tiny())
    path = tmp_path / "net.onnx"
    export(net, path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    n_fft, hop, delay = (int(about[k]) for k in ("n_fft", "hop", "delay"))
    assert about["window"] == "square root of Hann, periodic"
    window = np.sin(np.pi * np.arange(n_fft) / n_fft)
    state = {
        i.name: np.zeros(i.shape, np.float32) for i in session.get_inputs() if "state." in i.name
    }
    x = np.random.default_rng(0).standard_normal(40 * hop) * 0.1
    history, late = np.zeros(n_fft), np.zeros((3, n_fft))
    out = []
    for block in x.reshape(-1, hop):
        history = np.concatenate([history[hop:], block])
        spec = np.fft.rfft(history * window)
        inputs = np.stack([spec.real, spec.imag])[None].astype(np.float32)
        outputs = session.run(None, {"mixture": inputs, **state})
        names = [o.name for o in session.get_outputs()]
        state = {n.replace("next.", "state."): v for n, v in zip(names, outputs, strict=True)}
        stems = state.pop("stems")[0]
        late += np.fft.irfft(stems[:, 0] + 1j * stems[:, 1], n_fft) * window
        out.append(late[:, :hop].copy())
        late = np.concatenate([late[:, hop:], np.zeros((3, hop))], axis=1)
    separator = Separator(net.config, CompiledRuntime(net.config, arrays(net)), block=hop)
    assert delay == separator.delay
    expected = separator.process(x.astype(np.float32))
    np.testing.assert_allclose(np.concatenate(out, axis=1), expected, atol=2e-6)


def test_the_released_model_is_verified_and_described(tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    report = export_onnx("rtmtass-small", path)
    print(f"largest {report.largest:.1e}, mean {report.mean:.1e}")
    assert report.hops == PROOF_HOPS
    assert 0 < report.largest < TOLERANCE
    assert 0 < report.mean < TOLERANCE
    assert [p.name for p in tmp_path.iterdir()] == ["small.onnx"]
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    about = {p.key: p.value for p in model.metadata_props}
    assert about["stems"] == "speech,music,noise"
    assert (about["sample_rate"], about["n_fft"], about["hop"]) == ("16000", "512", "256")
    assert (about["delay"], about["algorithmic_latency"]) == ("256", "512")
    assert (about["licence"], about["version"] != "") == ("MIT", True)
    assert model.opset_import[0].version == report.opset == onnx_nodes.OPSET
    states = [i.name for i in model.graph.input if i.name.startswith("state.")]
    outputs = [o.name for o in model.graph.output]
    assert len(states) == report.memories > 0
    assert outputs == ["stems", *(s.replace("state.", "next.") for s in states)]


def test_a_separator_runs_on_an_exported_graph(tmp_path: Path) -> None:
    net = seasoned(tiny(lookahead=1))
    x = np.random.default_rng(0).standard_normal((5000, 2)).astype(np.float32) * 0.1
    ours = Separator(net.config, CompiledRuntime(net.config, arrays(net)), channels=2).separate(x)
    runtime = export(net, tmp_path / "net.onnx")
    theirs = Separator(runtime.config, runtime, channels=2)
    np.testing.assert_allclose(theirs.separate(x), ours, atol=2e-6)
    np.testing.assert_array_equal(theirs.separate(x), theirs.separate(x))


def test_a_reset_step_equals_a_new_one(tmp_path: Path) -> None:
    net = seasoned(tiny())
    step = export(net, tmp_path / "net.onnx").step()
    x = spectra(net.config, 9)
    first = [step.step(x).copy(), step.step(x).copy()]
    step.reset()
    again = [step.step(x).copy(), step.step(x).copy()]
    np.testing.assert_array_equal(first, again)
    assert np.abs(first[0] - first[1]).max() > 0


def test_a_graph_that_differs_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = seasoned(tiny())
    monkeypatch.setattr(onnx_level, "LEVEL_FLOOR", 1e-3)
    with pytest.raises(ModelError, match=r"differs from our runtime by .* was not written"):
        export_network(net.config, arrays(net), tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_int8_is_close_and_has_no_float_matmuls(tmp_path: Path) -> None:
    for name in ("recurrent", "multiscale", "subbands"):
        net = seasoned(CONFIGS[name])
        export_int8(net.config, arrays(net), tmp_path / "int8.onnx")
        export_network(net.config, arrays(net), tmp_path / "f32.onnx", overwrite=True)
        coarse, fine = OnnxRuntime(tmp_path / "int8.onnx"), OnnxRuntime(tmp_path / "f32.onnx")
        x = spectra(net.config, 50)
        steps = coarse.step(), fine.step()
        a, b = (np.concatenate([s.step(x[t : t + 1]).copy() for t in range(50)]) for s in steps)
        delta = np.abs(a - b).max() / np.abs(b).max()
        assert 1e-6 < delta < 0.1
        graph = onnx.load(tmp_path / "int8.onnx").graph
        assert not [n for n in graph.node if n.op_type in ("MatMul", "Gemm", "GRU")]


def test_invalid_arguments_are_refused(tmp_path: Path) -> None:
    net = seasoned(tiny())
    taken = tmp_path / "taken.onnx"
    taken.write_text("mine")
    with pytest.raises(OutputError, match="exists; add --overwrite"):
        export_network(net.config, arrays(net), taken)
    assert taken.read_text() == "mine"
    with pytest.raises(UsageError, match="frames must be one of any, 1, not '2'"):
        export_network(net.config, arrays(net), tmp_path / "x.onnx", frames="2")
    with pytest.raises(OutputError, match="is not a folder"):
        export_network(net.config, arrays(net), tmp_path / "none" / "x.onnx")
    with pytest.raises(ModelError, match="not a graph written by rtmtass export"):
        OnnxRuntime(taken)


def run_command(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rtmtass", "export", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_writes_and_reports(tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    process = run_command("rtmtass-small", "--onnx", str(path), "--json")
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout)["largest"] < TOLERANCE
    assert OnnxRuntime(path).config.name == "rtmtass-small"
    again = run_command("rtmtass-small", "--onnx", str(path))
    assert (again.returncode, again.stderr.count("\n")) == (1, 1)
    assert "exists; add --overwrite" in again.stderr


def test_the_command_names_a_missing_package(tmp_path: Path) -> None:
    for lacking in ("onnx", "onnxruntime"):
        script = (
            f"import sys; sys.modules[{lacking!r}] = None\n"
            "from rtmtass.cli.main import main\n"
            f"sys.exit(main(['export', 'rtmtass-small', '--onnx', {str(tmp_path / 'x')!r}]))"
        )
        process = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=False
        )
        assert process.returncode == 1
        assert "pip install 'rtmtass[export]'" in process.stderr
        assert process.stderr.count("\n") == 1
