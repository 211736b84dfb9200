"""Tables of the metrics that `rtmtass evaluate` and `release` print."""

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
    """Print the metrics of `evaluate`; a note on those not measured goes to stderr."""
    from rtmtass.cli.console import print_table

    kinds = [kind for kind in BY_STEM if kind in figures]
    rows = [
        [stem, *(_cell(figures[kind].get(stem)) for kind in kinds)] for stem in figures["si_sdri"]
    ]
    print_table(["stem", *(BY_STEM[kind] for kind in kinds)], rows)
    of_speech = [
        [name, *(_cell(figures[kind][k], 3) for k in ("mixture", "output", "improvement"))]
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


def _cell(value: dict[str, float] | None, digits: int = 2) -> str:
    if not value:
        return ""
    mean, low, high = (f"{value[k]:.{digits}f}" for k in ("mean", "low", "high"))
    return f"{mean} ({low} … {high})"


def _by_input_sdr(by_stem: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return SI-SDRi by the stem's SNR in the mixture, lowest first."""
    ranges = {name for rows in by_stem.values() for name in rows}
    rows = []
    for name in sorted(ranges, key=lambda name: float(name.split("..")[0])):
        cells = [of_stem.get(name) for of_stem in by_stem.values()]
        rows.append([name, *(f"{_cell(c['si_sdri'])} n={c['clips']}" if c else "" for c in cells)])
    return ["SI-SDRi by input SNR", *by_stem], rows


def _leakage(cases: dict[str, Any], stems: list[str]) -> tuple[list[str], list[list[str]]]:
    """Return the leakage into absent stems by the stems that are present."""
    rows = [[case, *(_cell(row.get(stem)) for stem in stems)] for case, row in cases.items()]
    return ["leakage, only these present", *(f"into {stem}, dB" for stem in stems)], rows


def _remarks(figures: dict[str, Any]) -> list[str]:
    silence = figures["silence_dbfs"]
    lines = [
        f"silence in: {silence['from_start']:.0f} dBFS out at most,"
        f" {silence['after_sound']:.0f} dBFS one second after the input went silent"
    ]
    if "singing" in figures:
        of = {k: _cell(v) for k, v in figures["singing"].items() if k != "clips"}
        lines.append(
            f"music SI-SDRi: instrumental {of['instrumental']} dB, with singing"
            f" {of['with_singing']} dB, difference {of['difference']} dB"
        )
    lines.append(f"{figures['clips']} clips; in brackets the 95 % interval of the mean")
    worst = (f"{row['clip']} ({_mean(row['si_sdri'])})" for row in figures["worst"])
    return [*lines, f"worst clips: {', '.join(worst)}"]


def _mean(values: list[float | None]) -> str:
    """Return the mean over the stems that sound, as text."""
    known = [value for value in values if value is not None]
    return f"{sum(known) / len(known):.1f} dB" if known else "silent"
