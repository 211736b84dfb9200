"""The HTML report of `rtmtass evaluate`: a self-contained page with tables, audio and pictures."""

from __future__ import annotations

import html
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rtmtass.evaluation.evaluate import Clip
from rtmtass.evaluation.metrics import sdr, si_sdr
from rtmtass.io.decode import OPUS, encode
from rtmtass.report.assets import PLAYERS
from rtmtass.report.page import (
    MAX_BYTES,
    figure,
    foot,
    head,
    legend,
    spectrogram_png,
    table,
    write_page,
)
from rtmtass.separator import Separator
from rtmtass.types import Progress, Samples

RANDOM = 10
"""Number of random clips in a report."""
SHOWN_S = 10.0
"""Length of each clip's excerpt."""
_RESERVE = 20_000  # for the script, the end of the page and the names of omitted clips
_KIND = '<span class="kind">KIND</span>'  # can't be in a name, which is escaped

NAMES = {
    "si_sdri": "SI-SDRi, dB",
    "sdri": "SDRi, dB",
    "bss_sdri": "BSS-eval SDRi, dB",
    "leakage_db": "leakage, dB",
    "pesq": "PESQ (wide band)",
    "stoi": "STOI",
}


def choose_clips(figures: Mapping[str, Any], names: list[str], seed: int = 0) -> dict[str, str]:
    """Choose clips for the report: the worst ones and a random sample of the rest.

    Args:
        figures: result of `evaluate`.
        names: all measured clips.
        seed: seed of the sample.

    Returns:
        name → "worst" or "random", the worst first.
    """
    chosen = {row["clip"]: "worst" for row in figures["worst"]}
    rest = [name for name in names if name not in chosen]
    drawn = np.random.default_rng(seed).permutation(len(rest))[:RANDOM]
    return chosen | {rest[k]: "random" for k in sorted(drawn)}


def write_html(
    path: Path,
    figures: Mapping[str, Any],
    separator: Separator,
    clips: Iterable[Clip],
    chosen: Mapping[str, str],
    about: Mapping[str, str],
    progress: Progress | None = None,
) -> None:
    """Write the report.

    Args:
        path: file to write.
        figures: result of `evaluate`.
        separator: separates the chosen clips again.
        clips: the clips in `chosen`, in any order.
        chosen: result of `choose_clips`; gives the order on the page.
        about: name → value, for the head of the page; the first value is the title.
        progress: called with "report", how many clips are done, and of how many.

    Raises:
        OutputError: the page can't be written.
    """
    articles = {}
    for number, clip in enumerate(clips):
        articles[clip.name] = _article(clip, separator)
        if progress is not None:
            progress("report", number + 1, len(chosen))
    text = _page(figures, {name: articles[name] for name in chosen}, chosen, about)
    write_page(path, text, "--html")


def _page(
    figures: Mapping[str, Any],
    articles: Mapping[str, str],
    chosen: Mapping[str, str],
    about: Mapping[str, str],
) -> str:
    parts = [
        head(about),
        _figures(figures),
        _by_input_sdr(figures),
        _leakage(figures),
        "<h2>Clips</h2>",
        legend(),
    ]
    size = sum(map(len, parts))
    omitted = []
    for name, article in articles.items():
        if size + len(article) > MAX_BYTES - _RESERVE:
            omitted.append(name)
            continue
        size += len(article)
        parts.append(article.replace(_KIND, f'<span class="kind">{chosen[name]}</span>', 1))
    if omitted:
        parts.append(
            f"<p>Left out to keep this page below {MAX_BYTES / 1e6:g} MB:"
            f" {html.escape(', '.join(omitted))}.</p>"
        )
    return "\n".join([*parts, foot(PLAYERS)])


def _cell(value: Mapping[str, Any] | None, digits: int = 2) -> str:
    if value is None:
        return "<td></td>"
    interval = f"{value['low']:.{digits}f} … {value['high']:.{digits}f}"
    if "clips" in value:
        interval += f" (n = {value['clips']})"
    return f"<td>{value['mean']:.{digits}f} <small>{interval}</small></td>"


def _figures(figures: Mapping[str, Any]) -> str:
    kinds = [k for k in ("si_sdri", "sdri", "bss_sdri", "leakage_db") if k in figures]
    rows = [
        f"<th>{html.escape(stem)}</th>" + "".join(_cell(figures[k].get(stem)) for k in kinds)
        for stem in figures["si_sdri"]
    ]
    parts = ["<h2>Figures</h2>", table(["stem", *(NAMES[k] for k in kinds)], rows)]
    scores = [k for k in ("pesq", "stoi") if k in figures]
    if scores:
        columns = ("mixture", "output", "improvement")
        rows = [
            f"<th>{NAMES[k]}</th>"
            + "".join(_cell(figures[k][c], 3 if k == "stoi" else 2) for c in columns)
            for k in scores
        ]
        parts.append(table(["speech", *columns], rows))
    parts.append(
        f'<p class="quiet">{figures["clips"]} clips; in small print: 95 % bootstrap intervals of'
        " the mean. Leakage: level of a stem’s output when the stem is absent, relative to the"
        " mixture.</p>"
    )
    if figures.get("left_out"):
        parts.append(f"<p>Not measured: {html.escape(figures['left_out'])}</p>")
    return "\n".join(parts)


def _by_input_sdr(figures: Mapping[str, Any]) -> str:
    by_stem = figures["by_input_sdr"]
    ranges = dict.fromkeys(name for rows in by_stem.values() for name in rows)
    order = sorted(ranges, key=lambda name: float(name.split("..")[0]))
    rows = []
    for name in order:
        cells = []
        for by_range in by_stem.values():
            row = by_range.get(name)
            cells.append(_cell({**row["si_sdri"], "clips": row["clips"]} if row else None))
        low, _, high = name.removesuffix(" dB").partition("..")
        words = f"{low} to {high} dB"
        words = f"below {high} dB" if low == "-inf" else words
        words = f"above {low} dB" if high == "inf" else words
        rows.append(f"<th>{words}</th>{''.join(cells)}")
    return "<h2>SI-SDRi by input SNR</h2>" + table(["stem over the rest", *by_stem], rows)


def _leakage(figures: Mapping[str, Any]) -> str:
    stems = list(figures["leakage_db"])
    rows = [
        f"<th>{html.escape(case)}</th>" + "".join(_cell(levels.get(stem)) for stem in stems)
        for case, levels in figures["leakage_by_case_db"].items()
    ]
    silence = figures["silence_dbfs"]
    text = (
        f"<p>Loudest output for silence: {silence['from_start']:.0f} dBFS from the start,"
        f" {silence['after_sound']:.0f} dBFS from a second after sound has stopped.</p>"
    )
    if "singing" in figures:
        cells = {k: _cell(v) for k, v in figures["singing"].items() if k != "clips"}
        words = [k.replace("_", " ") for k in cells]
        text += table(["music, SI-SDRi, dB", *words], ["<th></th>" + "".join(cells.values())])
    return "<h2>Leakage, dB</h2>" + table(["present", *stems], rows) + text


def _article(clip: Clip, separator: Separator) -> str:
    """Return a clip's spectrograms and players: mixture, then truth and output of each stem."""
    out = separator.separate(clip.mixture)
    rate = separator.sample_rate
    improvements = si_sdr(out, clip.stems) - si_sdr(clip.mixture[None], clip.stems)
    inputs = sdr(clip.mixture[None], clip.stems)
    cells = [_player("mixture", clip.mixture, rate, "whole")]
    for stem, truth, estimate, gain, before in zip(
        separator.stems, clip.stems, out, improvements, inputs, strict=True
    ):
        cells.append(_player(f"{stem}, truth ({before:+.1f} dB)", truth, rate))
        cells.append(_player(f"{stem}, output ({gain:+.1f} dB SI-SDRi)", estimate, rate))
    words = ", ".join(f"{s} {g:+.1f}" for s, g in zip(separator.stems, improvements, strict=True))
    return (
        f"<details><summary><b>{html.escape(clip.name)}</b> {_KIND}"
        f' <span class="quiet">SI-SDRi: {words} dB</span></summary>'
        f'<div class="clip">{"".join(cells)}</div></details>'
    )


def _player(caption: str, track: Samples, rate: int, kind: str = "") -> str:
    excerpt = track[: round(SHOWN_S * rate)]
    picture = spectrogram_png(excerpt, rate)
    return figure(caption, picture, _opus(excerpt), rate, len(excerpt) / rate, kind)


def _opus(track: Samples) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "track.opus"
        encode(path, track, OPUS)
        return path.read_bytes()
