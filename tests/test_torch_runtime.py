"""The torch runtime: single streams, batches, state in place; on a GPU if there is one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import SUBBANDS, arrays, seasoned, tiny

import rtmtass
from rtmtass.config import ModelConfig
from rtmtass.errors import UsageError
from rtmtass.runtime.compiled.runtime import CompiledRuntime
from rtmtass.runtime.torch import runtime as torch_runtime
from rtmtass.runtime.torch.runtime import TorchRuntime
from rtmtass.runtime.torch.steps import GraphStepper, build_net, cuda_matmul_precision
from rtmtass.weights import open_model

CONFIGS = {
    "recurrent": tiny(),
    "multiscale": tiny("multiscale"),
    "bands": tiny("bands"),
    "lookahead": tiny(lookahead=2),
    "spectral_mapping": tiny(target="spectral_mapping"),
    "subbands": tiny(**SUBBANDS),
    "pops": tiny(level_pop_s=0.02),
    "expander": tiny(expander_db=-5.0),
    "groups": tiny(
        recurrent=9, recurrent_groups=3, **{**SUBBANDS, "subband_channels": 14, "subband_groups": 2}
    ),
}
CPU = torch.device("cpu")
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


def sounds(streams: int, n: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.standard_normal((streams, n)) * rng.random((streams, 1))).astype(np.float32) * 0.3


def alone(runtime: TorchRuntime, sound: np.ndarray, chunk: int = 1) -> np.ndarray:
    n_stems, hop = len(runtime.config.stems), runtime.config.stft.hop
    out = np.zeros((n_stems, len(sound), 1), np.float32)
    highband_weights = np.zeros((n_stems, len(sound)), np.float32)
    runtime.stream(1, chunk).run(sound[:, None].copy(), out, highband_weights, len(sound) // hop)
    return out[:, :, 0]


@pytest.mark.parametrize("pieces", [[40], [1] * 40, [1, 7, 32]])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_batch_equals_single_streams(name: str, pieces: list[int]) -> None:
    net = seasoned(CONFIGS[name])
    runtime, hop = TorchRuntime(net.config, arrays(net)), net.config.stft.hop
    x = sounds(5, 40 * hop)
    batch, at, parts = runtime.batch(5), 0, []
    for hops in pieces:
        out = np.zeros((5, 3, hops * hop), np.float32)
        batch.run(np.ascontiguousarray(x[:, at : at + hops * hop]), out, hops)
        parts.append(out)
        at += hops * hop
    expected = np.stack([alone(runtime, one) for one in x])
    np.testing.assert_allclose(np.concatenate(parts, axis=2), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_one_stream_of_a_batch_can_be_reset(name: str) -> None:
    net = seasoned(CONFIGS[name])
    runtime, hop = TorchRuntime(net.config, arrays(net)), net.config.stft.hop
    x = sounds(3, 20 * hop)
    batch = runtime.batch(3)
    first, second = np.zeros((2, 3, 3, x.shape[1]), np.float32)
    batch.run(x, first, 20)
    batch.reset(1)
    batch.run(x, second, 20)
    np.testing.assert_allclose(second[1], first[1], atol=1e-6)
    twice = alone(runtime, np.tile(x[2], 2))[:, x.shape[1] :]
    np.testing.assert_allclose(second[2], twice, atol=1e-6)
    assert np.abs(second[0] - first[0]).max() > 1e-4
    batch.reset()
    batch.run(x, second, 20)
    np.testing.assert_array_equal(second, first)


def in_place(
    config: ModelConfig, capture: Callable[[Callable[[], None]], Callable[[], None]], streams: int
) -> GraphStepper:
    net = seasoned(config)
    return GraphStepper(
        build_net(net, arrays(net), is_bf16=False), CPU, streams, frozenset({1, 8}), capture
    )


def test_steps_in_place_equal_steps_by_value() -> None:
    """The GPU's code path without the recording; the warm-up must leave the state unchanged."""
    captured = []

    def run_and_record(body: Callable[[], None]) -> Callable[[], None]:
        body()
        captured.append(body)
        return body

    for name in ("recurrent", "multiscale", "lookahead", "subbands"):
        config = CONFIGS[name]
        net = seasoned(config)
        value = TorchRuntime(config, arrays(net)).network(2)
        place = in_place(config, run_and_record, 2)
        rng = np.random.default_rng(0)
        x = rng.standard_normal((2, 60, 2 * config.stft.n_bins)).astype(np.float32)
        at = 0
        for frames in (8, 1, 1, 3, 8, 1, 30, 8):
            if at == 13:
                value.reset(1)
                place.reset(1)
            piece = x[:, at : at + frames]
            np.testing.assert_allclose(place.advance(piece), value.advance(piece), atol=1e-5)
            at += frames
        assert at == 60
        assert place.trouble == ""
    assert len(captured) == 8  # lengths 1 and 8 of four networks, each once


def test_without_graph_capture_it_warns_and_runs() -> None:
    def refuse(body: Callable[[], None]) -> Callable[[], None]:
        body()
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    config = CONFIGS["recurrent"]
    place, expected = in_place(config, refuse, 1), in_place(config, lambda body: body, 1)
    x = np.random.default_rng(0).standard_normal((1, 4, 2 * config.stft.n_bins)).astype(np.float32)
    with pytest.warns(RuntimeWarning, match="no CUDA graph: operation not permitted when stream"):
        first = place.advance(x[:, :1]).copy()
    assert place.trouble.startswith("operation not permitted")
    np.testing.assert_array_equal(first, expected.advance(x[:, :1]))
    np.testing.assert_array_equal(place.advance(x[:, 1:2]), expected.advance(x[:, 1:2]))


def test_bf16_is_close_on_the_trained_network() -> None:
    model = open_model()
    x = sounds(1, 200 * model.config.stft.hop)[0]
    fine = alone(TorchRuntime(model.config, model.weights), x, 32)
    coarse = alone(TorchRuntime(model.config, model.weights, precision="bf16"), x, 32)
    noise_db = 10 * np.log10(((fine - coarse) ** 2).sum() / (fine**2).sum())
    print(f"bf16: {noise_db:.1f} dB")
    assert -80 < noise_db < -30
    np.testing.assert_allclose(coarse.sum(0), fine.sum(0), atol=1e-5)  # they still sum exactly


def test_matmul_precision_is_set_within_its_context_only() -> None:
    matmul = torch.backends.cuda.matmul
    name = "fp32_precision" if hasattr(matmul, "fp32_precision") else "allow_tf32"
    before, seen = getattr(matmul, name), []
    for is_tf32 in (True, False):
        with cuda_matmul_precision(is_tf32):
            seen.append(getattr(matmul, name))
        assert getattr(matmul, name) == before
    assert seen in (["tf32", "ieee"], [True, False])


def test_an_unusable_device_is_a_one_line_error(monkeypatch: pytest.MonkeyPatch) -> None:
    net = seasoned(tiny())
    with pytest.raises(UsageError, match="torch knows no device 'abacus'"):
        TorchRuntime(net.config, arrays(net), "abacus")
    with pytest.raises(UsageError, match="no precision 'int8'; choose from auto, f32, tf32, bf16"):
        rtmtass.load(runtime="torch", precision="int8")

    def broken() -> None:
        raise RuntimeError("Found no NVIDIA driver on your system. Please check\nmore")

    monkeypatch.setattr(torch.cuda, "init", broken)
    with pytest.raises(UsageError, match=r"Found no NVIDIA driver.*--device cpu") as caught:
        torch_runtime.find_device("cuda")
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match=r"1 CUDA device\(s\), not 'cuda:3'"):
        torch_runtime.find_device("cuda:3")


def test_the_gpu_benchmark_reports_a_missing_gpu(tmp_path: Path) -> None:
    import subprocess
    import sys

    process = subprocess.run(
        [sys.executable, "-m", "benchmarks.cuda", "--quick", "--json"],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    if not torch.cuda.is_available():
        assert process.stdout == ""
        assert process.stderr.startswith("nothing measured: torch")
        assert process.stderr.count("\n") == 1


@on_gpu
@pytest.mark.parametrize("precision", ["f32", "tf32"])
@pytest.mark.parametrize("chunk", [1, 32])
def test_a_gpu_matches_the_cpu(chunk: int, precision: str) -> None:
    model = open_model()
    x = sounds(1, 330 * model.config.stft.hop)[0]
    expected = alone(TorchRuntime(model.config, model.weights), x, chunk)
    ours = alone(TorchRuntime(model.config, model.weights, "cuda", precision), x, chunk)
    delta = np.abs(ours - expected).max() / np.abs(expected).max()
    print(f"{precision}, {chunk} frames a step: {delta:.1e}")
    assert delta < 1e-3


@on_gpu
def test_gpu_steps_are_captured_and_batched() -> None:
    model = open_model()
    hop = model.config.stft.hop
    runtime = TorchRuntime(model.config, model.weights, "cuda")
    network = runtime.network(4, 32)
    bins = model.config.stft.n_bins
    network.advance(np.zeros((4, 1, 2 * bins), np.float32))
    assert isinstance(network, GraphStepper)
    assert network.trouble == ""
    x = sounds(4, 100 * hop)
    out = np.zeros((4, 3, 100 * hop), np.float32)
    runtime.batch(4).run(x, out, 100)
    numba = CompiledRuntime(model.config, model.weights)
    for b, one in enumerate(x):
        expected, highband_weights = np.zeros((3, len(one), 1), np.float32), np.zeros((3, len(one)))
        numba.stream(1, 32).run(
            one[:, None].copy(), expected, highband_weights.astype(np.float32), 100
        )
        delta = np.abs(out[b] - expected[:, :, 0]).max() / np.abs(expected).max()
        assert delta < 1e-3
