"""How good are the stems, and how good is speech compared with enhancers from PyPI?

Every clip of an evaluation set (`rtmtass data mix`) is processed by our model hop by hop
and, in the same round, by each rival, on one thread. A rival's constant delay is found by
cross-correlation and compensated; sample rates are converted by soxr, untimed. The
metrics are those of `rtmtass evaluate`. RTF is processor time over audio time, so the
ratio between two RTFs holds even on a busy machine. Our model runs in its default
precision and one pass; the other precisions are compared with f32, and more passes with
one, clip by clip.

    rtmtass data mix CORPUS SET --cache CACHE --n 200
    python -m benchmarks.quality SET --python RIVALS/bin/python --output quality.json

The rivals need a separate interpreter, see harness/rivals.py; those that aren't installed
there are listed with the reason. For music and noise there is no comparable package.
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
from benchmarks.harness.candidates import RATE, Candidate, OurModel, open_rivals
from benchmarks.harness.costs import cost_of, draw, latency_ms, macs_per_s
from benchmarks.harness.machine_info import machine_card
from benchmarks.harness.rivals import RIVALS
from benchmarks.harness.tables import format_interval
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
"""Clips used to find a rival's delay; they also warm it up."""
COLUMNS = {
    "si_sdri": ("SI-SDRi, dB", 2),
    "sdri": ("SDRi, dB", 2),
    "bss_sdri": ("BSS-eval SDRi, dB", 2),
    "pesq": ("PESQ", 3),
    "stoi": ("STOI", 3),
}


def measure_clips(
    candidates: list[Candidate], basic: list[Candidate], clips: Iterable[Clip], n: int, steps: Steps
) -> dict[str, dict[str, NDArray[np.floating]]]:
    """Return name → figure → values, clip first; `basic` candidates only get (SI-)SDR and RTF."""
    values: dict[str, dict[str, list[Any]]] = {c.name: {} for c in (*candidates, *basic)}
    for number, clip in enumerate(clips):
        for candidate in (*candidates, *basic):
            out, seconds = candidate(clip.mixture)
            measures = () if candidate in basic else MEASURES
            figures = measure(clip.mixture, clip.stems[: len(out)], out, RATE, measures)
            figures["rtf"] = np.array(seconds * RATE / len(clip.mixture))
            for name, value in figures.items():
                values[candidate.name].setdefault(name, []).append(value)
        steps("clips", number + 1, n)
    return {name: {k: np.array(v) for k, v in rows.items()} for name, rows in values.items()}


def summary(values: dict[str, NDArray[np.floating]], stem: int = 0) -> dict[str, Any]:
    """Return a candidate's figures of one stem with intervals; PESQ and STOI for speech only."""
    figures: dict[str, Any] = {k: with_interval(values[k][:, stem]) for k in ("si_sdri", "sdri")}
    figures["bss_sdri"] = with_interval(values["bss_sdri"][:, stem])
    if stem == 0:
        figures |= {k: with_interval(values[k][:, 1]) for k in ("pesq", "stoi")}
    return figures


def rtf(values: NDArray[np.floating]) -> dict[str, float]:
    """Return p50, p99 and max over the clips."""
    p50, p99 = np.quantile(values, [0.5, 0.99])
    return {"p50": float(p50), "p99": float(p99), "max": float(values.max())}


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure everything; plain values for JSON."""
    require(MEASURES)
    names = set_names(arguments.set)[: arguments.clips]
    ours = OurModel(arguments.model)
    by_precision = [OurModel(arguments.model, precision) for precision in PRECISIONS]
    by_passes = [OurModel(arguments.model, passes=passes) for passes in PASSES if passes > 1]
    stems = ours.separator.stems
    rivals, missing = open_rivals(arguments.rivals, arguments.python)
    with Steps() as steps:
        for number, rival in enumerate(rivals):
            first = read_set(arguments.set, stems, first=CALIBRATION)
            rival.calibrate(clip.mixture for clip in first)
            steps("delays", number + 1, len(rivals))
        for each in (ours, *by_precision, *by_passes):
            each(np.zeros(RATE, np.float32))
        clips = read_set(arguments.set, stems, first=arguments.clips)
        candidates: list[Candidate] = [ours, *rivals]
        values = measure_clips(candidates, [*by_precision, *by_passes], clips, len(names), steps)
    for rival in rivals:
        rival.close()
    costs = {rival.name: cost_of(rival.name, rival.hello["macs_per_s"]) for rival in rivals}
    model = open_model(arguments.model)
    shapes = {name: w.shape for name, w in model.weights.items()}
    exact = values[by_precision[0].name]
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
                "fed": candidate.chunk,
                "latency_ms": latency_ms(candidate.name, 1000 * candidate.delay_s, candidate.chunk),
                **costs[candidate.name],
            }
            for candidate in candidates
        },
        "ahead_db": {
            rival.name: with_interval(
                values[ours.name]["si_sdri"][:, 0] - values[rival.name]["si_sdri"][:, 0]
            )
            for rival in rivals
        },
        "precisions": {
            each.precision: precision_figures(stems, values[each.name], exact)
            for each in by_precision
        },
        "passes": {
            str(each.passes): pass_figures(each, stems, values[each.name], values[ours.name])
            for each in (ours, *by_passes)
        },
        "packages": {r.name: r.hello["package"] for r in rivals},
        "not_run": missing,
    }


def precision_figures(
    stems: tuple[str, ...], values: dict[str, Any], exact: dict[str, Any]
) -> dict[str, Any]:
    """Return a precision's SI-SDRi and its loss against f32, by stem and averaged."""
    si_sdri, exact_si_sdri = values["si_sdri"], exact["si_sdri"]
    return {
        "si_sdri": by_stem(stems, si_sdri),
        "cost_db": by_stem(stems, exact_si_sdri - si_sdri),
        "rtf": rtf(values["rtf"]),
    }


def by_stem(stems: tuple[str, ...], values: NDArray[np.floating]) -> dict[str, Any]:
    """Return the means of (clips, S) values with intervals, by stem and averaged."""
    means: dict[str, Any] = {stem: with_interval(values[:, i]) for i, stem in enumerate(stems)}
    return {**means, "average": with_interval(np.nanmean(values, axis=1))}


def precision_table(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows: the loss of each precision, clip by clip."""
    stems = [*result["stems"], "average"]
    rows = [
        [name, format_interval(v["si_sdri"]["average"], 2),
         *(format_interval(v["cost_db"][s], 3) for s in stems),
         f"{v['rtf']['p50']:.4f}"]
        for name, v in result["precisions"].items()
    ]  # fmt: skip
    return ["precision", "SI-SDRi, dB", *(f"loss: {stem}, dB" for stem in stems), "RTF"], rows


def pass_figures(
    ours: OurModel, stems: tuple[str, ...], values: dict[str, Any], once: dict[str, Any]
) -> dict[str, Any]:
    """Return the SI-SDRi of several passes, their gain over one pass, latency and RTF."""
    return {
        "si_sdri": by_stem(stems, values["si_sdri"]),
        "gained_db": by_stem(stems, values["si_sdri"] - once["si_sdri"]),
        "latency_ms": 1000 * ours.separator.algorithmic_latency / RATE,
        "rtf": rtf(values["rtf"]),
        "rtf_to_one": float(np.median(values["rtf"] / once["rtf"])),
    }


def pass_table(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows: the gain of more passes over one, clip by clip."""
    stems = [*result["stems"], "average"]
    rows = [
        [passes, format_interval(v["si_sdri"]["average"], 2),
         *(format_interval(v["gained_db"][s], 3) for s in stems),
         f"{v['latency_ms']:g}", f"{v['rtf']['p50']:.4f} ({v['rtf_to_one']:.2f}x)"]
        for passes, v in result["passes"].items()
    ]  # fmt: skip
    gains = [f"gain: {stem}, dB" for stem in stems]
    return ["passes", "SI-SDRi, dB", *gains, "latency, ms", "RTF (over one pass)"], rows


def describe_model(model: str) -> dict[str, Any]:
    """Return the model's name, version and size."""
    opened = open_model(model)
    about = {k: v for k, v in opened.about.items() if isinstance(v, (str, int, float))}
    return {"name": opened.config.name, "n_parameters": opened.n_parameters, **about}


def stems_table(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows: our model, by stem."""
    kinds = ("si_sdri", "sdri", "bss_sdri")
    rows = [[s, *(format_interval(v[k], 2) for k in kinds)] for s, v in result["stems"].items()]
    return ["stem", *(COLUMNS[k][0] for k in kinds)], rows


def speech_table(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows: speech, all candidates; a star marks the best."""
    speech = result["speech"]
    best = {
        k: max(speech, key=lambda name: speech[name][k]["mean"] if speech[name][k] else -np.inf)
        for k in COLUMNS
    }
    rows = []
    for name, figures in sorted(speech.items(), key=lambda row: -row[1]["si_sdri"]["mean"]):
        cells = [
            format_interval(figures[k], digits, "*" if best[k] == name else "")
            for k, (_, digits) in COLUMNS.items()
        ]
        timing = f"{figures['rtf']['p50']:.4f} ({figures['rtf_to_ours']:.2f}x)"
        latency, macs = figures["latency_ms"], figures["macs_per_s"]
        cost = [f"{latency:g}" if latency else "whole clip", figures["fed"]]
        cost.append(f"{macs / 1e6:.0f}" if macs else "–")
        rows.append([name, *cells, *cost, timing])
    scores = result["mixture"]
    mixture = [format_interval(scores.get(k), digits) for k, (_, digits) in COLUMNS.items()]
    rows.append(["mixture", *mixture, "", "", "", ""])
    titles = [title for title, _ in COLUMNS.values()]
    return ["speech", *titles, "latency, ms", "input per call", "MMAC/s", "RTF (over ours)"], rows


def remarks(result: dict[str, Any]) -> list[str]:
    """Return the lines below the tables."""
    lines = ["* best; in brackets the 95 % interval of the mean"]
    sources = {
        name: figures["macs_source"]
        for name, figures in result["speech"].items()
        if figures.get("macs_source") and figures["macs_per_s"]
    }
    lines += [f"MAC/s of {name}: {source}" for name, source in sources.items()]
    lines += [
        f"SI-SDRi of speech over {name}: {format_interval(ahead, 2)} dB, clip by clip"
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
    """Print the tables and save the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("set", type=Path, metavar="SET", help="folder made by `rtmtass data mix`")
    parser.add_argument("--model", default=DEFAULT)
    parser.add_argument("--clips", type=int, metavar="N", help="use only the first N")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the rivals")
    parser.add_argument("--rivals", nargs="*", default=list(RIVALS), choices=list(RIVALS))
    parser.add_argument("--output", type=Path, help="save the figures as JSON")
    parser.add_argument("--plot", type=Path, help="save a plot of SI-SDRi over cost, .png or .svg")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
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
