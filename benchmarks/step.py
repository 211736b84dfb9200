"""How long does one 16 ms hop take in the whole engine, compared with other runtimes?

Every preset, precision and runtime takes turns in one process, on one core and one
thread, so ratios hold where absolute times don't. "Hot" is one hop after the other;
"paced" is a hop every 16 ms, as when live, with caches gone cold in between. The floor
is the time this core takes to read the weights once or to do the hop's multiply-adds,
whichever is longer, see harness/roofline.py. Also: silence after speech (slow if there
are denormals), whole recordings, and the start-up time of the command.

A preset without a released model has random weights, which don't affect the speed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

for threads in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(threads, "1")

import numpy as np
import soundfile

import rtmtass
from benchmarks.harness.affinity import stay_on_one_core
from benchmarks.harness.costs import macs_per_hop
from benchmarks.harness.hops import Candidate, candidates, model_of
from benchmarks.harness.machine_info import machine_card
from benchmarks.harness.roofline import ComputeFloor, MemoryBandwidthFloor
from benchmarks.harness.tables import Table, display_name, print_result
from rtmtass.benchmark import (
    Hops,
    file_speed,
    open_precisions,
    pace,
    sound_of,
    step_of,
    summarise,
    take_turns,
)
from rtmtass.config import PRECISIONS
from rtmtass.presets import PRESETS
from rtmtass.weights import open_model

HOP, HOP_S = 256, 0.016
COMPARED = 60
"""Hops used to compare the outputs of the runtimes, before the timing."""
PEER = "onnxruntime f32"
REFERENCES = (PEER, "torch eager f32")
GOAL_RTF = {"small": 0.015, "gated": 0.015, "base": 0.04, "large": 0.12, "paper": 0.08}
"""For int8, from the hot p50."""
GOAL_TO_FLOOR = 1.6
TIME_FRACTIONS = {"hot": 0.5, "paced": 0.35, "files": 0.15}
"""Fraction of a preset's time spent on each part."""


def first_hops(running: list[Candidate]) -> tuple[dict[str, float], dict[str, float]]:
    """Return by name the largest difference to the reference, and the median time in µs.

    The reference is torch, or our own f32 where torch is missing.
    """
    sound = sound_of(COMPARED * HOP_S)[:, None].copy()
    outputs, median_us = {}, {}
    for each in running:
        blocks, times = [], []
        for i in range(COMPARED):
            start = time.perf_counter()
            block = each.step(sound[i * HOP : (i + 1) * HOP])
            times.append(time.perf_counter() - start)
            blocks.append(np.array(block).reshape(-1, HOP))
        outputs[each.name] = np.array(blocks)
        median_us[each.name] = float(np.median(times)) * 1e6
    name = "torch eager f32" if "torch eager f32" in outputs else "numba f32"
    delta = {k: float(np.abs(v - outputs[name]).max()) for k, v in outputs.items() if k != name}
    return delta, median_us


def measure_preset(preset: str, folder: Path, seconds: float) -> dict[str, Any]:
    """Return the figures of all runtimes with a preset's network."""
    model, is_random = model_of(preset, folder)
    opened = open_model(model)
    macs = macs_per_hop({name: w.shape for name, w in opened.weights.items()}, opened.config)
    running, missing = candidates(model, folder)
    delta, median_us = first_hops(running)
    # Leave out rivals slower than real time, which would take most of the time; keep the peer.
    slow = {c.name: median_us[c.name] for c in running if median_us[c.name] > 1e6 * HOP_S}
    slow = {k: v for k, v in slow.items() if not k.startswith(("numba", PEER))}
    missing |= {k: f"slower than real time, {v / 1e3:.0f} ms per hop" for k, v in slow.items()}
    running = [c for c in running if c.name not in slow]
    ours = [c for c in running if c.weight_bytes]
    calls: dict[str, Callable[[], float]] = {c.name: Hops(c.step, HOP) for c in running}
    calls |= {f"reading {c.precision}": MemoryBandwidthFloor(c.weight_bytes) for c in ours}
    calls |= {f"multiplying {c.precision}": ComputeFloor(c.precision, macs) for c in ours}
    if preset == "small":
        silent = step_of(rtmtass.load(model, block=HOP))
        calls["numba, silence after speech"] = Hops(silent, HOP, is_silent=True)
    # Long turns keep the caches as in a single stream; slow networks would take too long.
    turn, warm_up = (50, 150) if preset == "small" else (10, 10)
    hot = take_turns(calls, TIME_FRACTIONS["hot"] * seconds, turn=turn, warm_up=warm_up)
    real_time = {c.name: calls[c.name] for c in running if hot[c.name]["p50_us"] < 0.8e6 * HOP_S}
    paced = pace(real_time, TIME_FRACTIONS["paced"] * seconds, HOP_S)
    separators = open_precisions(model)
    return {
        "model": "random weights" if is_random else model,
        "macs_per_hop": macs,
        "rows": {c.name: row(c, hot, paced, delta, macs) for c in running},
        "hot_only": {k: v for k, v in hot.items() if "silence" in k},
        "files": file_speed(
            separators, TIME_FRACTIONS["files"] * seconds, sound_s=30 if preset == "small" else 4
        ),
        "weight_bytes": {name: each.weight_bytes for name, each in separators.items()},
        "not_run": missing,
    }


def row(
    candidate: Candidate,
    hot: dict[str, dict[str, float]],
    paced: dict[str, dict[str, float]],
    delta: dict[str, float],
    macs: int,
) -> dict[str, Any]:
    """Return one candidate's figures and ratios."""
    own_hot = hot[candidate.name]
    figures: dict[str, Any] = {"hot": own_hot, "paced": paced.get(candidate.name)}
    figures["rtf"] = own_hot["p50_us"] / 1e6 / HOP_S
    figures["to"] = {r: own_hot["p50_us"] / hot[r]["p50_us"] for r in REFERENCES if r in hot}
    figures["largest_difference"] = delta.get(candidate.name)
    if candidate.weight_bytes:
        read_us, multiply_us = (
            hot[f"{part} {candidate.precision}"]["p50_us"] for part in ("reading", "multiplying")
        )
        figures |= {
            "weight_bytes": candidate.weight_bytes,
            "read_us": read_us,
            "read_gb_s": candidate.weight_bytes / read_us / 1e3,
            "multiply_us": multiply_us,
            "peak_gmac_s": macs / multiply_us / 1e3,
            "floor_us": max(read_us, multiply_us),
            "to_floor": own_hot["p50_us"] / max(read_us, multiply_us),
        }
    return figures


def start_up(repeats: int) -> dict[str, float]:
    """Time `rtmtass separate` on a one-second file, machine code cached."""
    times = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "one.wav"
        soundfile.write(path, sound_of(1), 16000)
        command = [sys.executable, "-m", "rtmtass", "separate", str(path), "--overwrite", "--quiet"]
        for _ in range(repeats + 1):
            start = time.perf_counter()
            subprocess.run(command, check=True)
            times.append(time.perf_counter() - start)
    return {k: v / 1e6 if k != "n" else v for k, v in summarise(times[1:]).items()}


def measure(presets: list[str], seconds: float) -> dict[str, Any]:
    """Measure everything; plain values for JSON."""
    with tempfile.TemporaryDirectory() as folder:
        each_s = seconds / len(presets)
        by_preset = {name: measure_preset(name, Path(folder), each_s) for name in presets}
    start_times = start_up(max(1, min(7, round(seconds / 30))))
    start_s = {key.replace("_us", "_s"): value for key, value in start_times.items()}
    return {
        "benchmark": "step",
        "machine": machine_card(),
        "presets": by_preset,
        "start_up": start_s,
    }


def tables(result: dict[str, Any]) -> list[Table]:
    """Return the result as tables."""
    shown = [
        Table(
            "Hot: one hop after the other. Paced: one every 16 ms, as when live. The floor is the"
            " time to read the weights or to do the multiply-adds with data in the L1 cache,"
            " whichever is longer; ratios are of hot p50, from the same turns."
        ),
        family_table(result["presets"]),
    ]
    for preset, part in result["presets"].items():
        shown += [hop_table(preset, part), file_table(preset, part)]
        shown += [
            Table(f"{preset}: not run: {name}: {why}") for name, why in part["not_run"].items()
        ]
    start = result["start_up"]
    shown.append(
        Table(
            f"`rtmtass separate` of a one-second file, from start to exit, machine code cached:"
            f" p50 {start['p50_s']:.2f} s, max {start['max_s']:.2f} s of {start['n']} runs."
        )
    )
    return shown


def family_table(presets: dict[str, Any]) -> Table:
    """Return our precisions on all presets, with floors and goals."""
    rows = []
    for preset, part in presets.items():
        for precision in PRECISIONS:
            values = part["rows"][f"numba {precision}"]
            goal = f" ({GOAL_RTF[preset]:g})" if precision == "int8" else ""
            to_peer = values["to"].get(PEER)
            rows.append([
                f"{preset} {precision}",
                f"{part['macs_per_hop'] / 1e6:.1f}",
                f"{values['weight_bytes'] / 1e6:.1f}",
                *(f"{values['hot'][k]:.0f}" for k in ("p50_us", "p99_us", "max_us")),
                f"{values['rtf']:.4f}{goal}",
                "–" if to_peer is None else f"{to_peer:.2f}x",
                f"{values['read_us']:.0f} ({values['read_gb_s']:.0f} GB/s)",
                f"{values['multiply_us']:.0f} ({values['peak_gmac_s']:.0f} GMAC/s)",
                f"{values['to_floor']:.2f}x ({GOAL_TO_FLOOR:g}x)",
            ])  # fmt: skip
    columns = ["preset", "MMAC per hop", "weights, MB", "hot p50, µs", "p99", "max", "RTF (goal)",
               "over onnxruntime f32", "reading alone, µs", "multiply-adds alone, µs",
               "over the floor (goal)"]  # fmt: skip
    return Table("All presets", columns, rows)


def hop_table(preset: str, part: dict[str, Any]) -> Table:
    """Return the times per hop of a preset."""
    keys = ("p50_us", "p99_us", "p99.9_us", "max_us")
    rows = []
    for name, values in part["rows"].items():
        cells = [display_name(name), *(f"{values['hot'][k]:.0f}" for k in keys)]
        paced = values["paced"]
        cells += [f"{paced[k]:.0f}" for k in keys] if paced else ["too slow", "", "", ""]
        cells += [f"{values['to'][r]:.2f}x" if r in values["to"] else "–" for r in REFERENCES]
        cells.append(f"{values['to_floor']:.2f}x" if "to_floor" in values else "")
        cells.append(f"{values['rtf']:.4f}")
        delta = values["largest_difference"]
        cells.append("reference" if delta is None else f"{delta:.0e}")
        rows.append(cells)
    for name, values in part["hot_only"].items():
        rows.append([display_name(name), *(f"{values[k]:.0f}" for k in keys), *[""] * 9])
    hops = next(iter(part["rows"].values()))["hot"]["n"]
    columns = ["µs per hop", "hot p50", "p99", "p99.9", "max", "paced p50", "p99", "p99.9", "max"]
    columns += ["over onnxruntime f32", "over torch eager", "over the floor", "RTF"]
    return Table(f"{preset}, {hops} hops each", [*columns, "largest difference"], rows)


def file_table(preset: str, part: dict[str, Any]) -> Table:
    """Return the speeds on whole recordings."""
    rows = [
        [name, *(f"{values[k]:.0f}x" for k in ("p50", "min", "max")),
         f"{part['weight_bytes'][name] / 1e6:.1f}",
         f"{part['rows'][f'numba {name}']['read_gb_s']:.0f}"]
        for name, values in part["files"].items()
    ]  # fmt: skip
    columns = ["precision", "speed, p50", "slowest", "fastest", "weights, MB",
               "read at, GB/s"]  # fmt: skip
    return Table(f"{preset}, whole recordings, 16 kHz mono, one core", columns, rows)


def main() -> None:
    """Measure; print tables or JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--presets", nargs="+", default=list(PRESETS), choices=list(PRESETS))
    parser.add_argument("--seconds", type=float, default=220.0, help="approximate total time")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    stay_on_one_core()
    result = measure(arguments.presets, arguments.seconds)
    print_result(result, tables(result), is_json=arguments.json)


if __name__ == "__main__":
    main()
