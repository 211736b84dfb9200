"""How many streams can one core separate at once, each hop within its 16 ms?

B streams are processed together, one call for all (`load_batch`), so the weights are read
once per B hops. They are compared with B separators called one by one, as a server
without batches would, and with torch at the same batch size. Each point is a sequence of
hops of all B streams; all candidates take turns on one core. A candidate meets the
deadline while its 99th percentile stays below 16 ms.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

for threads in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(threads, "1")

import numpy as np

import rtmtass
from benchmarks.harness import RESULTS
from benchmarks.harness.affinity import stay_on_one_core
from benchmarks.harness.machine_info import machine_card
from benchmarks.harness.tables import Table, display_name, one_axes, print_result
from rtmtass.benchmark import open_precisions, sound_of, step_of, summarise
from rtmtass.config import PRECISIONS
from rtmtass.weights import DEFAULT

HOP, HOP_S = 256, 0.016
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
REFINEMENTS = 3
TURN = 10
WARM_UP = 3
MIN_HOPS = 200
MAX_LATENESS = 1.5
"""Median hop time, in deadlines, beyond which a candidate isn't measured further."""

Call = Callable[[], float]
Make = Callable[[int], Call]
"""Takes B; returns a call that processes the next hop of B streams and returns its time in s."""


def sounds(n: int) -> np.ndarray:
    """Return test sound, (hops, B, hop), different for every stream."""
    whole = sound_of(4)[: 240 * HOP].reshape(-1, HOP)
    return np.stack([np.roll(whole, 7 * b, axis=0) for b in range(n)], axis=1)


def timed(step: Callable[[np.ndarray], object], blocks: np.ndarray) -> Call:
    """Return a call that times `step` on the next block, (B, hop)."""
    count = 0

    def call() -> float:
        nonlocal count
        block = blocks[count % len(blocks)]
        count += 1
        start = time.perf_counter()
        step(block)
        return time.perf_counter() - start

    return call


def one_by_one(separator: Any) -> Make:
    """Return a maker that separates B streams in B calls."""

    def make(n: int) -> Call:
        steps = [step_of(separator) for _ in range(n)]

        def step(blocks: np.ndarray) -> None:
            for each, block in zip(steps, blocks, strict=True):
                each(block[:, None])

        return timed(step, sounds(n))

    return make


def batched(model: str, precision: str, runtime: str = "numba") -> Make:
    """Return a maker that separates B streams in one call."""

    def make(n: int) -> Call:
        batch = rtmtass.load_batch(model, streams=n, precision=precision, runtime=runtime)
        return timed(batch.process, sounds(n))

    return make


def makers(model: str) -> tuple[dict[str, Make], dict[str, str]]:
    """Return the candidates' makers, and by name why others don't run."""
    missing: dict[str, str] = {}
    running = {f"numba {p}, batch": batched(model, precision=p) for p in PRECISIONS}
    on_torch = batched(model, precision="f32", runtime="torch")
    try:
        import torch

        torch.set_num_threads(1)
        on_torch(1)()
        running["torch f32, batch"] = on_torch
    except (ImportError, rtmtass.errors.RtmtassError) as error:
        missing["torch f32, batch"] = str(error)
    for precision, separator in open_precisions(model).items():
        running[f"numba {precision}, one by one"] = one_by_one(separator)
    return running, missing


def measure_size(makers: dict[str, Make], n: int, seconds: float) -> dict[str, dict[str, float]]:
    """Time hops of B = n streams, in turns, for about `seconds` and at least MIN_HOPS each."""
    calls = {name: make(n) for name, make in makers.items()}
    times: dict[str, list[float]] = {name: [] for name in makers}
    for call in calls.values():
        for _ in range(WARM_UP):
            call()
    end = time.perf_counter() + seconds * len(calls)
    running = dict(calls)
    while running:
        for name, call in list(running.items()):
            times[name] += [call() for _ in range(TURN)]
            is_late = np.median(times[name]) > MAX_LATENESS * HOP_S
            if is_late or (time.perf_counter() > end and len(times[name]) >= MIN_HOPS):
                del running[name]
    return {name: summarise(each) for name, each in times.items()}


def meets_deadline(point: dict[str, float]) -> bool:
    """Return whether 99 of 100 hops meet the deadline."""
    return point["p99_us"] <= 1e6 * HOP_S


def curves(makers: dict[str, Make], sizes: list[int], seconds: float) -> dict[str, dict[int, Any]]:
    """Return per candidate the figures by B, up to and close to where it becomes too slow."""
    measured: dict[str, dict[int, Any]] = {name: {} for name in makers}
    running = dict(makers)
    for n in sizes:
        for name, point in measure_size(running, n, seconds).items():
            measured[name][n] = point
            if not meets_deadline(point) and point["p50_us"] > 1e6 * HOP_S:
                del running[name]
        if not running:
            break
    for _ in range(REFINEMENTS):
        for name, curve in measured.items():
            good = max_streams(curve)
            bad = min((n for n in curve if n > good), default=None)
            if bad and bad - good > 1:
                middle = (good + bad) // 2
                curve.update({middle: measure_size({name: makers[name]}, middle, seconds)[name]})
    return {name: dict(sorted(curve.items())) for name, curve in measured.items()}


def max_streams(curve: dict[int, Any]) -> int:
    """Return the largest B up to which every measured B meets the deadline."""
    good = 0
    for n in sorted(curve):
        if not meets_deadline(curve[n]):
            break
        good = n
    return good


def measure(model: str, sizes: list[int], seconds: float) -> dict[str, Any]:
    """Measure everything; plain values for JSON."""
    running, missing = makers(model)
    measured = curves(running, sizes, seconds)
    return {
        "benchmark": "streams",
        "machine": machine_card(),
        "deadline_ms": 1000 * HOP_S,
        "curves": {name: {str(n): p for n, p in curve.items()} for name, curve in measured.items()},
        "streams_per_core": {name: max_streams(curve) for name, curve in measured.items()},
        "largest_measured": {name: max(curve) for name, curve in measured.items()},
        "not_run": missing,
    }


def tables(result: dict[str, Any]) -> list[Table]:
    """Return the result as tables."""
    rows = []
    for name, curve in result["curves"].items():
        best, end = result["streams_per_core"][name], result["largest_measured"][name]
        cells = [""] * 4
        if point := curve.get(str(best)):
            cells = [f"{point[k] / 1000:.2f}" for k in ("p50_us", "p99_us", "max_us")]
            cells.append(f"{point['p50_us'] / best:.0f}")
        streams = f"{best} or more" if best == end else f"{best}"
        rows.append([display_name(name), streams, *cells])
    columns = ["candidate", "streams", "p50, ms", "p99, ms", "max, ms", "µs per stream and hop"]
    remarks = [Table(f"not run: {name}: {why}") for name, why in result["not_run"].items()]
    return [Table("Most streams with p99 below 16 ms", columns, rows), *remarks]


def draw(result: dict[str, Any], path: Path) -> None:
    """Plot p99 over B."""

    def plot(axes: Any) -> None:
        for name, curve in result["curves"].items():
            sizes = [int(n) for n in curve]
            values = [curve[n]["p99_us"] / 1000 for n in curve]
            style = "--" if "one by one" in name else "-"
            axes.plot(sizes, values, style, marker=".", label=display_name(name))
        axes.axhline(result["deadline_ms"], color="black", linewidth=1)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("streams, B")
        axes.set_ylabel("p99 of a hop of all B streams, ms (line: deadline)")
        axes.grid(alpha=0.3)
        axes.legend()

    one_axes(path, plot)


def main() -> None:
    """Measure; print tables or JSON; save the plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default=DEFAULT)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), metavar="B")
    parser.add_argument("--seconds", type=float, default=0.5, help="minimum time per point")
    parser.add_argument("--plot", type=Path, default=RESULTS / "streams.png")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    stay_on_one_core()
    result = measure(arguments.model, arguments.sizes, arguments.seconds)
    draw(result, arguments.plot)
    print_result(result, tables(result), is_json=arguments.json)


if __name__ == "__main__":
    main()
