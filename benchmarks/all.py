"""`make bench`: runs the benchmarks one after the other and writes benchmarks/README.md.

Each script's JSON is kept in benchmarks/results; the tables are made from it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results"
SCRIPTS: dict[str, list[str]] = {"stft": [], "step": [], "files": []}
"""What `make bench` runs; quality.py needs a set and rivals, drift.py a set, soak.py
half an hour, ablations.py a corpus and an hour: by hand."""


def run(name: str, options: list[str]) -> None:
    """Run one script and keep its JSON."""
    print(f"benchmarks/{name}.py …", flush=True)
    command = [sys.executable, str(HERE / f"{name}.py"), "--json", *options]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{answer.stderr}")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(answer.stdout)


def table(columns: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine(result: dict[str, Any]) -> str:
    """Return the machine card in a line."""
    card = result["machine"]
    versions = ", ".join(f"{k} {v}" for k, v in card["versions"].items())
    load = card.get("load_1_5_15_min", ["?"])[0]
    return (
        f"*{card['cpu']}, {card['cores']} cores, load {load} at the start, {card['system']},"
        f" Python {card['python']}, {versions}; {card['date'][:10]}.*"
    )


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
    head = ["who", "p50, µs", "p99, µs", "p99.9, µs", "max, µs", "p50 over ours"]
    keys = ("p50_us", "p99_us", "p99.9_us", "max_us")
    rows = [
        [f"{name}, hot", *(f"{v[k]:.0f}" for k in keys), f"{result['ratio_to_ours'][name]:.2f}x"]
        for name, v in result["hot"].items()
    ]
    rows += [
        [f"{name}, every 16 ms", *(f"{v[k]:.0f}" for k in keys), ""]
        for name, v in result["paced"].items()
    ]
    speeds = [[k, f"{v:.0f}x"] for k, v in result["times_real_time"].items()]
    starts = ", ".join(f"{t:.2f}" for t in result["start_up_s"])
    parts = [
        table(head, rows),
        table(["16 kHz mono, one core", "real time"], speeds),
        f"Start of the command on a one-second file, machine code cached: {starts} s.",
    ]
    if "largest_difference_to_torch" in result:
        parts.append(f"Largest difference to torch: {result['largest_difference_to_torch']:.1e}.")
    return "\n\n".join(parts)


def files(result: dict[str, Any]) -> str:
    """Whole recordings, as the command separates them."""
    rows = [
        [
            f"{row['minutes']:g}",
            f"{row['seconds']:.1f}",
            f"{row['times_real_time']:.0f}x",
            f"{row['peak_rss_mb']:.0f}",
        ]
        for row in result["48 kHz stereo"]
    ]
    head = ["48 kHz stereo, minutes", "seconds", "real time", "peak memory, MB"]
    return table(head, rows)


def quality(result: dict[str, Any]) -> str:
    """Separation of the dev mixtures, and speech beside enhancers that live in packages."""
    from quality import remarks, speech_table, stems_table

    figures = f"{result['model']['name']}, {result['set']['clips']} clips."
    parts = [figures, table(*stems_table(result)), table(*speech_table(result))]
    parts += [
        "\n".join(f"- {line}" for line in remarks(result)),
        "![SI-SDRi over RTF](results/quality.png)",
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
    from drift import drift_table, place_line

    model = result["model"]
    said = (
        f"{model['name']} {model['version']}: the same {result['clips']} mixtures in the first"
        f" and the last of {result['minutes']:g} minutes of a stream ({result['streams']} streams),"
        " hop by hop, with mixtures, pauses and silence at changing levels between; in brackets"
        " 95 % intervals, the difference clip by clip."
    )
    return f"{said}\n\n{table(*drift_table(result))}\n\n{place_line(result)}"


def ablations(result: dict[str, Any]) -> str:
    """The paper's claims, asked of the causal net, each on one fixed small budget."""
    from ablations import tables

    budget = result["budget"]
    parts = [
        f"{budget['steps']} steps of {budget['batch']} crops of {budget['seconds']:g} s,"
        f" {budget['dev_clips']} dev mixtures; in brackets 95 % intervals, differences clip by"
        " clip. One seed each."
    ]
    for question, (head, rows) in tables(result).items():
        parts.append(f"**{question}**\n\n{table(head, rows)}")
    return "\n\n".join(parts)


SECTIONS: dict[str, Callable[[dict[str, Any]], str]] = {
    "stft": stft,
    "step": step,
    "files": files,
    "quality": quality,
    "soak": soak,
    "drift": drift,
    "ablations": ablations,
}


def write_readme() -> None:
    """Write the tables of all results there are."""
    parts = [
        "# Benchmarks",
        "Made by `make bench` from the JSON in `results/`. Absolute times belong to the machine"
        " named; ratios come from one interleaved run and hold better.",
    ]
    for name, show in SECTIONS.items():
        path = RESULTS / f"{name}.json"
        if path.exists():
            result = json.loads(path.read_text())
            what = (show.__doc__ or "").rstrip(".")
            parts += [f"## {what}: `{name}.py`", machine(result), show(result)]
    (HERE / "README.md").write_text("\n\n".join(parts) + "\n")


def main() -> None:
    """Run what is asked for, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", metavar="NAME", help=f"of {', '.join(SCRIPTS)}")
    parser.add_argument("--tables", action="store_true", help="only write README.md anew")
    arguments = parser.parse_args()
    if not arguments.tables:
        for name in arguments.only or SCRIPTS:
            run(name, SCRIPTS[name])
    write_readme()
    print(f"{HERE / 'README.md'}")


if __name__ == "__main__":
    main()
