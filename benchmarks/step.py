"""One 16 ms hop through the whole engine: how long does it take, and against what?

Every preset, precision and runtime, in one process, on one core and one thread, in
turns, so that ratios hold where absolute times don't. "Hot" is one hop after the
other; "paced" is a hop every 16 ms, as live, with caches gone cold in between.
The floor is the time this core takes only to read as many bytes as the weights
have, see roofline.py. Also: silence after speech (denormals would show), whole
recordings, and the start of the command.

`paper` is the published network's size with random weights: its speed is real,
its sound isn't.
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
from card import machine_card
from hops import Candidate, candidates, model_of
from measuring import stay_on_one_core
from roofline import Floor
from tables import Table, give_out

import rtmtass
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

HOP, HOP_S = 256, 0.016
COMPARED = 60
"""Hops of the same sound by which runtimes are compared, while they warm up."""
REFERENCES = ("onnxruntime f32", "torch eager f32")
PARTS = {"small": (0.25, 0.25), "paper": (0.2, 0.15)}
"""Of the time given: hot, and paced; the rest is for recordings."""
FILE_PARTS = {"small": 0.1, "paper": 0.05}


def differences(them: list[Candidate]) -> dict[str, float]:
    """Return the largest difference of each to torch (or to ours, f32), hop by hop from blank."""
    sound = sound_of(COMPARED * HOP_S)[:, None].copy()
    made = {}
    for each in them:
        blocks = [each.step(sound[i * HOP : (i + 1) * HOP]) for i in range(COMPARED)]
        made[each.name] = np.array([np.array(b).reshape(-1, HOP) for b in blocks])
    name = "torch eager f32" if "torch eager f32" in made else "numba f32"
    return {k: float(np.abs(v - made[name]).max()) for k, v in made.items() if k != name}


def measure_preset(preset: str, folder: Path, seconds: float) -> dict[str, Any]:
    """Return the figures of all runtimes on a preset's network."""
    model = model_of(preset, folder)
    them, missing = candidates(model, folder)
    delta = differences(them)
    calls: dict[str, Callable[[], float]] = {c.name: Hops(c.step, HOP) for c in them}
    floors = {c.name: f"floor of {c.name}" for c in them if c.weight_bytes}
    calls |= {floors[c.name]: Floor(c.weight_bytes) for c in them if c.weight_bytes}
    if preset == "small":
        silent = step_of(rtmtass.load(model, block=HOP))
        calls["numba, silence after speech"] = Hops(silent, HOP, is_silent=True)
    hot_share, paced_share = PARTS[preset]
    # The big network's slowest would spend the time on their warm-up.
    turn, warm_up = (50, 150) if preset == "small" else (10, 10)
    hot = take_turns(calls, hot_share * seconds, turn=turn, warm_up=warm_up)
    able = {c.name: calls[c.name] for c in them if hot[c.name]["p50_us"] < 0.8e6 * HOP_S}
    paced = pace(able, paced_share * seconds, HOP_S)
    rows = {c.name: row(c, hot, paced, floors, delta) for c in them}
    extra = {k: v for k, v in hot.items() if "silence" in k}
    separators = open_precisions(model)
    return {
        "model": "random weights" if preset != "small" else model,
        "rows": rows,
        "hot_only": extra,
        "files": file_speed(
            separators, FILE_PARTS[preset] * seconds, sound_s=30 if preset == "small" else 4
        ),
        "weight_bytes": {name: each.weight_bytes for name, each in separators.items()},
        "not_run": missing,
    }


def row(
    candidate: Candidate,
    hot: dict[str, dict[str, float]],
    paced: dict[str, dict[str, float]],
    floors: dict[str, str],
    delta: dict[str, float],
) -> dict[str, Any]:
    """Return one candidate's figures and ratios."""
    mine = hot[candidate.name]
    found: dict[str, Any] = {"hot": mine, "paced": paced.get(candidate.name)}
    found["rtf"] = mine["p50_us"] / 1e6 / HOP_S
    found["to"] = {r: mine["p50_us"] / hot[r]["p50_us"] for r in REFERENCES if r in hot}
    found["largest_difference"] = delta.get(candidate.name)
    if candidate.name in floors:
        floor_us = hot[floors[candidate.name]]["p50_us"]
        found["weight_bytes"] = candidate.weight_bytes
        found["floor_us"] = floor_us
        found["to_floor"] = mine["p50_us"] / floor_us
        found["read_gb_s"] = candidate.weight_bytes / floor_us / 1e3
    return found


def start_up(repeats: int) -> dict[str, float]:
    """Time `rtmtass separate` of a one-second file, as a command, machine code cached."""
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
    """Run it all; plain values for JSON."""
    with tempfile.TemporaryDirectory() as folder:
        found = {name: measure_preset(name, Path(folder), seconds) for name in presets}
    started = start_up(max(1, min(7, round(seconds / 30))))
    start_s = {key.replace("_us", "_s"): value for key, value in started.items()}
    return {
        "benchmark": "step",
        "machine": machine_card(),
        "presets": found,
        "start_up": start_s,
    }


def tables(result: dict[str, Any]) -> list[Table]:
    """Return what people read."""
    found = [
        Table(
            "Hot: one hop after the other. Paced: one every 16 ms, as live. The floor is the time"
            " it takes only to read the weights; ratios are of hot p50, from the same turns."
        )
    ]
    for preset, part in result["presets"].items():
        found += [hop_table(preset, part), file_table(preset, part)]
        found += [
            Table(f"{preset}: not run: {name}: {why}") for name, why in part["not_run"].items()
        ]
    start = result["start_up"]
    found.append(
        Table(
            f"Start of `rtmtass separate` on a one-second file, machine code cached:"
            f" p50 {start['p50_s']:.2f} s, max {start['max_s']:.2f} s of {start['n']}."
        )
    )
    return found


def hop_table(preset: str, part: dict[str, Any]) -> Table:
    """Return the hops of a preset."""
    keys = ("p50_us", "p99_us", "p99.9_us", "max_us")
    rows = []
    for name, values in part["rows"].items():
        cells = [name, *(f"{values['hot'][k]:.0f}" for k in keys)]
        paced = values["paced"]
        cells += [f"{paced[k]:.0f}" for k in keys] if paced else ["too slow", "", "", ""]
        cells += [f"{values['to'][r]:.2f}x" if r in values["to"] else "–" for r in REFERENCES]
        cells.append(f"{values['to_floor']:.2f}x" if "to_floor" in values else "")
        cells.append(f"{values['rtf']:.4f}")
        delta = values["largest_difference"]
        cells.append("reference" if delta is None else f"{delta:.0e}")
        rows.append(cells)
    for name, values in part["hot_only"].items():
        rows.append([name, *(f"{values[k]:.0f}" for k in keys), *[""] * 9])
    hops = next(iter(part["rows"].values()))["hot"]["n"]
    columns = ["µs a hop", "hot p50", "p99", "p99.9", "max", "paced p50", "p99", "p99.9", "max"]
    columns += ["over onnxruntime f32", "over torch eager", "over the floor", "RTF"]
    return Table(f"{preset}, {hops} hops each", [*columns, "largest difference"], rows)


def file_table(preset: str, part: dict[str, Any]) -> Table:
    """Return the speed on whole recordings."""
    rows = [
        [name, *(f"{values[k]:.0f}x" for k in ("p50", "min", "max")),
         f"{part['weight_bytes'][name] / 1e6:.1f}",
         f"{part['rows'][f'numba {name}']['read_gb_s']:.0f}"]
        for name, values in part["files"].items()
    ]  # fmt: skip
    columns = ["precision", "real time, p50", "slowest", "fastest", "weights, MB",
               "read at, GB/s"]  # fmt: skip
    return Table(f"{preset}, whole recordings, 16 kHz mono, one core", columns, rows)


def main() -> None:
    """Print the figures, as a table or as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--presets", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--seconds", type=float, default=220.0, help="to spend, about")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    stay_on_one_core()
    result = measure(arguments.presets, arguments.seconds)
    give_out(result, tables(result), is_json=arguments.json)


if __name__ == "__main__":
    main()
