"""One 16 ms hop through the whole engine: how long does it take, and against what?

Measured in one process on one thread, rounds of all candidates interleaved, so
that ratios hold where absolute times don't. "Hot" is one hop after the other;
"paced" is a hop every 16 ms, as live, with caches gone cold in between. Also:
a hop of silence after speech (denormals would show), files in chunks, and the
start of the command.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from card import machine_card

import rtmtass
from rtmtass import Separator

HOP_S = 0.016
WARM_UP = 200


def mixture(seconds: float) -> np.ndarray:
    """Noise bursts over a gliding tone: nothing is silent, nothing is steady."""
    rng = np.random.default_rng(0)
    n = int(seconds * 16000)
    t = np.arange(n) / 16000
    tone = np.sin(2 * np.pi * (200 + 50 * np.sin(t)) * t)
    bursts = np.repeat(rng.random(n // 800 + 1), 800)[:n] * rng.standard_normal(n)
    return (0.1 * tone + 0.1 * bursts).astype(np.float32)


class Hops:
    """A separator fed hop by hop, each call timed."""

    def __init__(self, separator: Separator) -> None:
        self.stream = separator.fork(block=separator.hop)
        self.out = np.empty((3, separator.hop, 1), np.float32)
        self.shares = np.empty((3, separator.hop), np.float32)
        self.sound = mixture(10)[:, None].copy()
        self.at = 0

    def __call__(self, silent: bool = False) -> float:
        hop = self.stream.hop
        self.at = (self.at + hop) % (len(self.sound) - hop)
        block = self.sound[self.at : self.at + hop]
        if silent:
            block = np.zeros_like(block)
        start = time.perf_counter()
        self.stream.process_into(block, self.out, self.shares)
        return time.perf_counter() - start


def summary(times: list[float]) -> dict[str, float]:
    """Microseconds: p50, p99, p99.9 and the largest."""
    p50, p99, p999 = np.quantile(times, [0.5, 0.99, 0.999]) * 1e6
    return {"p50_us": p50, "p99_us": p99, "p99.9_us": p999, "max_us": max(times) * 1e6}


def hot(candidates: dict[str, Callable[[], float]], rounds: int) -> dict[str, dict[str, float]]:
    """Time the candidates in turns of fifty hops."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for call in candidates.values():
        for _ in range(WARM_UP):
            call()
    for _ in range(rounds):
        for name, call in candidates.items():
            times[name] += [call() for _ in range(50)]
    return {name: summary(t) for name, t in times.items()}


def paced(call: Callable[[], float], hops: int) -> dict[str, float]:
    """Time one hop every 16 ms."""
    times, due = [], time.perf_counter()
    for _ in range(hops):
        due += HOP_S
        time.sleep(max(0.0, due - time.perf_counter()))
        times.append(call())
    return summary(times)


def file_speed(separator: Separator, seconds: float) -> float:
    """Return how many times real time `separate` runs on a whole recording."""
    sound = mixture(seconds)
    separator.separate(sound[:64000])
    best = 0.0
    for _ in range(3):
        start = time.perf_counter()
        separator.separate(sound)
        best = max(best, seconds / (time.perf_counter() - start))
    return best


def start_up(repeats: int = 5) -> list[float]:
    """Time `rtmtass separate` of a one-second file, as a command, machine code cached."""
    import soundfile

    times = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "one.wav"
        soundfile.write(path, mixture(1), 16000)
        command = [sys.executable, "-m", "rtmtass", "separate", str(path), "--overwrite", "--quiet"]
        for _ in range(repeats + 1):
            start = time.perf_counter()
            subprocess.run(command, check=True)
            times.append(time.perf_counter() - start)
    return times[1:]


def measure(rounds: int, seconds: float) -> dict[str, Any]:
    """Run it all; plain values for JSON."""
    separator = rtmtass.load()
    candidates: dict[str, Callable[[], float]] = {"numba f32": Hops(separator)}
    silent = Hops(separator)
    for _ in range(WARM_UP):
        silent()
    candidates["numba f32, silence after speech"] = lambda: silent(True)
    try:
        import torch

        torch.set_num_threads(1)
        on_torch = rtmtass.load(runtime="torch")
        candidates["torch eager f32"] = Hops(on_torch)
    except rtmtass.errors.MissingPartError:
        on_torch = None
    result: dict[str, Any] = {"benchmark": "step", "machine": machine_card()}
    result["hot"] = hot(candidates, rounds)
    result["paced"] = {"numba f32": paced(candidates["numba f32"], 400)}
    ours = result["hot"]["numba f32"]["p50_us"]
    result["ratio_to_ours"] = {k: v["p50_us"] / ours for k, v in result["hot"].items()}
    result["times_real_time"] = {
        "numba f32, hop by hop": HOP_S * 1e6 / ours,
        "numba f32, files": file_speed(separator, seconds),
    }
    if on_torch:
        result["times_real_time"]["torch eager f32, files"] = file_speed(on_torch, seconds)
        x = mixture(5)
        delta = np.abs(separator.separate(x) - on_torch.separate(x)).max()
        result["largest_difference_to_torch"] = float(delta)
    result["start_up_s"] = start_up()
    return result


def main() -> None:
    """Print the figures, as a table or as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=120.0, help="length of the file")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result = measure(arguments.rounds, arguments.seconds)
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    print(result["machine"])
    for name, values in result["hot"].items():
        figures = "  ".join(f"{k} {v:8.0f}" for k, v in values.items())
        print(f"{name:34} hot    {figures}  {result['ratio_to_ours'][name]:5.2f}x ours")
    for name, values in result["paced"].items():
        figures = "  ".join(f"{k} {v:8.0f}" for k, v in values.items())
        print(f"{name:34} paced  {figures}")
    for name, value in result["times_real_time"].items():
        print(f"{name:34} {value:.0f}x real time")
    if "largest_difference_to_torch" in result:
        print(f"largest difference to torch: {result['largest_difference_to_torch']:.1e}")
    print("start of the command, s: " + " ".join(f"{t:.2f}" for t in result["start_up_s"]))


if __name__ == "__main__":
    main()
