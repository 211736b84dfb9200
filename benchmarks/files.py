"""Long recordings: how fast, does memory stay flat however long they are, and what of others?

First the command: each length is a 48 kHz stereo 16-bit WAV separated into three
stems, in a process of its own, so that its peak memory is its own. Then the
enhancers that pip provides and ours, in turns, on the same minute of speech in
music and noise: each in a process of its own, array in, array out, one thread, timed
by the processor's clock without reading and resampling. Those that take only whole
recordings get ten minutes, too. They make speech; ours makes all three stems.

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
from benchmarks.harness.tables import Table, give_out, several_axes
from rtmtass import load
from rtmtass.config import PRECISIONS
from rtmtass.weights import DEFAULT, demo_clip

LENGTHS = (1.0, 10.0, 60.0)
LONG = 480.0
WHOLE = ("NSNet2", "Spleeter")
"""Rivals that swallow whole recordings."""


def write_recording(path: Path, minutes: float) -> None:
    """Write the demo clip over and over, as 48 kHz stereo with something above 8 kHz."""
    clip, rate = soundfile.read(demo_clip(), dtype="float32")
    wide = soxr.resample(clip, rate, 48000)
    hiss = 0.003 * np.random.default_rng(0).standard_normal(len(wide)).astype(np.float32)
    stereo = np.stack([wide + hiss, 0.5 * wide - hiss], axis=1)
    left = round(minutes * 60 * 48000)
    with soundfile.SoundFile(path, "w", 48000, 2, "PCM_16") as file:
        while left > 0:
            file.write(stereo[:left])
            left -= len(stereo)


# A process begins with the peak memory of the one it was spawned from, which here has
# held recordings; so a small one stands between.
GO_BETWEEN = """
import resource, subprocess, sys, time
start = time.perf_counter()
code = subprocess.run(sys.argv[1:]).returncode
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


def separate(path: Path) -> dict[str, float]:
    """Run the command on a file; seconds, times real time, peak memory."""
    duration = soundfile.info(path).duration
    command = [sys.executable, "-m", "rtmtass", "separate", str(path), "--quiet"]
    told = subprocess.run(
        [sys.executable, "-c", GO_BETWEEN, *command], stdout=subprocess.PIPE, text=True, check=False
    )
    if told.returncode:
        raise SystemExit(f"{' '.join(command)} failed with status {told.returncode}")
    elapsed, peak_kb = map(float, told.stdout.split())
    return {
        "minutes": duration / 60,
        "seconds": elapsed,
        "times_real_time": duration / elapsed,
        "peak_rss_mb": peak_kb / 1024,
    }


def by_length(lengths: list[float], folder: Path) -> list[dict[str, float]]:
    """Return the command's figures on each length; one recording lies on the disk at a time."""
    rows = []
    warm = folder / "warm.wav"
    write_recording(warm, 0.1)
    separate(warm)
    for minutes in lengths:
        path = folder / "recording.wav"
        write_recording(path, minutes)
        rows.append(separate(path))
        for made in folder.glob("recording*"):
            made.unlink()
    return rows


def serve(precision: str) -> None:
    """Answer as a rival does, with our own model."""

    def opener() -> tuple[int, rivals.Enhance]:
        separator = load(DEFAULT, precision=precision)

        def enhance(clip: rivals.Samples) -> tuple[rivals.Samples, float]:
            start = time.process_time()
            out = separator.separate(clip)
            return out[0], time.process_time() - start

        return RATE, enhance

    rivals.RIVALS["ours"] = ("rtmtass", "chunks", opener)
    own = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    rivals.serve("ours", sys.stdin.buffer, own)


def open_ours(precisions: Sequence[str] = PRECISIONS) -> list[Rival]:
    """Return our own processes, one per precision, the default's first."""
    found, default = [], load(DEFAULT).precision
    for precision in sorted(precisions, key=lambda p: p != default):
        command = [*module_command("benchmarks.files"), "--serve", precision]
        found.append(Rival(f"rtmtass {precision}", sys.executable, command))
    return found


def speech(seconds: float) -> np.ndarray:
    """Return the demo clip, over and over."""
    clip, _ = soundfile.read(demo_clip(), dtype="float32")
    return np.resize(clip, round(seconds * RATE))


def race(them: list[Rival], seconds: float, rounds: int) -> dict[str, dict[str, Any]]:
    """Let all enhance the same recording in turns."""
    clip = speech(seconds)
    for each in them:
        each(clip[: RATE * 2])
    times: dict[str, list[float]] = {each.name: [] for each in them}
    for _ in range(rounds):
        for each in them:
            times[each.name].append(each(clip)[1])
    ours = times[them[0].name]
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
            "fed": each.fed,
        }
        for each in them
    }


def compare(python: str, seconds: float, rounds: int) -> dict[str, Any]:
    """Return the race, what whole recordings cost those that take no less, and who didn't run."""
    there, missing = open_rivals(rivals.RIVALS, python)
    ours = open_ours()
    result = {"minute": race([*ours, *there], seconds, rounds)}
    whole = [each for each in there if each.name in WHOLE]
    if whole:
        result["ten_minutes"] = race([*ours, *whole], 10 * seconds, 1)
    for each in (*ours, *there):
        each.close()
    return {**result, "minute_s": seconds, "not_run": missing}


def tables(result: dict[str, Any]) -> list[Table]:
    """Return what people read."""
    rows = [
        [f"{r['minutes']:g}", f"{r['seconds']:.1f}", f"{r['times_real_time']:.0f}x",
         f"{r['peak_rss_mb']:.0f}"]
        for r in result["48 kHz stereo"]
    ]  # fmt: skip
    columns = ["48 kHz stereo, minutes", "seconds", "real time", "peak memory, MB"]
    found = [Table("The command, three stems, from start to end", columns, rows)]
    against = result["against"]
    for key, factor in (("minute", 1), ("ten_minutes", 10)):
        if key in against:
            found.append(race_table(against[key], factor * against["minute_s"]))
    found.append(
        Table(
            "DTLN, GTCRN, RNNoise, DeepFilterNet3 and NSNet2 make one stem, speech, Spleeter two,"
            " rtmtass three. Memory is of the whole process, with its interpreter and libraries."
        )
    )
    return found + [
        Table(f"not run: {name}: {why.splitlines()[0]}") for name, why in against["not_run"].items()
    ]


def race_table(rows: dict[str, dict[str, Any]], seconds: float) -> Table:
    """Return a race; the fastest first."""
    lines = [
        [name, f"{r['p50_s']:.2f}", f"{r['min_s']:.2f} … {r['max_s']:.2f}",
         f"{r['times_real_time']:.0f}x", f"{r['to_ours']:.2f}x",
         f"{r['peak_rss_mb']:.0f}" if r["peak_rss_mb"] else "–", r["fed"]]
        for name, r in sorted(rows.items(), key=lambda row: row[1]["p50_s"])
    ]  # fmt: skip
    first = next(iter(rows))
    columns = ["who", "seconds, p50", "min … max", "real time", f"time over {first}",
               "peak memory, MB", "fed by"]  # fmt: skip
    n = rows[first]["n"]
    return Table(f"The same {seconds:g} s, 16 kHz mono, {n} turn{'s' * (n > 1)}", columns, lines)


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw peak memory and speed over length."""
    rows = result["48 kHz stereo"]
    minutes = [row["minutes"] for row in rows]

    def into(axes: list[Any]) -> None:
        for each, key, label in (
            (axes[0], "peak_rss_mb", "peak memory, MB"),
            (axes[1], "times_real_time", "times real time"),
        ):
            each.plot(minutes, [row[key] for row in rows], "o-")
            each.set_xscale("log")
            each.xaxis.set_major_formatter("{x:g}")
            each.set_ylim(0, 1.3 * max(row[key] for row in rows))
            each.set_xlabel("minutes of 48 kHz stereo")
            each.set_ylabel(label)
            each.grid(alpha=0.3)

    several_axes(path, 2, into, size=(10, 4))


def main() -> None:
    """Print the figures, as a table or as JSON; draw the curve."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, nargs="+", default=list(LENGTHS))
    parser.add_argument("--long", action="store_true", help=f"also {LONG / 60:g} hours (25 GB)")
    parser.add_argument("--folder", type=Path, help="where the recordings go")
    parser.add_argument("--python", default=sys.executable, help="the rivals' interpreter")
    parser.add_argument("--race", type=float, default=60.0, metavar="S", help="length of the race")
    parser.add_argument("--rounds", type=int, default=3, help="turns of it")
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
    give_out(result, tables(result), is_json=arguments.json)


if __name__ == "__main__":
    main()
