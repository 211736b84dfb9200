"""What `rtmtass evaluate` and `release` print: the figures as tables."""

from __future__ import annotations

import sys
from typing import Any

BY_STEM = {
    "si_sdri": "SI-SDRi, dB",
    "sdri": "SDRi, dB",
    "bss_sdri": "BSS-eval SDRi, dB",
    "leakage_db": "leakage, dB",
}
OF_SPEECH = {"pesq": "PESQ", "stoi": "STOI"}


def print_figures(figures: dict[str, Any]) -> None:
    """Print what `evaluate` found; what could not be measured goes to stderr."""
    from rtmtass.cli.console import print_table

    kinds = [kind for kind in BY_STEM if kind in figures]
    rows = [
        [stem, *(_words(figures[kind].get(stem)) for kind in kinds)] for stem in figures["si_sdri"]
    ]
    print_table(["stem", *(BY_STEM[kind] for kind in kinds)], rows)
    of_speech = [
        [name, *(_words(figures[kind][k], 3) for k in ("mixture", "output", "improvement"))]
        for kind, name in OF_SPEECH.items()
        if kind in figures
    ]
    if of_speech:
        print_table(["speech", "mixture", "output", "improvement"], of_speech)
    print_table(*_by_input_sdr(figures["by_input_sdr"]))
    print_table(*_leakage(figures["leakage_by_case_db"], list(figures["leakage_db"])))
    print("\n".join(_remarks(figures)))
    if "left_out" in figures:
        print(f"left out: {figures['left_out']}", file=sys.stderr)


def _words(value: dict[str, float] | None, digits: int = 2) -> str:
    if not value:
        return ""
    mean, low, high = (f"{value[k]:.{digits}f}" for k in ("mean", "low", "high"))
    return f"{mean} ({low} … {high})"


def _by_input_sdr(by_stem: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return SI-SDRi by how loud a stem was in the mixture, quietest first."""
    ranges = {name for rows in by_stem.values() for name in rows}
    rows = []
    for name in sorted(ranges, key=lambda name: float(name.split("..")[0])):
        found = [of_stem.get(name) for of_stem in by_stem.values()]
        rows.append([name, *(f"{_words(f['si_sdri'])} n={f['clips']}" if f else "" for f in found)])
    return ["SI-SDRi by input SNR", *by_stem], rows


def _leakage(cases: dict[str, Any], stems: list[str]) -> tuple[list[str], list[list[str]]]:
    """Return what absent stems get of every mixture of others."""
    rows = [[case, *(_words(found.get(stem)) for stem in stems)] for case, found in cases.items()]
    return ["leakage, only these sound", *(f"into {stem}, dB" for stem in stems)], rows


def _remarks(figures: dict[str, Any]) -> list[str]:
    silence = figures["silence_dbfs"]
    said = [
        f"silence in: {silence['from_start']:.0f} dBFS out at most,"
        f" {silence['after_sound']:.0f} dBFS a second after sound has stopped"
    ]
    if "singing" in figures:
        of = {k: _words(v) for k, v in figures["singing"].items() if k != "clips"}
        said.append(
            f"music SI-SDRi: instrumental {of['instrumental']} dB, with singing"
            f" {of['with_singing']} dB, difference {of['difference']} dB"
        )
    said.append(f"{figures['clips']} clips; in brackets the 95 % interval of the mean")
    worst = (f"{row['clip']} ({sum(row['si_sdri']) / len(row['si_sdri']):.1f} dB)"
             for row in figures["worst"])  # fmt: skip
    return [*said, f"worst clips: {', '.join(worst)}"]
