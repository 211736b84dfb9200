"""Long recordings: speed, memory at any length, and comparison with other packages.

First the command: each length is a 48 kHz stereo 16-bit WAV separated into three stems
in its own process, whose peak memory is measured. Then our model and enhancers from
PyPI take turns on the same minute of speech in music and noise: each in its own
process, array in, array out, on one thread, in processor time without reading and
resampling. Those that only process whole recordings also get ten minutes. The rivals
make speech; our model makes all three stems.

    python -m benchmarks.files [--long] [--python RIVALS/bin/python]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

for threads in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(threads, "1")

import numpy as np
import soundfile
import soxr

from benchmarks.harness import RESULTS, module_command, rivals
from benchmarks.harness.affinity import stay_on_one_core
from benchmarks.harness.candidates import RATE, Rival, open_rivals
from benchmarks.harness.machine_info import machine_card
from benchmarks.harness.tables import Table, print_result, several_axes
from rtmtass import load
from rtmtass.config import PRECISIONS
from rtmtass.weights import DEFAULT, demo_clip

LENGTHS = (1.0, 10.0, 60.0)
LONG = 480.0
WHOLE = ("NSNet2", "Spleeter")
"""Rivals that only process whole recordings."""


def write_recording(path: Path, minutes: float) -> None:
    """Write the demo clip in a loop, as 48 kHz stereo with noise above 8 kHz."""
    clip, rate = soundfile.read(demo_clip(), dtype="float32")
    wide = soxr.resample(clip, rate, 48000)
    hiss = 0.003 * np.random.default_rng(0).standard_normal(len(wide)).astype(np.float32)
    stereo = np.stack([wide + hiss, 0.5 * wide - hiss], axis=1)
    remaining = round(minutes * 60 * 48000)
    with soundfile.SoundFile(path, "w", 48000, 2, "PCM_16") as file:
        while remaining > 0:
            file.write(stereo[:remaining])
            remaining -= len(stereo)


# A child's peak memory starts at that of the process it is forked from, and this one has
# held recordings; so a small process in between starts and measures the command.
LAUNCHER = """
import resource, subprocess, sys, time
start = time.perf_counter()
code = subprocess.run(sys.argv[1:]).returncode
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


def separate(path: Path) -> dict[str, float]:
    """Run the command on a file; return the time, the speed and the peak memory."""
    duration = soundfile.info(path).duration
    command = [sys.executable, "-m", "rtmtass", "separate", str(path), "--quiet"]
    process = subprocess.run(
        [sys.executable, "-c", LAUNCHER, *command], stdout=subprocess.PIPE, text=True, check=False
    )
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} exited with status {process.returncode}")
    elapsed, peak_kb = map(float, process.stdout.split())
    return {
        "minutes": duration / 60,
        "seconds": elapsed,
        "times_real_time": duration / elapsed,
        "peak_rss_mb": peak_kb / 1024,
    }


def by_length(lengths: list[float], folder: Path) -> list[dict[str, float]]:
    """Return the command's figures for each length; only one recording is on disk at a time."""
    rows = []
    warm = folder / "warm.wav"
    write_recording(warm, 0.1)
    separate(warm)
    for minutes in lengths:
        path = folder / "recording.wav"
        write_recording(path, minutes)
        rows.append(separate(path))
        for file in folder.glob("recording*"):
            file.unlink()
    return rows


def serve(precision: str) -> None:
    """Serve our model by the rivals' protocol."""

    def opener() -> tuple[int, rivals.Enhance]:
        separator = load(DEFAULT, precision=precision)

        def enhance(clip: rivals.Samples) -> tuple[rivals.Samples, float]:
            start = time.process_time()
            out = separator.separate(clip)
            return out[0], time.process_time() - start

        return RATE, enhance

    rivals.RIVALS["ours"] = ("rtmtass", "chunks", opener)
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # keep what is printed out of the replies
    rivals.serve("ours", sys.stdin.buffer, replies)


def open_ours(precisions: Sequence[str] = PRECISIONS) -> list[Rival]:
    """Start a process per precision, the default first."""
    processes, default = [], load(DEFAULT).precision
    for precision in sorted(precisions, key=lambda p: p != default):
        command = [*module_command("benchmarks.files"), "--serve", precision]
        processes.append(Rival(f"rtmtass {precision}", sys.executable, command))
    return processes


def speech(seconds: float) -> np.ndarray:
    """Return the demo clip, repeated to `seconds`."""
    clip, _ = soundfile.read(demo_clip(), dtype="float32")
    return np.resize(clip, round(seconds * RATE))


def race(processes: list[Rival], seconds: float, rounds: int) -> dict[str, dict[str, Any]]:
    """Time all on the same recording, in turns; ratios are to the first."""
    clip = speech(seconds)
    for each in processes:
        each(clip[: RATE * 2])
    times: dict[str, list[float]] = {each.name: [] for each in processes}
    for _ in range(rounds):
        for each in processes:
            times[each.name].append(each(clip)[1])
    ours = times[processes[0].name]
    return {
        each.name: {
            "p50_s": float(np.median(times[each.name])),
            "min_s": min(times[each.name]),
            "max_s": max(times[each.name]),
            "n": rounds,
            "times_real_time": seconds / float(np.median(times[each.name])),
            "to_ours": float(np.median(np.divide(times[each.name], ours))),
            "peak_rss_mb": each.peak_rss_mb(),
            "package": each.hello["package"],
            "fed": each.chunk,
        }
        for each in processes
    }


def compare(python: str, seconds: float, rounds: int) -> dict[str, Any]:
    """Return the timings on a minute and on ten, and which rivals didn't run."""
    running, missing = open_rivals(rivals.RIVALS, python)
    ours = open_ours()
    result = {"minute": race([*ours, *running], seconds, rounds)}
    whole = [each for each in running if each.name in WHOLE]
    if whole:
        result["ten_minutes"] = race([*ours, *whole], 10 * seconds, 1)
    for each in (*ours, *running):
        each.close()
    return {**result, "minute_s": seconds, "not_run": missing}


def tables(result: dict[str, Any]) -> list[Table]:
    """Return the result as tables."""
    rows = [
        [f"{r['minutes']:g}", f"{r['seconds']:.1f}", f"{r['times_real_time']:.0f}x",
         f"{r['peak_rss_mb']:.0f}"]
        for r in result["48 kHz stereo"]
    ]  # fmt: skip
    columns = ["48 kHz stereo, minutes", "seconds", "speed", "peak memory, MB"]
    shown = [Table("`rtmtass separate`, three stems, from start to exit", columns, rows)]
    against = result["against"]
    for key, factor in (("minute", 1), ("ten_minutes", 10)):
        if key in against:
            shown.append(race_table(against[key], factor * against["minute_s"]))
    shown.append(
        Table(
            "DTLN, GTCRN, RNNoise, DeepFilterNet3 and NSNet2 make one stem, speech; Spleeter makes"
            " two, rtmtass three. Memory is that of the whole process, including interpreter and"
            " libraries."
        )
    )
    return shown + [
        Table(f"not run: {name}: {why.splitlines()[0]}") for name, why in against["not_run"].items()
    ]


def race_table(rows: dict[str, dict[str, Any]], seconds: float) -> Table:
    """Return the timings, the fastest first."""
    lines = [
        [name, f"{r['p50_s']:.2f}", f"{r['min_s']:.2f} … {r['max_s']:.2f}",
         f"{r['times_real_time']:.0f}x", f"{r['to_ours']:.2f}x",
         f"{r['peak_rss_mb']:.0f}" if r["peak_rss_mb"] else "–", r["fed"]]
        for name, r in sorted(rows.items(), key=lambda row: row[1]["p50_s"])
    ]  # fmt: skip
    first = next(iter(rows))
    columns = ["candidate", "seconds, p50", "min … max", "speed", f"time over {first}",
               "peak memory, MB", "input per call"]  # fmt: skip
    n = rows[first]["n"]
    return Table(f"The same {seconds:g} s, 16 kHz mono, {n} turn{'s' * (n > 1)}", columns, lines)


def draw(result: dict[str, Any], path: Path) -> None:
    """Plot peak memory and speed over length."""
    rows = result["48 kHz stereo"]
    minutes = [row["minutes"] for row in rows]

    def plot(axes: list[Any]) -> None:
        for each, key, label in (
            (axes[0], "peak_rss_mb", "peak memory, MB"),
            (axes[1], "times_real_time", "speed, times real time"),
        ):
            each.plot(minutes, [row[key] for row in rows], "o-")
            each.set_xscale("log")
            each.xaxis.set_major_formatter("{x:g}")
            each.set_ylim(0, 1.3 * max(row[key] for row in rows))
            each.set_xlabel("minutes of 48 kHz stereo")
            each.set_ylabel(label)
            each.grid(alpha=0.3)

    several_axes(path, 2, plot, size=(10, 4))


def main() -> None:
    """Measure; print tables or JSON; save the plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, nargs="+", default=list(LENGTHS))
    parser.add_argument("--long", action="store_true", help=f"also {LONG / 60:g} hours (25 GB)")
    parser.add_argument("--folder", type=Path, help="where to write the recordings")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the rivals")
    parser.add_argument(
        "--race", type=float, default=60.0, metavar="S", help="seconds of audio to compare on"
    )
    parser.add_argument("--rounds", type=int, default=3, help="turns in the comparison")
    parser.add_argument("--plot", type=Path, default=RESULTS / "files.png")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
        return
    stay_on_one_core()
    against = compare(arguments.python, arguments.race, arguments.rounds)
    lengths = [*arguments.minutes, *([LONG] if arguments.long else [])]
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        rows = by_length(lengths, Path(folder))
    result: dict[str, Any] = {
        "benchmark": "files",
        "machine": machine_card(),
        "48 kHz stereo": rows,
        "against": against,
    }
    draw(result, arguments.plot)
    print_result(result, tables(result), is_json=arguments.json)


if __name__ == "__main__":
    main()
