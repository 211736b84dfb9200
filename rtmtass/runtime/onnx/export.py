"""Exports a model as an ONNX file with metadata, verified against our own runtime."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rtmtass.config import ModelConfig
from rtmtass.errors import ModelError, OutputError, UsageError
from rtmtass.io.part_file import why_unwritable
from rtmtass.runtime.folding import Weights
from rtmtass.runtime.protocols import CHUNK, Runtime
from rtmtass.types import Floats
from rtmtass.weights import open_model

FRAMES = ("any", "1")
"""Frames a call: any number up to `nodes.MAX_FRAMES`, or one."""
TOLERANCE = 1e-4
"""Largest difference from our runtime, relative to the loudest sample."""
PROOF_HOPS = 1000


@dataclass(frozen=True)
class Report:
    """An exported file, and its difference from our own runtime.

    Attributes:
        path: the file.
        n_bytes: its size.
        opset: version of the operators.
        memories: state inputs, and as many outputs.
        hops: hops compared.
        largest: largest difference of a sample, relative to the largest sample.
        mean: mean absolute difference, relative to the mean absolute sample.
    """

    path: Path
    n_bytes: int
    opset: int
    memories: int
    hops: int
    largest: float
    mean: float


def export_onnx(
    model: str, path: Path | str, *, frames: str = "any", overwrite: bool = False
) -> Report:
    """Write a released model as ONNX, and verify it with onnxruntime.

    Args:
        model: name or folder, as of `rtmtass.load`.
        path: the file to write.
        frames: one of `FRAMES`.
        overwrite: replace an existing file.

    Raises:
        MissingPartError: onnx or onnxruntime isn't installed.
        ModelError: unknown model; or the graph differs from our runtime: no file is written.
        OutputError: the file exists, or can't be written.
        UsageError: `frames` is not one of `FRAMES`.
    """
    opened = open_model(model)
    about = {key: str(opened.about.get(key, "")) for key in ("version", "licence")}
    return export_network(
        opened.config, opened.weights, path, frames=frames, overwrite=overwrite, about=about
    )


def export_network(
    config: ModelConfig,
    weights: Weights,
    path: Path | str,
    *,
    frames: str = "any",
    overwrite: bool = False,
    about: dict[str, str] | None = None,
) -> Report:
    """As `export_onnx` for any network; `about` is added to the metadata."""
    from rtmtass.runtime.onnx import graph as onnx_graph
    from rtmtass.runtime.onnx import nodes as onnx_nodes
    from rtmtass.runtime.onnx.runtime import OnnxRuntime

    if frames not in FRAMES:
        raise UsageError(f"frames must be one of {', '.join(FRAMES)}, not {frames!r}")
    path = Path(path)
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists; add --overwrite to replace it")
    metadata = {
        **describe(config),
        "max_frames": str(1 if frames == "1" else onnx_nodes.MAX_FRAMES),
    }
    graph = onnx_graph.write_graph(
        config, weights, {**metadata, **(about or {})}, is_single=frames == "1"
    )
    part = path.with_name(f"{path.name}.part")
    data = graph.SerializeToString()
    try:
        part.write_bytes(data)
        largest, mean = compare(config, weights, OnnxRuntime(part))
        if not max(largest, mean) <= TOLERANCE:
            raise ModelError(
                f"the exported graph differs from our runtime by {largest:.1e} of full scale"
                f" (mean {mean:.1e}), more than {TOLERANCE:.0e}: {path} was not written"
            )
        part.replace(path)
    except OSError as error:
        raise OutputError(why_unwritable(path, error, "--onnx")) from error
    finally:
        part.unlink(missing_ok=True)
    memories = len(graph.graph.input) - 1
    return Report(path, len(data), onnx_nodes.OPSET, memories, PROOF_HOPS, largest, mean)


def describe(config: ModelConfig) -> dict[str, str]:
    """Return the file's metadata: all that a program needs to use the graph."""
    stft = config.stft
    return {
        "name": config.name,
        "sample_rate": str(stft.sample_rate),
        "n_fft": str(stft.n_fft),
        "hop": str(stft.hop),
        "window": "square root of Hann, periodic"
        if stft.synthesis == stft.n_fft
        else f"Mauler and Martin 2007, synthesis over the last {stft.synthesis} samples",
        "synthesis": str(stft.synthesis),
        "delay": str(config.delay),
        "algorithmic_latency": str(config.algorithmic_latency),
        "stems": ",".join(config.stems),
        "spectrum": "mixture (frames, 2, F) and stems (frames, S, 2, F): real, imaginary part of"
        " the unscaled transform of each window",
        "memory": "state.X in, next.X out; zeros before the first frame",
        "config": json.dumps(config.to_dict()),
    }


def compare(
    config: ModelConfig, weights: Weights, other: Runtime, hops: int = PROOF_HOPS
) -> tuple[float, float]:
    """Compare another runtime with the compiled one, hop by hop and in chunks.

    Returns:
        `Report.largest` and `Report.mean` over all stems, the worse of both chunk sizes.
    """
    from rtmtass.runtime.compiled.runtime import CompiledRuntime

    sound = synthetic_signal(hops * config.stft.hop, config.stft.sample_rate)[:, None].copy()
    ours = _separate(config, CompiledRuntime(config, weights), sound, CHUNK)
    deltas = [
        np.abs(_separate(config, other, sound, chunk) - ours) / np.abs(ours).max()
        for chunk in (1, CHUNK)
    ]
    scale = np.abs(ours).mean() / np.abs(ours).max()
    return max(float(d.max()) for d in deltas), max(float(d.mean() / scale) for d in deltas)


def _separate(config: ModelConfig, runtime: Runtime, sound: Floats, chunk: int) -> Floats:
    out = np.zeros((len(config.stems), *sound.shape), np.float32)
    highband_weights = np.zeros(out.shape[:2], np.float32)
    runtime.stream(1, chunk).run(sound, out, highband_weights, len(sound) // config.stft.hop)
    return out


def synthetic_signal(n: int, sample_rate: int) -> Floats:
    """Return (n,) samples of a test signal: gliding voice, chords, noise bursts, silence."""
    rng = np.random.default_rng(0)
    t = np.arange(n) / sample_rate
    pitch = 2 * np.pi * np.cumsum(140 + 40 * np.sin(2.1 * t)) / sample_rate
    voice = sum(np.sin(k * pitch) / k for k in range(1, 9)) * np.maximum(np.sin(9 * t), 0)
    chord = sum(np.sin(2 * np.pi * f * t) for f in (220, 277.2, 329.6)) * (np.sin(0.7 * t) > 0)
    bursts = np.repeat(rng.random(n // 4000 + 1) ** 3, 4000)[:n] * rng.standard_normal(n)
    sound = 0.06 * voice + 0.04 * chord + 0.1 * bursts
    sound[n // 2 : n // 2 + n // 10] = 0
    return np.asarray(sound, np.float32)


def export_int8(config: ModelConfig, weights: Weights, path: Path | str) -> None:
    """Write a network quantised by onnxruntime, one frame a call; for benchmarks only.

    Weights are int8 with a scale per output channel, activations are quantised
    dynamically. GRUs are written as matmuls, since onnxruntime doesn't quantise its GRU
    operator. Not verified against our runtime.

    Raises:
        MissingPartError: onnx or onnxruntime isn't installed.
    """
    from rtmtass.runtime.onnx.graph import write_graph
    from rtmtass.runtime.onnx.runtime import quantise

    graph = write_graph(config, weights, describe(config), is_single=True, is_unstacked=True)
    quantise(graph, Path(path))


def as_dict(report: Report) -> dict[str, Any]:
    """Return the report as plain values for JSON."""
    return {**asdict(report), "path": str(report.path)}
