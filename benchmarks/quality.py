"""How good are the stems, and on speech, how good beside the enhancers that pip provides?

Every clip of an evaluation set (`rtmtass data mix`) goes through our model hop by
hop and, in the same round, through each rival, on one thread. A rival's constant
delay is found by cross-correlation and taken out; rates are converted by soxr,
which isn't timed. The measures are those of `rtmtass evaluate`. RTF is processor
time over audio time, so the ratio between two of them holds even on a busy machine.
Our model runs in its default precision and in one pass; what the other precisions cost
is the difference to f32, what more passes gain that to one, clip by clip.

    rtmtass data mix CORPUS SET --cache CACHE --n 200
    python -m benchmarks.quality SET --python RIVALS/bin/python --output quality.json

The rivals live in an interpreter of their own, see rivals.py; those that are not
installed there are listed as such. Music and noise have no rival of their kind.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

for threads in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(threads, "1")

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.affinity import stay_on_one_core
from benchmarks.harness.candidates import RATE, Candidate, Ours, open_rivals
from benchmarks.harness.costs import cost_of, draw, latency_ms, macs_per_s
from benchmarks.harness.machine_info import machine_card
from benchmarks.harness.rivals import RIVALS
from rtmtass.cli.console import Steps, print_table
from rtmtass.config import PASSES, PRECISIONS
from rtmtass.evaluation.evaluate import (
    Clip,
    describe_set,
    measure,
    read_set,
    set_names,
    with_interval,
)
from rtmtass.evaluation.perceptual import MEASURES, require
from rtmtass.weights import DEFAULT, open_model

CALIBRATION = 4
"""Clips to find a rival's delay by; they warm it up, too."""
COLUMNS = {
    "si_sdri": ("SI-SDRi, dB", 2),
    "sdri": ("SDRi, dB", 2),
    "bss_sdri": ("BSS-eval SDRi, dB", 2),
    "pesq": ("PESQ", 3),
    "stoi": ("STOI", 3),
}


def listen(
    candidates: list[Candidate], brief: list[Candidate], clips: Iterable[Clip], n: int, steps: Steps
) -> dict[str, dict[str, NDArray[np.floating]]]:
    """Return per candidate and figure the values of all clips, clip first; of `brief` the basic."""
    values: dict[str, dict[str, list[Any]]] = {c.name: {} for c in (*candidates, *brief)}
    for number, clip in enumerate(clips):
        for candidate in (*candidates, *brief):
            out, seconds = candidate(clip.mixture)
            wanted = () if candidate in brief else MEASURES
            figures = measure(clip.mixture, clip.stems[: len(out)], out, RATE, wanted)
            figures["rtf"] = np.array(seconds * RATE / len(clip.mixture))
            for name, value in figures.items():
                values[candidate.name].setdefault(name, []).append(value)
        steps("clips", number + 1, n)
    return {name: {k: np.array(v) for k, v in rows.items()} for name, rows in values.items()}


def summary(values: dict[str, NDArray[np.floating]], stem: int = 0) -> dict[str, Any]:
    """Return one candidate's figures of a stem with intervals; PESQ and STOI are of speech."""
    figures: dict[str, Any] = {k: with_interval(values[k][:, stem]) for k in ("si_sdri", "sdri")}
    figures["bss_sdri"] = with_interval(values["bss_sdri"][:, stem])
    if stem == 0:
        figures |= {k: with_interval(values[k][:, 1]) for k in ("pesq", "stoi")}
    return figures


def rtf(values: NDArray[np.floating]) -> dict[str, float]:
    """Return p50, p99 and the largest over the clips."""
    p50, p99 = np.quantile(values, [0.5, 0.99])
    return {"p50": float(p50), "p99": float(p99), "max": float(values.max())}


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run it all; plain values for JSON."""
    require(MEASURES)
    names = set_names(arguments.set)[: arguments.clips]
    ours = Ours(arguments.model)
    precise = [Ours(arguments.model, precision) for precision in PRECISIONS]
    often = [Ours(arguments.model, passes=passes) for passes in PASSES if passes > 1]
    stems = ours.separator.stems
    rivals, missing = open_rivals(arguments.rivals, arguments.python)
    with Steps() as steps:
        for number, rival in enumerate(rivals):
            first = read_set(arguments.set, stems, first=CALIBRATION)
            rival.calibrate(clip.mixture for clip in first)
            steps("delays", number + 1, len(rivals))
        for each in (ours, *precise, *often):
            each(np.zeros(RATE, np.float32))
        clips = read_set(arguments.set, stems, first=arguments.clips)
        everyone: list[Candidate] = [ours, *rivals]
        values = listen(everyone, [*precise, *often], clips, len(names), steps)
    for rival in rivals:
        rival.close()
    costs = {rival.name: cost_of(rival.name, rival.hello["macs_per_s"]) for rival in rivals}
    model = open_model(arguments.model)
    shapes = {name: w.shape for name, w in model.weights.items()}
    costs[ours.name] = {"macs_per_s": macs_per_s(shapes, model.config)}
    return {
        "benchmark": "quality",
        "machine": machine_card(),
        "set": {
            "name": arguments.set.absolute().name,
            **describe_set(arguments.set),
            "clips": len(names),
        },
        "model": {**describe_model(arguments.model), "precision": ours.precision},
        "stems": {stem: summary(values[ours.name], i) for i, stem in enumerate(stems)},
        "mixture": {k: with_interval(values[ours.name][k][:, 0]) for k in ("pesq", "stoi")},
        "speech": {
            candidate.name: {
                **summary(values[candidate.name]),
                "rtf": rtf(values[candidate.name]["rtf"]),
                "rtf_to_ours": float(
                    np.median(values[candidate.name]["rtf"] / values[ours.name]["rtf"])
                ),
                "delay_ms": round(1000 * candidate.delay_s, 2),
                "fed": candidate.fed,
                "latency_ms": latency_ms(candidate.name, 1000 * candidate.delay_s, candidate.fed),
                **costs[candidate.name],
            }
            for candidate in everyone
        },
        "ahead_db": {
            rival.name: with_interval(
                values[ours.name]["si_sdri"][:, 0] - values[rival.name]["si_sdri"][:, 0]
            )
            for rival in rivals
        },
        "precisions": {
            each.precision: precision_figures(stems, values[each.name], values[precise[0].name])
            for each in precise
        },
        "passes": {
            str(each.passes): pass_figures(each, stems, values[each.name], values[ours.name])
            for each in (ours, *often)
        },
        "packages": {r.name: r.hello["package"] for r in rivals},
        "not_run": missing,
    }


def precision_figures(
    stems: tuple[str, ...], values: dict[str, Any], exact: dict[str, Any]
) -> dict[str, Any]:
    """Return a precision's SI-SDRi and what it loses against f32, stems and their average."""
    mine, theirs = values["si_sdri"], exact["si_sdri"]
    return {
        "si_sdri": by_stem(stems, mine),
        "cost_db": by_stem(stems, theirs - mine),
        "rtf": rtf(values["rtf"]),
    }


def by_stem(stems: tuple[str, ...], values: NDArray[np.floating]) -> dict[str, Any]:
    """Return the means of (clips, S) values with intervals, stems and their average."""
    found: dict[str, Any] = {stem: with_interval(values[:, i]) for i, stem in enumerate(stems)}
    return {**found, "average": with_interval(np.nanmean(values, axis=1))}


def precision_table(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows: what each precision costs, clip by clip."""
    stems = [*result["stems"], "average"]
    rows = [
        [name, words(v["si_sdri"]["average"], 2), *(words(v["cost_db"][s], 3) for s in stems),
         f"{v['rtf']['p50']:.4f}"]
        for name, v in result["precisions"].items()
    ]  # fmt: skip
    return ["precision", "SI-SDRi, dB", *(f"lost: {stem}, dB" for stem in stems), "RTF"], rows


def pass_figures(
    ours: Ours, stems: tuple[str, ...], values: dict[str, Any], once: dict[str, Any]
) -> dict[str, Any]:
    """Return the SI-SDRi of several passes, what they gain on one, and what they take."""
    return {
        "si_sdri": by_stem(stems, values["si_sdri"]),
        "gained_db": by_stem(stems, values["si_sdri"] - once["si_sdri"]),
        "latency_ms": 1000 * ours.separator.algorithmic_latency / RATE,
        "rtf": rtf(values["rtf"]),
        "rtf_to_one": float(np.median(values["rtf"] / once["rtf"])),
    }


def pass_table(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows: what hearing everything several times gains, clip by clip."""
    stems = [*result["stems"], "average"]
    rows = [
        [passes, words(v["si_sdri"]["average"], 2), *(words(v["gained_db"][s], 3) for s in stems),
         f"{v['latency_ms']:g}", f"{v['rtf']['p50']:.4f} ({v['rtf_to_one']:.2f}x)"]
        for passes, v in result["passes"].items()
    ]  # fmt: skip
    gained = [f"gained: {stem}, dB" for stem in stems]
    return ["passes", "SI-SDRi, dB", *gained, "latency, ms", "RTF (over one)"], rows


def describe_model(model: str) -> dict[str, Any]:
    """Return which weights these are."""
    opened = open_model(model)
    about = {k: v for k, v in opened.about.items() if isinstance(v, (str, int, float))}
    return {"name": opened.config.name, "n_parameters": opened.n_parameters, **about}


def words(value: dict[str, float] | None, digits: int, mark: str = "") -> str:
    """Return a figure with its interval."""
    if not value:
        return "–"
    return (
        f"{value['mean']:.{digits}f}{mark} ({value['low']:.{digits}f} … {value['high']:.{digits}f})"
    )


def stems_table(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows: what our model does to each stem."""
    kinds = ("si_sdri", "sdri", "bss_sdri")
    rows = [[s, *(words(v[k], 2) for k in kinds)] for s, v in result["stems"].items()]
    return ["stem", *(COLUMNS[k][0] for k in kinds)], rows


def speech_table(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows: speech, by everyone; a star at the best, whoever it is."""
    speech = result["speech"]
    best = {
        k: max(speech, key=lambda name: speech[name][k]["mean"] if speech[name][k] else -np.inf)
        for k in COLUMNS
    }
    rows = []
    for name, figures in sorted(speech.items(), key=lambda row: -row[1]["si_sdri"]["mean"]):
        cells = [
            words(figures[k], digits, "*" if best[k] == name else "")
            for k, (_, digits) in COLUMNS.items()
        ]
        timing = f"{figures['rtf']['p50']:.4f} ({figures['rtf_to_ours']:.2f}x)"
        late, macs = figures["latency_ms"], figures["macs_per_s"]
        place = [f"{late:g}" if late else "whole clip", figures["fed"]]
        place.append(f"{macs / 1e6:.0f}" if macs else "–")
        rows.append([name, *cells, *place, timing])
    mixture = [words(result["mixture"].get(k), digits) for k, (_, digits) in COLUMNS.items()]
    rows.append(["mixture", *mixture, "", "", "", ""])
    titles = [title for title, _ in COLUMNS.values()]
    return ["speech", *titles, "latency, ms", "fed by", "MMAC/s", "RTF (over ours)"], rows


def remarks(result: dict[str, Any]) -> list[str]:
    """Return what stands below the tables."""
    lines = ["* the best; in brackets the 95 % interval of the mean"]
    sources = {
        name: figures["macs_source"]
        for name, figures in result["speech"].items()
        if figures.get("macs_source") and figures["macs_per_s"]
    }
    lines += [f"MAC/s of {name}: {source}" for name, source in sources.items()]
    lines += [
        f"ahead of {name}: {words(ahead, 2)} dB SI-SDRi of speech, clip by clip"
        for name, ahead in result["ahead_db"].items()
    ]
    return lines + [f"not run: {name}: {why}" for name, why in result["not_run"].items()]


def show(result: dict[str, Any]) -> None:
    """Print the tables."""
    print(f"{result['model']['name']}, {result['set']['clips']} clips of {result['set']['name']}")
    print_table(*stems_table(result))
    print()
    print_table(*precision_table(result))
    print()
    print_table(*pass_table(result))
    print()
    print_table(*speech_table(result))
    print("\n".join(remarks(result)))


def main() -> None:
    """Print the tables and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("set", type=Path, metavar="SET", help="a folder of `rtmtass data mix`")
    parser.add_argument("--model", default=DEFAULT)
    parser.add_argument("--clips", type=int, help="only the first so many")
    parser.add_argument("--python", default=sys.executable, help="the rivals' interpreter")
    parser.add_argument("--rivals", nargs="*", default=list(RIVALS), choices=list(RIVALS))
    parser.add_argument("--output", type=Path, help="keep the figures as JSON")
    parser.add_argument("--plot", type=Path, help="draw SI-SDRi over cost, .png or .svg")
    parser.add_argument("--json", action="store_true", help="print JSON, no tables")
    arguments = parser.parse_args()
    stay_on_one_core()
    result = compare(arguments)
    text = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")
    if arguments.plot:
        draw(result, arguments.plot)
    if arguments.json:
        print(text, end="")
    else:
        show(result)


if __name__ == "__main__":
    main()
