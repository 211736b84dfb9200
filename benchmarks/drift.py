"""Does a stream get worse with time? The 60th minute of an hour against the first.

One minute of mixtures goes through `Separator.process`, hop by hop as live; then
the same stream hears other things for 58 minutes (the other mixtures of the set,
at levels from -20 to +10 dB, pauses, single stems, now and then digital silence);
then it hears the same minute of mixtures again. SI-SDRi is measured per mixture
in both minutes, and compared clip by clip, so that only the stream's past differs.
Several such streams, each with other clips, narrow the interval. The target is
0.2 dB. Nothing in it depends on speed, so that any machine will do.

Does a pop spoil what follows? See pops.py, whose rows stand beside these.

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
from benchmarks.pops import GOAL_S, back_words, joined, measure_pops, pop_line, pop_table
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
"""Clips of the set that a clap is put into, three in a row."""


def feed(stream: Separator, block: Samples) -> Samples:
    """Pass whole hops through the stream one by one; (N,) -> (S, N), late by its delay."""
    out = np.empty((len(stream.stems), len(block)), np.float32)
    for at in range(0, len(block), HOP):
        out[:, at : at + HOP] = stream.process(block[at : at + HOP])
    return out


def whole_hops(samples: Samples) -> Samples:
    """Pad with silence to whole hops, (..., N)."""
    extra = -samples.shape[-1] % HOP
    return np.pad(samples, [(0, 0)] * (samples.ndim - 1) + [(0, extra)])


def one_minute(clips: Iterable[Clip], sample_rate: int, measured_s: float) -> list[Clip]:
    """Return the first clips that fill the measured minute, in whole hops each."""
    chosen: list[Clip] = []
    for clip in clips:
        if sum(len(c.mixture) for c in chosen) >= measured_s * sample_rate:
            break
        chosen.append(Clip(clip.name, whole_hops(clip.mixture), whole_hops(clip.stems)))
    return chosen


def measure_minute(stream: Separator, clips: list[Clip]) -> Gains:
    """Return SI-SDRi and SDRi, (clips, S) each, of clips that follow on one another."""
    joined = np.concatenate([clip.mixture for clip in clips])
    tail = np.zeros(-(-stream.delay // HOP) * HOP, np.float32)
    heard = feed(stream, np.concatenate([joined, tail]))[:, stream.delay :]
    gains: dict[str, list[Any]] = {"si_sdri": [], "sdri": []}
    at = 0
    for clip in clips:
        out = heard[:, at : at + len(clip.mixture)]
        for name, figure in (("si_sdri", si_sdr), ("sdri", sdr)):
            gains[name].append(figure(out, clip.stems) - figure(clip.mixture[None], clip.stems))
        at += len(clip.mixture)
    return {name: np.array(rows) for name, rows in gains.items()}


def between(folder: Path, stems: tuple[str, ...], names: list[str], seed: int) -> Iterator[Samples]:
    """Yield what the stream hears between the two minutes, without end, piece by piece."""
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


def live_on(
    stream: Separator, clips: list[Clip], sounds: Iterator[Samples], n_between: int, tick: Tick
) -> tuple[Gains, Gains]:
    """Return the figures of the clips at the start of a stream and after `n_between` samples."""
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
    """Let some streams live for so many minutes; plain values for JSON."""
    separator = rtmtass.load(arguments.model, block=HOP)
    rate, names = separator.sample_rate, set_names(arguments.set)
    rounds: list[tuple[Gains, Gains]] = []
    started = time.monotonic()
    unheard = list(names)
    with Steps() as steps:
        for number in range(arguments.rounds):
            some = read_set(arguments.set, separator.stems, names=set(unheard))
            clips = one_minute(some, rate, arguments.measured)
            chosen = {clip.name for clip in clips}
            unheard = [name for name in unheard if name not in chosen] or list(names)
            others = [name for name in names if name not in chosen] or names
            measured = sum(len(clip.mixture) for clip in clips)
            sounds = between(arguments.set, separator.stems, others, arguments.seed + number)
            n_between = round(arguments.minutes * 60 * rate) - 2 * measured

            def tick(done: int, number: int = number) -> None:
                minutes = number * arguments.minutes + done / rate / 60
                steps("minutes", round(minutes), arguments.minutes * arguments.rounds)

            rounds.append(live_on(separator.fork(), clips, sounds, n_between, tick))
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
        "difference_by_place": by_place(rounds),
        "pops": measure_pops(
            opened, joined(read_set(arguments.set, separator.stems, first=POP_CLIPS))
        ),
    }


def by_place(rounds: list[tuple[Gains, Gains]]) -> list[float]:
    """Return the mean difference in SI-SDRi of the minute's first clip, its second, and so on."""
    differences = [(last["si_sdri"] - first["si_sdri"]).mean(axis=1) for first, last in rounds]
    places = range(min(map(len, differences)))
    return [round(float(np.mean([d[place] for d in differences])), 3) for place in places]


def compare(first: Values, last: Values, stems: tuple[str, ...]) -> dict[str, Any]:
    """Return both minutes' means and the difference clip by clip, per stem and on average."""
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


def words(value: dict[str, float], digits: int = 2) -> str:
    """Return a figure with its interval."""
    return f"{value['mean']:.{digits}f} ({value['low']:.{digits}f} … {value['high']:.{digits}f})"


def drift_table(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows."""
    rows = [
        [stem, words(v["first"]), words(v["last"]), words(v["difference"], 3)]
        for stem, v in result["si_sdri"].items()
    ]
    return ["SI-SDRi, dB", "minute 1", f"minute {result['minutes']:g}", "difference"], rows


def place_line(result: dict[str, Any]) -> str:
    """Say whether it is only the start of the last minute that suffers."""
    places = ", ".join(f"{value:+.2f}" for value in result["difference_by_place"])
    return f"Difference by place in the minute, clip after clip: {places} dB."


def main() -> None:
    """Print the table and keep the figures; exit 1 where the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("set", type=Path, metavar="SET", help="a folder of `rtmtass data mix`")
    parser.add_argument("--model", default=DEFAULT)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--measured", type=float, default=MEASURED_S, help="seconds compared")
    parser.add_argument("--rounds", type=int, default=3, help="streams, each with other clips")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="keep the figures as JSON")
    parser.add_argument("--json", action="store_true", help="print JSON, no table")
    arguments = parser.parse_args()
    result = run(arguments)
    text = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")
    if arguments.json:
        print(text, end="")
    else:
        print_table(*drift_table(result))
        print(place_line(result))
        print(pop_line(result["pops"]))
        print_table(*pop_table(result["pops"]))
    drift_db = abs(result["si_sdri"]["average"]["difference"]["mean"])
    if drift_db > TARGET_DB:
        sys.exit(f"drift of {drift_db:.2f} dB, more than {TARGET_DB} dB")
    back_s = result["pops"]["rules"]["new"]["stems_back_s"]
    if back_s is None or back_s > GOAL_S:
        sys.exit(f"stems are back after a pop: {back_words(back_s)}, later than {GOAL_S:g} s")


if __name__ == "__main__":
    main()
