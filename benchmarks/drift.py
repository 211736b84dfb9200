"""Does a stream degrade with time? The last minute of an hour against the first.

One minute of mixtures is processed with `Separator.process`, hop by hop as when live;
the same stream then processes other audio for 58 minutes (the other mixtures of the set
at levels from -20 to +10 dB, pauses, single stems, occasional digital silence), and then
the same minute again. SI-SDRi is measured per mixture in both minutes and compared clip
by clip, so that only the stream's history differs. Several such streams with different
clips narrow the interval. The target is 0.2 dB. Nothing here depends on speed, so any
machine will do.

pops.py measures whether a pop degrades what follows, and scenes.py what a change of scene
costs; their tables are part of this result.

    rtmtass data mix CORPUS SET --cache CACHE --n 200
    python -m benchmarks.drift SET
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import rtmtass
from benchmarks.harness.machine_info import machine_card
from benchmarks.harness.tables import format_interval
from benchmarks.pops import GOAL_S, format_recovery, joined, measure_pops, pop_line, pop_table
from benchmarks.scenes import CLIPS, measure_scenes, scene_line, scene_table
from rtmtass.cli.console import Steps, print_table
from rtmtass.evaluation.evaluate import Clip, describe_set, read_set, set_names, with_interval
from rtmtass.evaluation.metrics import sdr, si_sdr
from rtmtass.separator import Separator
from rtmtass.weights import DEFAULT, open_model

Samples = NDArray[np.float32]
Values = NDArray[np.float64]
Gains = dict[str, Values]
Tick = Callable[[int], None]

FIGURES = ("si_sdri", "sdri")
HOP = 256
TARGET_DB = 0.2
MEASURED_S = 60.0
SCALE_DB = (-20.0, 10.0)
PAUSE_S = (0.0, 8.0)
POP_CLIPS = 60
"""Clips for the pop measurement, joined in threes."""


def feed(stream: Separator, block: Samples) -> Samples:
    """Process whole hops one by one: (N,) -> (S, N), delayed by `stream.delay`."""
    out = np.empty((len(stream.stems), len(block)), np.float32)
    for i in range(0, len(block), HOP):
        out[:, i : i + HOP] = stream.process(block[i : i + HOP])
    return out


def whole_hops(samples: Samples) -> Samples:
    """Zero-pad (..., N) to whole hops."""
    extra = -samples.shape[-1] % HOP
    return np.pad(samples, [(0, 0)] * (samples.ndim - 1) + [(0, extra)])


def one_minute(clips: Iterable[Clip], sample_rate: int, measured_s: float) -> list[Clip]:
    """Return the first clips that fill the measured minute, each padded to whole hops."""
    chosen: list[Clip] = []
    for clip in clips:
        if sum(len(c.mixture) for c in chosen) >= measured_s * sample_rate:
            break
        chosen.append(Clip(clip.name, whole_hops(clip.mixture), whole_hops(clip.stems)))
    return chosen


def measure_minute(stream: Separator, clips: list[Clip]) -> Gains:
    """Return SI-SDRi and SDRi, (clips, S) each, of clips processed back to back."""
    minute = np.concatenate([clip.mixture for clip in clips])
    tail = np.zeros(-(-stream.delay // HOP) * HOP, np.float32)
    stems = feed(stream, np.concatenate([minute, tail]))[:, stream.delay :]
    gains: dict[str, list[Any]] = {"si_sdri": [], "sdri": []}
    start = 0
    for clip in clips:
        out = stems[:, start : start + len(clip.mixture)]
        for name, figure in (("si_sdri", si_sdr), ("sdri", sdr)):
            gains[name].append(figure(out, clip.stems) - figure(clip.mixture[None], clip.stems))
        start += len(clip.mixture)
    return {name: np.array(rows) for name, rows in gains.items()}


def between(folder: Path, stems: tuple[str, ...], names: list[str], seed: int) -> Iterator[Samples]:
    """Yield the audio between the two minutes, without end, in pieces of whole hops."""
    rng = np.random.default_rng(seed)
    while True:
        for clip in read_set(folder, stems, names=set(names)):
            scale = np.float32(10 ** (rng.uniform(*SCALE_DB) / 20))
            kind = rng.random()
            sound = clip.mixture
            if kind < 0.15:
                sound = clip.stems[int(rng.integers(len(stems)))]
            yield whole_hops(np.clip(sound * scale, -1.0, 1.0))
            pause = np.zeros(round(rng.uniform(*PAUSE_S) * 16000 / HOP) * HOP, np.float32)
            if kind > 0.5:
                pause += rng.standard_normal(len(pause), np.float32) * np.float32(1e-4)
            yield pause


def measure_ends(
    stream: Separator, clips: list[Clip], sounds: Iterator[Samples], n_between: int, tick: Tick
) -> tuple[Gains, Gains]:
    """Return the clips' figures at the start of a stream and after `n_between` other samples."""
    first = measure_minute(stream, clips)
    done = 0
    for sound in sounds:
        piece = sound[: (n_between - done) // HOP * HOP]
        feed(stream, piece)
        done += len(piece)
        tick(done)
        if n_between - done < HOP:
            break
    return first, measure_minute(stream, clips)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the drift, the effect of pops and of changes of scene; plain values for JSON."""
    separator = rtmtass.load(arguments.model, block=HOP)
    rate, names = separator.sample_rate, set_names(arguments.set)
    rounds: list[tuple[Gains, Gains]] = []
    started = time.monotonic()
    unused = list(names)
    with Steps() as steps:
        for number in range(arguments.rounds):
            candidates = read_set(arguments.set, separator.stems, names=set(unused))
            clips = one_minute(candidates, rate, arguments.measured)
            chosen = {clip.name for clip in clips}
            unused = [name for name in unused if name not in chosen] or list(names)
            others = [name for name in names if name not in chosen] or names
            measured = sum(len(clip.mixture) for clip in clips)
            sounds = between(arguments.set, separator.stems, others, arguments.seed + number)
            n_between = round(arguments.minutes * 60 * rate) - 2 * measured

            def tick(done: int, number: int = number) -> None:
                minutes = number * arguments.minutes + done / rate / 60
                steps("minutes", round(minutes), arguments.minutes * arguments.rounds)

            rounds.append(measure_ends(separator.fork(), clips, sounds, n_between, tick))
    opened = open_model(arguments.model)
    first, last = (
        {name: np.concatenate([both[k][name] for both in rounds]) for name in FIGURES}
        for k in range(2)
    )
    return {
        "machine": machine_card(),
        "model": {"name": opened.config.name, "version": opened.about.get("version")},
        "set": {"name": arguments.set.absolute().name, **describe_set(arguments.set)},
        "minutes": arguments.minutes,
        "streams": arguments.rounds,
        "seconds_taken": round(time.monotonic() - started, 1),
        "clips": len(first["sdri"]),
        **{name: compare(first[name], last[name], separator.stems) for name in first},
        "difference_by_place": by_position(rounds),
        "pops": measure_pops(
            opened, joined(read_set(arguments.set, separator.stems, first=POP_CLIPS))
        ),
        "scenes": measure_scenes(
            rtmtass.load(arguments.model), read_set(arguments.set, separator.stems, first=CLIPS)
        ),
    }


def by_position(rounds: list[tuple[Gains, Gains]]) -> list[float]:
    """Return the mean SI-SDRi difference of the minute's first clip, its second, and so on."""
    differences = [(last["si_sdri"] - first["si_sdri"]).mean(axis=1) for first, last in rounds]
    n = min(map(len, differences))
    return [round(float(np.mean([d[i] for d in differences])), 3) for i in range(n)]


def compare(first: Values, last: Values, stems: tuple[str, ...]) -> dict[str, Any]:
    """Return both minutes' means and the clip-by-clip difference, per stem and averaged."""
    pairs = {stem: (first[:, i], last[:, i]) for i, stem in enumerate(stems)}
    pairs["average"] = (first.mean(axis=1), last.mean(axis=1))
    return {
        name: {
            "first": with_interval(a),
            "last": with_interval(b),
            "difference": with_interval(b - a),
        }
        for name, (a, b) in pairs.items()
    }


def drift_table(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows."""
    rows = [
        [
            stem,
            *(format_interval(v[k]) for k in ("first", "last")),
            format_interval(v["difference"], 3),
        ]
        for stem, v in result["si_sdri"].items()
    ]
    return ["SI-SDRi, dB", "minute 1", f"minute {result['minutes']:g}", "difference"], rows


def position_line(result: dict[str, Any]) -> str:
    """Return the differences by position: does only the start of the last minute degrade?"""
    differences = ", ".join(f"{value:+.2f}" for value in result["difference_by_place"])
    return f"Difference by position in the minute, clip by clip: {differences} dB."


def main() -> None:
    """Print the tables and save the figures; exit 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("set", type=Path, metavar="SET", help="folder made by `rtmtass data mix`")
    parser.add_argument("--model", default=DEFAULT)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--measured", type=float, default=MEASURED_S, help="seconds to compare")
    parser.add_argument("--rounds", type=int, default=3, help="streams, each with different clips")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="save the figures as JSON")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    arguments = parser.parse_args()
    result = run(arguments)
    text = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")
    if arguments.json:
        print(text, end="")
    else:
        print_table(*drift_table(result))
        print(position_line(result))
        print(pop_line(result["pops"]))
        print_table(*pop_table(result["pops"]))
        print(scene_line(result["scenes"]))
        print_table(*scene_table(result["scenes"]))
    drift_db = abs(result["si_sdri"]["average"]["difference"]["mean"])
    if drift_db > TARGET_DB:
        sys.exit(f"drift of {drift_db:.2f} dB exceeds the target of {TARGET_DB} dB")
    back_s = result["pops"]["rules"]["new"]["stems_back_s"]
    if back_s is None or back_s > GOAL_S:
        recovery = format_recovery(back_s)
        sys.exit(f"recovery after a pop takes {recovery}; the target is {GOAL_S:g} s")


if __name__ == "__main__":
    main()
