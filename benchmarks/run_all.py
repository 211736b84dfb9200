"""`make bench`: runs the benchmarks one after the other and writes benchmarks/README.md.

Each script's JSON is kept in benchmarks/results; tables and plots are made from it.
Scripts that lack something are skipped with a message: engine.py needs jackd, the
comparisons need the rivals' interpreter (RTMTASS_BENCH_RIVALS=RIVALS/bin/python, see
harness/rivals.py), quality.py needs a set (RTMTASS_BENCH_SET, a folder made by
`rtmtass data mix`). A failing script doesn't stop the others. Takes about 20 minutes;
don't use the machine meanwhile.
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
    "native": ["--python", f"${RIVALS}"],
    "quality": [f"${SET}", "--clips", "20", "--python", f"${RIVALS}"],
}
"""Scripts of `make bench` and their options. Run by hand: drift.py (needs a set), soak.py (takes
half an hour), ablations.py (needs a corpus and hours), page.py (needs Chromium), serve.py (needs a
quiet computer) and asr.py (needs a corpus and a recogniser)."""
SMOKE: dict[str, list[str]] = {
    "stft": ["--rounds", "1", "--bulk-rounds", "1", "--seconds", "2"],
    "step": ["--seconds", "2", "--presets", "small"],
    "streams": ["--seconds", "0.01", "--sizes", "1", "4"],
    "files": ["--minutes", "0.05", "0.1", "--race", "2", "--rounds", "1"],
    "engine": ["--seconds", "1.5", "--rounds", "1", "--blocks", "16"],
    "native": ["--seconds", "1"],
    "quality": ["--clips", "2"],
}
"""Options that only test that the scripts run; the figures are meaningless."""
PLOTS = ("streams", "files", "engine", "quality")
"""Scripts that save a plot."""


def options_of(name: str, is_smoke: bool) -> tuple[list[str], str]:
    """Return a script's options, environment variables filled in, and why it can't run, or ""."""
    defaults = {RIVALS: sys.executable}
    options = []
    for word in [*SCRIPTS.get(name, []), *(SMOKE.get(name, []) if is_smoke else [])]:
        variable = word.removeprefix("$")
        value = os.environ.get(variable, defaults.get(variable)) if word.startswith("$") else word
        if value is None:
            return [], f"{variable} isn't set; see benchmarks/run_all.py"
        options.append(value)
    if name == "engine":
        from benchmarks.harness.live_run import missing_parts

        return options, missing_parts()
    return options, ""


def run(name: str, options: list[str], results: Path) -> str:
    """Run one script and save its JSON and plot; return why it failed, or ""."""
    plot = ["--plot", str(results / f"{name}.png")] if name in PLOTS else []
    command = [*module_command(f"benchmarks.{name}"), "--json", *options, *plot]
    start = time.perf_counter()
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    elapsed = f"{time.perf_counter() - start:.0f} s"
    if process.returncode:
        return (
            f"{name} exited with status {process.returncode} after {elapsed}:"
            f" {' '.join(command)}\n{process.stderr[-2000:]}"
        )
    results.mkdir(parents=True, exist_ok=True)
    (results / f"{name}.json").write_text(process.stdout)
    print(f"{name}: {elapsed}", flush=True)
    return ""


def table(columns: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine(result: dict[str, Any]) -> str:
    """Return the machine info in one line."""
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
    """Return the tables that a script makes of its result, and its plot."""
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
        head = ["candidate", "p50, µs", "p99, µs", "max, µs", "p50 over ours", "largest difference"]
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


def native(result: dict[str, Any]) -> str:
    """One 16 ms hop in the C library and in WebAssembly."""
    return own_tables("native", result)


def quality(result: dict[str, Any]) -> str:
    """Separation of the dev mixtures, and speech compared with enhancers from PyPI."""
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
    totals = result["summary"]
    step_ms = totals["step_ms"]
    rows = [
        ["minutes", f"{result['minutes']:g}"],
        ["hops", f"{totals['hops']}"],
        ["deadline misses", f"{totals['deadline_misses']}"],
        [
            "samples lost by the stream (xruns of jackd)",
            f"{totals['underruns']} ({totals['xruns_of_jackd']})",
        ],
        ["wrong samples", f"{totals['samples_wrong']} of {totals['samples_compared']}"],
        [
            "step p50 / p99 / max, ms",
            " / ".join(f"{step_ms[k]:.2f}" for k in ("p50_ms", "p99_ms", "max_ms")),
        ],
        [
            "memory at 30 s and at the end, MB",
            f"{totals['memory_mb_at_30_s']:.1f}, {totals['memory_mb_at_the_end']:.1f}",
        ],
        ["CPU load, one core", f"{totals['cpu_share_mean']:.0%}"],
    ]
    parts = [table(["figure", "value"], rows), result.get("remark", "")]
    return "\n\n".join([*filter(None, parts), "![over time](results/soak.png)"])


def drift(result: dict[str, Any]) -> str:
    """Does a stream degrade with time?"""
    from benchmarks.drift import drift_table, position_line
    from benchmarks.pops import pop_line, pop_table
    from benchmarks.scenes import scene_line, scene_table

    model = result["model"]
    description = (
        f"{model['name']} {model['version']}: the same {result['clips']} mixtures in the first"
        f" and the last of {result['minutes']:g} minutes of a stream ({result['streams']} streams),"
        " hop by hop, with mixtures, pauses and silence at changing levels between; in brackets"
        " 95 % intervals, the difference clip by clip."
    )
    parts = [description, table(*drift_table(result)), position_line(result)]
    if pops := result.get("pops"):  # missing in earlier results
        parts += [pop_line(pops), table(*pop_table(pops))]
    if scenes := result.get("scenes"):
        parts += [scene_line(scenes), table(*scene_table(scenes))]
    return "\n\n".join(parts)


def ablations(result: dict[str, Any]) -> str:
    """The paper's claims, tested on the causal network with a fixed small budget."""
    from benchmarks.ablations import tables

    budget = result["budget"]
    precision = "bf16" if budget["bf16"] else "float32"
    parts = [
        f"{budget['steps']} steps of {budget['batch']} crops of {budget['seconds']:g} s,"
        f" {precision}, {budget['dev_clips']} dev mixtures; in brackets 95 % intervals,"
        " differences clip by clip. One seed each."
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
    "native": native,
    "quality": quality,
    "soak": soak,
    "drift": drift,
    "ablations": ablations,
}


def write_readme(folder: Path) -> Path:
    """Write README.md from all results in `folder`; return its path."""
    parts = [
        "# Benchmarks",
        "Generated by `make bench` from the JSON in `results/`. Absolute times apply to the named"
        " machine; ratios come from interleaved runs and transfer better.",
    ]
    for name, show in SECTIONS.items():
        path = folder / "results" / f"{name}.json"
        if path.exists():
            result = json.loads(path.read_text())
            title = (show.__doc__ or "").rstrip(".")
            parts += [f"## {title}: `{name}.py`", machine(result)]
            try:
                parts.append(show(result))
            except KeyError as missing:
                parts.append(f"Measured by an earlier version (no {missing}); run it again.")
    (folder / "README.md").write_text("\n\n".join(parts) + "\n")
    return folder / "README.md"


def main() -> int:
    """Run the named scripts, or all, then write README.md; return 1 if a script failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("only", nargs="*", metavar="NAME", help=f"one of {', '.join(SCRIPTS)}")
    parser.add_argument("--tables", action="store_true", help="only write README.md")
    parser.add_argument("--smoke", action="store_true", help="only test that everything runs")
    parser.add_argument("--output", type=Path, help="folder for README.md and results/")
    arguments = parser.parse_args()
    folder = arguments.output or FOLDER
    if arguments.smoke and folder == FOLDER:
        parser.error(
            "--smoke makes meaningless figures and would overwrite the results; add --output FOLDER"
        )
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
