"""How many streams can one core separate at once, each hop within its 16 ms?

B streams step together, one call for all (`load_batch`), so that the weights are read
once for B hops. Beside it stand B separators stepped one by one, which is what a
server without batches would do, and torch with the same batch. Each point is
hops of all B streams, one after the other, all candidates in turns on one core; a
candidate meets the deadline while the 99th percentile stays below 16 ms.
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
from benchmarks.harness.tables import Table, give_out, one_axes
from rtmtass.benchmark import open_precisions, sound_of, step_of, summarise
from rtmtass.config import PRECISIONS
from rtmtass.weights import DEFAULT

HOP, HOP_S = 256, 0.016
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
REFINEMENTS = 3
TURN = 10
WARM_UP = 3
LEAST_HOPS = 200
HOPELESS = 1.5
"""Deadlines, beyond which a candidate needn't show its p99 in full."""

Call = Callable[[], float]
Make = Callable[[int], Call]
"""Takes B, returns what runs the next hop of B streams and tells the seconds it took."""


def sounds(n: int) -> np.ndarray:
    """Return (hops, B, hop): every stream hears something else."""
    whole = sound_of(4)[: 240 * HOP].reshape(-1, HOP)
    return np.stack([np.roll(whole, 7 * b, axis=0) for b in range(n)], axis=1)


def timed(step: Callable[[np.ndarray], object], blocks: np.ndarray) -> Call:
    """Return a call that gives `step` the next (B, hop) blocks."""
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
    """Separate B streams in B calls."""

    def make(n: int) -> Call:
        steps = [step_of(separator) for _ in range(n)]

        def step(blocks: np.ndarray) -> None:
            for each, block in zip(steps, blocks, strict=True):
                each(block[:, None])

        return timed(step, sounds(n))

    return make


def batched(model: str, **options: str) -> Make:
    """Separate B streams in one call."""
    return lambda n: timed(rtmtass.load_batch(model, streams=n, **options).process, sounds(n))


def makers(model: str) -> tuple[dict[str, Make], dict[str, str]]:
    """Return who takes part, and why others don't."""
    missing: dict[str, str] = {}
    found = {f"numba {p}, batch": batched(model, precision=p) for p in PRECISIONS}
    on_torch = batched(model, precision="f32", runtime="torch")
    try:
        import torch

        torch.set_num_threads(1)
        on_torch(1)()
        found["torch f32, batch"] = on_torch
    except (ImportError, rtmtass.errors.RtmtassError) as error:
        missing["torch f32, batch"] = str(error)
    for precision, separator in open_precisions(model).items():
        found[f"numba {precision}, one by one"] = one_by_one(separator)
    return found, missing


def measure_size(them: dict[str, Make], n: int, seconds: float) -> dict[str, dict[str, float]]:
    """Time hops of B = n streams, in turns, for about so long each, LEAST_HOPS at least."""
    calls, times = {name: make(n) for name, make in them.items()}, {name: [] for name in them}
    for call in calls.values():
        for _ in range(WARM_UP):
            call()
    end = time.perf_counter() + seconds * len(calls)
    running = dict(calls)
    while running:
        for name, call in list(running.items()):
            times[name] += [call() for _ in range(TURN)]
            is_late = np.median(times[name]) > HOPELESS * HOP_S
            if is_late or (time.perf_counter() > end and len(times[name]) >= LEAST_HOPS):
                del running[name]
    return {name: summarise(each) for name, each in times.items()}


def meets(point: dict[str, float]) -> bool:
    """Whether 99 of 100 hops are in time."""
    return point["p99_us"] <= 1e6 * HOP_S


def curves(them: dict[str, Make], sizes: list[int], seconds: float) -> dict[str, dict[int, Any]]:
    """Return per candidate the figures by B, up to where it is too slow, and near there."""
    found: dict[str, dict[int, Any]] = {name: {} for name in them}
    running = dict(them)
    for n in sizes:
        for name, point in measure_size(running, n, seconds).items():
            found[name][n] = point
            if not meets(point) and point["p50_us"] > 1e6 * HOP_S:
                del running[name]
        if not running:
            break
    for _ in range(REFINEMENTS):
        for name, curve in found.items():
            good = most(curve)
            bad = min((n for n in curve if n > good), default=None)
            if bad and bad - good > 1:
                middle = (good + bad) // 2
                curve.update({middle: measure_size({name: them[name]}, middle, seconds)[name]})
    return {name: dict(sorted(curve.items())) for name, curve in found.items()}


def most(curve: dict[int, Any]) -> int:
    """Return the most streams that were in time, with no smaller number that wasn't."""
    good = 0
    for n in sorted(curve):
        if not meets(curve[n]):
            break
        good = n
    return good


def measure(model: str, sizes: list[int], seconds: float) -> dict[str, Any]:
    """Run it all; plain values for JSON."""
    them, missing = makers(model)
    found = curves(them, sizes, seconds)
    return {
        "benchmark": "streams",
        "machine": machine_card(),
        "deadline_ms": 1000 * HOP_S,
        "curves": {name: {str(n): p for n, p in curve.items()} for name, curve in found.items()},
        "streams_per_core": {name: most(curve) for name, curve in found.items()},
        "largest_measured": {name: max(curve) for name, curve in found.items()},
        "not_run": missing,
    }


def tables(result: dict[str, Any]) -> list[Table]:
    """Return what people read."""
    rows = []
    for name, curve in result["curves"].items():
        best, end = result["streams_per_core"][name], result["largest_measured"][name]
        at = curve.get(str(best))
        cells = [f"{at[k] / 1000:.2f}" for k in ("p50_us", "p99_us", "max_us")] if at else [""] * 3
        each = f"{at['p50_us'] / best:.0f}" if at else ""
        rows.append([name, f"{best} or more" if best == end else f"{best}", *cells, each])
    columns = ["who", "streams in time", "p50, ms", "p99, ms", "max, ms", "µs a stream and hop"]
    remarks = [Table(f"not run: {name}: {why}") for name, why in result["not_run"].items()]
    return [Table("The most streams whose hops stay below 16 ms, p99", columns, rows), *remarks]


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw p99 over B."""

    def into(axes: Any) -> None:
        for name, curve in result["curves"].items():
            sizes = [int(n) for n in curve]
            values = [curve[n]["p99_us"] / 1000 for n in curve]
            style = "--" if "one by one" in name else "-"
            axes.plot(sizes, values, style, marker=".", label=name)
        axes.axhline(result["deadline_ms"], color="black", linewidth=1)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("streams stepped together, B")
        axes.set_ylabel("p99 of a hop of all B, ms (line: the deadline)")
        axes.grid(alpha=0.3)
        axes.legend()

    one_axes(path, into)


def main() -> None:
    """Print the figures, as a table or as JSON; draw the curve."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default=DEFAULT)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), metavar="B")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each point, at least")
    parser.add_argument("--plot", type=Path, default=RESULTS / "streams.png")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    stay_on_one_core()
    result = measure(arguments.model, arguments.sizes, arguments.seconds)
    draw(result, arguments.plot)
    give_out(result, tables(result), is_json=arguments.json)


if __name__ == "__main__":
    main()
