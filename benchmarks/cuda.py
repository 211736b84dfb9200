"""How fast is a GPU: one stream hop by hop, many streams in a batch, whole files?

Each figure is compared with the compiled CPU runtime's from the same run, and each
precision's output with the CPU's float32. A step is timed as in live use: from samples
in host memory to stems in host memory. Without a GPU the script prints the reason and
measures nothing; `--device cpu` tests the script itself.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import rtmtass
from benchmarks.harness.machine_info import machine_card
from rtmtass import Separator
from rtmtass.runtime.torch.device import find_device
from rtmtass.runtime.torch.runtime import TorchRuntime
from rtmtass.weights import Model, open_model

HOP_S = 0.016
WARM_UP = 20
PRECISIONS = ("f32", "tf32", "bf16")


def mixture(seconds: float) -> np.ndarray:
    """Return noise bursts over a gliding tone, (n,): never silent and never stationary."""
    rng = np.random.default_rng(0)
    n = int(seconds * 16000) // 256 * 256
    t = np.arange(n) / 16000
    tone = np.sin(2 * np.pi * (200 + 50 * np.sin(t)) * t)
    bursts = np.repeat(rng.random(n // 800 + 1), 800)[:n] * rng.standard_normal(n)
    return (0.1 * tone + 0.1 * bursts).astype(np.float32)


def timed(call: Callable[[int], object], rounds: int, period_s: float = 0.0) -> dict[str, float]:
    """Time calls back to back, or one every `period_s`; return p50, p99, p99.9 and max in µs."""
    for i in range(WARM_UP):
        call(i)
    times, due = [], time.perf_counter()
    for i in range(rounds):
        due += period_s
        time.sleep(max(0.0, due - time.perf_counter()) if period_s else 0.0)
        start = time.perf_counter()
        call(i)
        times.append(time.perf_counter() - start)
    p50, p99, p999 = np.quantile(times, [0.5, 0.99, 0.999]) * 1e6
    return {"p50_us": p50, "p99_us": p99, "p99.9_us": p999, "max_us": max(times) * 1e6}


def one_stream(separator: Separator, rounds: int) -> dict[str, Any]:
    """Time a hop through STFT, network and inverse STFT, hot and paced."""
    hop = separator.hop
    stream = separator.fork(block=hop)
    sound = mixture(4)[:, None].copy()
    out = np.empty((len(separator.stems), hop, 1), np.float32)
    highband_weights = np.empty(out.shape[:2], np.float32)

    def step(i: int) -> None:
        start = i * hop % (len(sound) - hop)
        stream.process_into(sound[start : start + hop], out, highband_weights)

    return {"hot": timed(step, rounds), "paced": timed(step, rounds // 4, HOP_S)}


def many_streams(runtime: TorchRuntime, sizes: list[int], rounds: int) -> list[dict[str, Any]]:
    """Time a hop of B streams, hot; return one row per B."""
    rows = []
    hop, n_stems = runtime.config.stft.hop, len(runtime.config.stems)
    for streams in sizes:
        batch = runtime.batch(streams)
        sound = np.stack([np.roll(mixture(1)[:hop], 7 * b) for b in range(streams)])
        out = np.zeros((streams, n_stems, hop), np.float32)

        def step(i: int, batch: Any = batch, sound: Any = sound, out: Any = out) -> None:
            batch.run(sound, out, 1)

        row: dict[str, Any] = {"streams": streams, **timed(step, rounds)}
        row["us_per_stream"] = row["p50_us"] / streams
        row["meets_deadline"] = bool(row["p99_us"] < HOP_S * 1e6)
        rows.append(row)
    return rows


def file_speed(separator: Separator, seconds: float) -> list[float]:
    """Return the speeds of three runs over a whole recording, as multiples of real time."""
    sound = mixture(seconds)
    separator.separate(sound[:64000])
    speeds = []
    for _ in range(3):
        start = time.perf_counter()
        separator.separate(sound)
        speeds.append(seconds / (time.perf_counter() - start))
    return speeds


def measure(model: Model, device: str, is_quick: bool) -> dict[str, Any]:
    """Measure everything; plain values for JSON."""
    rounds, seconds = (40, 4.0) if is_quick else (1000, 300.0)
    sizes = [1, 4] if is_quick else [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    on_cpu = rtmtass.load()
    reference = on_cpu.separate(mixture(5))
    result: dict[str, Any] = {
        "benchmark": "cuda",
        "machine": {**machine_card(), "device": device_name(device)},
        "one stream": {"rtmtass, CPU": one_stream(on_cpu, rounds)},
        "many streams": {},
        "files, times real time": {"rtmtass, CPU": file_speed(on_cpu, seconds)},
        "largest difference to the CPU's f32": {},
    }
    for precision in PRECISIONS:
        runtime = TorchRuntime(model.config, model.weights, device, precision)
        separator = Separator(model.config, runtime, block=model.config.stft.hop)
        name = f"torch {precision}, {device}"
        result["one stream"][name] = one_stream(separator, rounds)
        result["many streams"][name] = many_streams(runtime, sizes, rounds // 4)
        result["files, times real time"][name] = file_speed(separator, seconds)
        delta = np.abs(separator.separate(mixture(5)) - reference).max() / np.abs(reference).max()
        result["largest difference to the CPU's f32"][name] = float(delta)
    return result


def device_name(device: str) -> str:
    """Return the GPU's name and torch's CUDA version."""
    import torch

    if device == "cpu":
        return "cpu"
    return f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"


def show(result: dict[str, Any]) -> None:
    """Print the result as text."""
    print(result["machine"])
    base = result["one stream"]["rtmtass, CPU"]
    for name, modes in result["one stream"].items():
        for mode, row in modes.items():
            figures = "  ".join(f"{k} {v:8.0f}" for k, v in row.items())
            ratio = row["p50_us"] / base[mode]["p50_us"]
            print(f"{name:20} {mode:6} {figures}  {ratio:5.2f}x rtmtass on the CPU")
    for name, rows in result["many streams"].items():
        for row in rows:
            print(
                f"{name:20} B {row['streams']:4}  p50 {row['p50_us']:8.0f}  p99"
                f" {row['p99_us']:8.0f}  per stream {row['us_per_stream']:7.1f} µs"
                f"  {'meets the deadline' if row['meets_deadline'] else 'too slow'}"
            )
    for name, speeds in result["files, times real time"].items():
        print(f"{name:20} files {' '.join(f'{s:.0f}x' for s in speeds)} real time")
    for name, delta in result["largest difference to the CPU's f32"].items():
        print(f"{name:20} largest difference to the CPU's f32: {delta:.1e} of its peak")


def main() -> None:
    """Measure; print text or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu to test the script")
    parser.add_argument("--quick", action="store_true", help="few rounds, to test that it runs")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    try:
        find_device(arguments.device)
    except rtmtass.errors.RtmtassError as error:
        print(f"nothing measured: {error}", file=sys.stderr)
        return
    result = measure(open_model(), arguments.device, arguments.quick)
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        show(result)


if __name__ == "__main__":
    main()
