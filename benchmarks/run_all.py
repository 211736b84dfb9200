"""`make bench`: runs the benchmarks one after the other and writes benchmarks/README.md.

Each script's JSON is kept in benchmarks/results; tables and plots are made from it.
What isn't there is skipped with a line: jackd for engine.py, the rivals' interpreter
(RTMTASS_BENCH_RIVALS=RIVALS/bin/python, see rivals.py), and for quality.py a set
(RTMTASS_BENCH_SET, a folder of `rtmtass data mix`). A script that fails doesn't keep
the others from running. About 20 minutes; leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import FOLDER, module_command

RIVALS, SET = "RTMTASS_BENCH_RIVALS", "RTMTASS_BENCH_SET"
SCRIPTS: dict[str, list[str]] = {
    "stft": [],
    "step": [],
    "streams": [],
    "files": ["--python", f"${RIVALS}"],
    "engine": [],
    "quality": [f"${SET}", "--clips", "20", "--python", f"${RIVALS}"],
}
"""What `make bench` runs, and with which options; drift.py needs a set, soak.py half an hour,
ablations.py a corpus and an hour: by hand."""
SMOKE: dict[str, list[str]] = {
    "stft": ["--rounds", "1", "--bulk-rounds", "1", "--seconds", "2"],
    "step": ["--seconds", "2", "--presets", "small"],
    "streams": ["--seconds", "0.01", "--sizes", "1", "4"],
    "files": ["--minutes", "0.05", "0.1", "--race", "2", "--rounds", "1"],
    "engine": ["--seconds", "1.5", "--rounds", "1", "--blocks", "16"],
    "quality": ["--clips", "2"],
}
"""Options that show whether everything runs; the figures mean nothing."""
PLOTS = ("streams", "files", "engine", "quality")
"""Scripts whose results have a picture beside them."""


def options_of(name: str, is_smoke: bool) -> tuple[list[str], str]:
    """Return a script's options with the environment filled in, and why it can't run, if so."""
    defaults = {RIVALS: sys.executable}
    options = []
    for word in [*SCRIPTS.get(name, []), *(SMOKE.get(name, []) if is_smoke else [])]:
        wanted = word.removeprefix("$")
        value = os.environ.get(wanted, defaults.get(wanted)) if word.startswith("$") else word
        if value is None:
            return [], f"{wanted} isn't set; see benchmarks/run_all.py"
        options.append(value)
    if name == "engine":
        from benchmarks.harness.live_run import missing_parts

        return options, missing_parts()
    return options, ""


def run(name: str, options: list[str], results: Path) -> str:
    """Run one script and keep its JSON and picture; return what it died of, if it did."""
    plot = ["--plot", str(results / f"{name}.png")] if name in PLOTS else []
    command = [*module_command(f"benchmarks.{name}"), "--json", *options, *plot]
    start = time.perf_counter()
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    took = f"{time.perf_counter() - start:.0f} s"
    if answer.returncode:
        return f"{name} failed after {took}: {' '.join(command)}\n{answer.stderr[-2000:]}"
    results.mkdir(parents=True, exist_ok=True)
    (results / f"{name}.json").write_text(answer.stdout)
    print(f"{name}: {took}", flush=True)
    return ""


def table(columns: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine(result: dict[str, Any]) -> str:
    """Return the machine card in a line."""
    card = result["machine"]
    versions = ", ".join(f"{k} {v}" for k, v in card["versions"].items())
    facts = [f"{card['cpu']}, {card['cores']} cores"]
    if "governor" in card:
        facts.append(f"governor {card['governor']}")
    facts.append(f"load {(card.get('load_1_5_15_min') or ['?'])[0]}")
    if card.get("cores_busy_with_others") is not None:
        facts.append(f"{card['cores_busy_with_others']} cores busy with other programs")
    facts += [card["system"], f"Python {card['python']}", versions]
    if threads := {value for value in card.get("threads", {}).values() if value}:
        facts.append(f"threads {'/'.join(sorted(threads))}")
    if card.get("commit"):
        facts.append(f"commit {card['commit']}")
    return f"*{', '.join(facts)}; {card['date'][:10]}.*"


def own_tables(name: str, result: dict[str, Any]) -> str:
    """Return the tables a script makes of its result, and its picture."""
    from benchmarks.harness.tables import markdown

    text = markdown(importlib.import_module(f"benchmarks.{name}").tables(result))
    return f"{text}\n\n![{name}](results/{name}.png)" if name in PLOTS else text


def stft(result: dict[str, Any]) -> str:
    """Window, FFT, mask, inverse, overlap-add."""
    parts = []
    for title, rows in result["measurements"].items():
        lines = [
            [
                name,
                f"{row['p50_us']:.2f}",
                f"{row['p99_us']:.2f}",
                f"{row['max_us']:.1f}",
                f"{row['ratio']:.2f}x",
                f"{row['max_delta']:.0e}",
            ]
            for name, row in rows.items()
        ]
        head = ["who", "p50, µs", "p99, µs", "max, µs", "p50 over ours", "largest difference"]
        parts.append(f"**{title}**\n\n{table(head, lines)}")
    return "\n\n".join(parts)


def step(result: dict[str, Any]) -> str:
    """One 16 ms hop through the whole engine."""
    return own_tables("step", result)


def streams(result: dict[str, Any]) -> str:
    """Streams one core separates in time."""
    return own_tables("streams", result)


def files(result: dict[str, Any]) -> str:
    """Whole recordings."""
    return own_tables("files", result)


def engine(result: dict[str, Any]) -> str:
    """`rtmtass live` on a stream."""
    return own_tables("engine", result)


def quality(result: dict[str, Any]) -> str:
    """Separation of the dev mixtures, and speech beside enhancers that live in packages."""
    from benchmarks.quality import pass_table, precision_table, remarks, speech_table, stems_table

    model = result["model"]
    figures = f"{model['name']} {model['precision']}, {result['set']['clips']} clips."
    parts = [figures, table(*stems_table(result)), table(*precision_table(result))]
    parts += [
        table(*pass_table(result)),
        table(*speech_table(result)),
        "\n".join(f"- {line}" for line in remarks(result)),
        "![SI-SDRi over cost](results/quality.png)",
    ]
    return "\n\n".join(parts)


def soak(result: dict[str, Any]) -> str:
    """`rtmtass live` left running on a jackd without a sound card."""
    what = result["summary"]
    step_ms = what["step_ms"]
    rows = [
        ["minutes", f"{result['minutes']:g}"],
        ["hops", f"{what['hops']}"],
        ["deadline misses", f"{what['deadline_misses']}"],
        [
            "samples lost by the stream (jackd's own xruns)",
            f"{what['underruns']} ({what['xruns_of_jackd']})",
        ],
        ["samples that came back wrong", f"{what['samples_wrong']} of {what['samples_compared']}"],
        [
            "step p50 / p99 / max, ms",
            " / ".join(f"{step_ms[k]:.2f}" for k in ("p50_ms", "p99_ms", "max_ms")),
        ],
        [
            "memory at 30 s and at the end, MB",
            f"{what['memory_mb_at_30_s']:.1f}, {what['memory_mb_at_the_end']:.1f}",
        ],
        ["share of a core", f"{what['cpu_share_mean']:.0%}"],
    ]
    parts = [table(["what", "figure"], rows), result.get("remark", "")]
    return "\n\n".join([*filter(None, parts), "![over time](results/soak.png)"])


def drift(result: dict[str, Any]) -> str:
    """Does a stream get worse with time?"""
    from benchmarks.drift import drift_table, place_line
    from benchmarks.pops import pop_line, pop_table

    model = result["model"]
    said = (
        f"{model['name']} {model['version']}: the same {result['clips']} mixtures in the first"
        f" and the last of {result['minutes']:g} minutes of a stream ({result['streams']} streams),"
        " hop by hop, with mixtures, pauses and silence at changing levels between; in brackets"
        " 95 % intervals, the difference clip by clip."
    )
    parts = [said, table(*drift_table(result)), place_line(result)]
    if pops := result.get("pops"):  # earlier results have none
        parts += [pop_line(pops), table(*pop_table(pops))]
    return "\n\n".join(parts)


def ablations(result: dict[str, Any]) -> str:
    """The paper's claims, asked of the causal net, each on one fixed small budget."""
    from benchmarks.ablations import tables

    budget = result["budget"]
    numbers = "bf16" if budget["bf16"] else "float32"
    parts = [
        f"{budget['steps']} steps of {budget['batch']} crops of {budget['seconds']:g} s, {numbers},"
        f" {budget['dev_clips']} dev mixtures; in brackets 95 % intervals, differences clip by"
        " clip. One seed each."
    ]
    for question, (head, rows) in tables(result).items():
        parts.append(f"**{question}**\n\n{table(head, rows)}")
    return "\n\n".join(parts)


SECTIONS: dict[str, Callable[[dict[str, Any]], str]] = {
    "stft": stft,
    "step": step,
    "streams": streams,
    "files": files,
    "engine": engine,
    "quality": quality,
    "soak": soak,
    "drift": drift,
    "ablations": ablations,
}


def write_readme(folder: Path) -> Path:
    """Write the tables of all results there are; return where."""
    parts = [
        "# Benchmarks",
        "Made by `make bench` from the JSON in `results/`. Absolute times belong to the machine"
        " named; ratios come from one interleaved run and hold better.",
    ]
    for name, show in SECTIONS.items():
        path = folder / "results" / f"{name}.json"
        if path.exists():
            result = json.loads(path.read_text())
            what = (show.__doc__ or "").rstrip(".")
            parts += [f"## {what}: `{name}.py`", machine(result)]
            try:
                parts.append(show(result))
            except KeyError as missing:
                parts.append(f"Measured by an earlier version (no {missing}): run it again.")
    (folder / "README.md").write_text("\n\n".join(parts) + "\n")
    return folder / "README.md"


def main() -> int:
    """Run what is asked for, then write the tables; 1 if a script failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("only", nargs="*", metavar="NAME", help=f"of {', '.join(SCRIPTS)}")
    parser.add_argument("--tables", action="store_true", help="only write README.md anew")
    parser.add_argument("--smoke", action="store_true", help="show that everything runs")
    parser.add_argument("--output", type=Path, help="where README.md and results/ go")
    arguments = parser.parse_args()
    folder = arguments.output or FOLDER
    if arguments.smoke and folder == FOLDER:
        parser.error("--smoke makes figures that mean nothing: keep them elsewhere with --output")
    failures = []
    for name in [] if arguments.tables else arguments.only or SCRIPTS:
        options, missing = options_of(name, arguments.smoke)
        if missing:
            print(f"{name}: skipped: {missing}", flush=True)
        elif failure := run(name, options, folder / "results"):
            failures.append(failure)
            print(failure, file=sys.stderr, flush=True)
    print(write_readme(folder))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
