"""End-to-end latency, deadline misses and start-up time of `rtmtass live`.

jackd with a dummy driver runs with blocks of 8, 16 and 32 ms; another process is the
microphone and the loudspeaker (tests/jack_rig.py). All gains are 0 dB, so the recording
must equal what was played, delayed: the lag is measured by cross-correlation four times
a second, and every sample that differs is counted. Cases: with and without the display
(on a pseudo-terminal, in its own process), and with and without another program that
loads the first core and the memory. All cases take turns.

The command itself runs with three taps: the time of each hop, the time of the first
block written to the device, and the final counts.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from pathlib import Path
from typing import Any

for threads in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(threads, "1")

import numpy as np

from benchmarks.harness import RESULTS
from benchmarks.harness.live_run import RATE, missing_parts, run_once
from benchmarks.harness.machine_info import machine_card
from benchmarks.harness.tables import Table, print_result, several_axes
from rtmtass.benchmark import summarise

HOP_S = 0.016
BLOCKS_MS = (8, 16, 32)
LOOP_PERIODS = 2
"""Latency of the test rig itself, in blocks: a plain copy from microphone to loudspeaker."""
PAUSE_S = 0.2


def measure(blocks_ms: list[int], seconds: float, rounds: int) -> dict[str, Any]:
    """Measure all cases in turns; plain values for JSON."""
    cases = list(itertools.product(blocks_ms, (False, True), (False, True)))
    runs: dict[tuple[int, bool, bool], list[dict[str, Any]]] = {case: [] for case in cases}
    run_once(blocks_ms[0], False, False, 1.0)
    for _ in range(rounds):
        for case in cases:
            runs[case].append(run_once(*case, seconds))
            time.sleep(PAUSE_S)
    summaries = [summary(*case, each) for case, each in runs.items()]
    starts = [run["start_s"] for each in runs.values() for run in each]
    return {
        "benchmark": "engine",
        "machine": machine_card(),
        "seconds": seconds,
        "rounds": rounds,
        "cases": summaries,
        "start_to_first_sound_s": {
            key.replace("_us", ""): value / 1e6 if key != "n" else value
            for key, value in summarise(starts).items()
        },
    }


def summary(
    block_ms: int, has_display: bool, is_loaded: bool, runs: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return a case's figures over its rounds."""
    steps = [step for run in runs for step in run["steps_s"]]
    lags = [lag for run in runs for lag in run["lags"]]
    counts, edges = np.histogram(np.array(steps) * 1e3, bins=np.geomspace(0.02, 100, 75))
    loop_ms = LOOP_PERIODS * block_ms
    p50, p99 = np.quantile(lags, [0.5, 0.99]) if lags else (np.nan, np.nan)
    return {
        "block_ms": block_ms,
        "display": has_display,
        "load": is_loaded,
        "hops": len(steps),
        "step": summarise(steps),
        "deadline_misses": sum(r["stats"]["deadline_misses"] for r in runs),
        "skipped": sum(r["stats"]["skipped"] for r in runs),
        "samples_lost": sum(
            r["stats"]["device"]["overruns"] + r["stats"]["device"]["underruns"] for r in runs
        ),
        "latency_ms": {
            "p50": 1000 * p50 / RATE,
            "p99": 1000 * p99 / RATE,
            "max": 1000 * max(lags, default=0) / RATE,
            "n": len(lags),
            "of_the_rig": loop_ms,
        },
        "lags": {str(lag): lags.count(lag) for lag in sorted(set(lags))},
        "samples_wrong": sum(r["wrong"] for r in runs),
        "samples_compared": sum(r["compared"] for r in runs),
        "jackd_xruns": sum(r["jackd_xruns"] for r in runs),
        "machine_stalls": sum(r["machine_stalls"] for r in runs),
        "histogram": {"edges_ms": edges.tolist(), "hops": counts.tolist()},
    }


def name_of(case: dict[str, Any]) -> str:
    """Return the name of a case."""
    extras = [word for word in ("display", "load") if case[word]]
    return f"{case['block_ms']} ms" + "".join(f", {word}" for word in extras)


def tables(result: dict[str, Any]) -> list[Table]:
    """Return the result as tables."""
    rows = []
    for case in result["cases"]:
        step, latency = case["step"], case["latency_ms"]
        without_rig = latency["p50"] - latency["of_the_rig"]
        rows.append([
            name_of(case),
            " / ".join(f"{latency[k]:.1f}" for k in ("p50", "p99", "max")),
            f"{without_rig:.1f}",
            " / ".join(f"{step[k] / 1000:.2f}" for k in ("p50_us", "p99_us", "max_us")),
            f"{case['deadline_misses'] + case['skipped']} of {case['hops']}",
            f"{case['samples_lost']}",
            f"{case['samples_wrong']} of {case['samples_compared']}",
            f"{case['jackd_xruns']} / {case['machine_stalls']}",
        ])  # fmt: skip
    columns = ["case", "latency p50 / p99 / max, ms", "without the rig, ms",
               "hop p50 / p99 / max, ms", "deadlines missed", "samples lost",
               "samples wrong", "jackd xruns / machine stalls"]  # fmt: skip
    start = result["start_to_first_sound_s"]
    return [
        Table(
            f"{result['rounds']} turns of {result['seconds']:g} s each; ms: block length;"
            " load: another program keeps the first core and the memory busy",
            columns,
            rows,
        ),
        Table(
            "Time from `rtmtass live` to the first block written to the device, machine code"
            f" cached: p50 {start['p50']:.2f} s, p99 {start['p99']:.2f} s, max {start['max']:.2f} s"
            f" of {start['n']} starts."
        ),
    ]


def draw(result: dict[str, Any], path: Path) -> None:
    """Plot the distributions of hop time and latency."""

    def plot(axes: list[Any]) -> None:
        steps, latency = axes
        for case in result["cases"]:
            histogram = case["histogram"]
            fraction = np.array(histogram["hops"]) / max(1, case["hops"])
            style = {"linestyle": "--" if case["load"] else "-", "alpha": 0.8}
            steps.stairs(fraction, histogram["edges_ms"], label=name_of(case), **style)
        steps.axvline(1000 * HOP_S, color="black", linewidth=1)
        steps.set_xscale("log")
        steps.set_yscale("log")
        steps.set_xlabel("time per hop, ms (line: deadline)")
        steps.set_ylabel("fraction of hops")
        steps.legend(fontsize=7)
        names = [name_of(case) for case in result["cases"]]
        for y, case in enumerate(result["cases"]):
            rig = case["latency_ms"]["of_the_rig"]
            for lag, count in case["lags"].items():
                ms, fraction = 1000 * int(lag) / RATE, count / max(1, case["latency_ms"]["n"])
                latency.barh(y, fraction * 0.9, left=ms - 0.45, color="tab:blue", height=0.6)
            latency.plot([rig, rig], [y - 0.3, y + 0.3], color="tab:grey")
        latency.set_yticks(range(len(names)), names, fontsize=7)
        latency.invert_yaxis()
        latency.set_xlim(0)
        latency.set_xlabel("microphone to loudspeaker, ms (grey: rig alone)")

    several_axes(path, 2, plot, size=(13, 5))


def main() -> None:
    """Measure; print tables or JSON; save the plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--blocks", type=int, nargs="+", default=list(BLOCKS_MS), metavar="MS")
    parser.add_argument("--seconds", type=float, default=6.0, help="per case and turn")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--plot", type=Path, default=RESULTS / "engine.png")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if why := missing_parts():
        raise SystemExit(why)
    result = measure(arguments.blocks, arguments.seconds, arguments.rounds)
    draw(result, arguments.plot)
    print_result(result, tables(result), is_json=arguments.json)


if __name__ == "__main__":
    main()
