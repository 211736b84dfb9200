"""The HTML report of `rtmtass evaluate`: a self-contained page with tables, audio and pictures."""

from __future__ import annotations

import base64
import html
import struct
import tempfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtmtass.errors import OutputError
from rtmtass.evaluation.evaluate import Clip
from rtmtass.evaluation.html_assets import CSS, SCRIPT
from rtmtass.evaluation.metrics import sdr, si_sdr
from rtmtass.io.decode import OPUS, encode
from rtmtass.separator import Separator
from rtmtass.spectrogram import spectrogram_db
from rtmtass.types import Progress, Samples

MAX_BYTES = 25_000_000
"""Largest page, so that it can be mailed; clips that don't fit are only listed by name."""
RANDOM = 10
"""Number of random clips in a report."""
SHOWN_S = 10.0
"""Length of each clip's excerpt."""
FLOOR_DB, TOP_DB = -100.0, -20.0
"""Range of the colour scale, the same in all reports; a sine at full scale is 0 dB."""
_RESERVE = 20_000  # for the script, the end of the page and the names of omitted clips
_COLUMNS, _ROWS, _COLOURS = 480, 128, 64
_ANCHORS = (
    (4, 4, 18),
    (58, 15, 112),
    (150, 40, 125),
    (226, 82, 90),
    (253, 164, 96),
    (253, 250, 204),
)

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
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OutputError(
            f"{path} can't be written: {error.strerror}; name another file with --html"
        ) from error


def _page(
    figures: Mapping[str, Any],
    articles: Mapping[str, str],
    chosen: Mapping[str, str],
    about: Mapping[str, str],
) -> str:
    title = html.escape(next(iter(about.values())))
    subtitle = " · ".join(f"{html.escape(k)} {html.escape(v)}" for k, v in about.items())
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title><style>{CSS}</style></head><body><main>",
        f'<h1>{title}</h1><p class="quiet">{subtitle}</p>',
        _figures(figures),
        _by_input_sdr(figures),
        _leakage(figures),
        "<h2>Clips</h2>",
        _legend(),
    ]
    size = sum(map(len, parts))
    omitted = []
    for name, article in articles.items():
        if size + len(article) > MAX_BYTES - _RESERVE:
            omitted.append(name)
            continue
        size += len(article)
        parts.append(article.replace("KIND", chosen[name], 1))
    if omitted:
        parts.append(
            f"<p>Left out to keep this page below {MAX_BYTES / 1e6:g} MB:"
            f" {html.escape(', '.join(omitted))}.</p>"
        )
    return "\n".join([*parts, f"</main><script>{SCRIPT}</script></body></html>\n"])


def _cell(value: Mapping[str, Any] | None, digits: int = 2) -> str:
    if value is None:
        return "<td></td>"
    interval = f"{value['low']:.{digits}f} … {value['high']:.{digits}f}"
    if "clips" in value:
        interval += f" (n = {value['clips']})"
    return f"<td>{value['mean']:.{digits}f} <small>{interval}</small></td>"


def _table(columns: Iterable[str], rows: Iterable[str]) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(f'<tr>{row}</tr>' for row in rows)}</tbody></table></div>"
    )


def _figures(figures: Mapping[str, Any]) -> str:
    kinds = [k for k in ("si_sdri", "sdri", "bss_sdri", "leakage_db") if k in figures]
    rows = [
        f"<th>{html.escape(stem)}</th>" + "".join(_cell(figures[k].get(stem)) for k in kinds)
        for stem in figures["si_sdri"]
    ]
    parts = ["<h2>Figures</h2>", _table(["stem", *(NAMES[k] for k in kinds)], rows)]
    scores = [k for k in ("pesq", "stoi") if k in figures]
    if scores:
        columns = ("mixture", "output", "improvement")
        rows = [
            f"<th>{NAMES[k]}</th>"
            + "".join(_cell(figures[k][c], 3 if k == "stoi" else 2) for c in columns)
            for k in scores
        ]
        parts.append(_table(["speech", *columns], rows))
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
    return "<h2>SI-SDRi by input SNR</h2>" + _table(["stem over the rest", *by_stem], rows)


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
        text += _table(["music, SI-SDRi, dB", *words], ["<th></th>" + "".join(cells.values())])
    return "<h2>Leakage, dB</h2>" + _table(["present", *stems], rows) + text


def _legend() -> str:
    stops = ", ".join(f"rgb{anchor}" for anchor in _ANCHORS)
    return (
        f'<p class="legend"><span>{FLOOR_DB:g} dB</span>'
        f'<i style="background:linear-gradient(90deg,{stops})"></i>'
        f"<span>{TOP_DB:g} dB re full scale</span></p>"
    )


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
        f'<details><summary><b>{html.escape(clip.name)}</b> <span class="kind">KIND</span>'
        f' <span class="quiet">SI-SDRi: {words} dB</span></summary>'
        f'<div class="clip">{"".join(cells)}</div></details>'
    )


def _player(caption: str, track: Samples, rate: int, kind: str = "") -> str:
    excerpt = track[: round(SHOWN_S * rate)]
    picture = base64.b64encode(spectrogram_png(excerpt, rate)).decode()
    audio = base64.b64encode(_opus(excerpt)).decode()
    seconds = len(excerpt) / rate
    return (
        f'<figure class="{kind}"><figcaption>{html.escape(caption)}</figcaption>'
        f'<div class="picture"><img alt="spectrogram of {html.escape(caption)}"'
        f' src="data:image/png;base64,{picture}"><b class="top">{rate / 2000:g} kHz</b>'
        f'<b class="end">{seconds:g} s</b><i></i></div>'
        f'<audio controls preload="none" src="data:audio/ogg;base64,{audio}"></audio></figure>'
    )


def _opus(track: Samples) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "track.opus"
        encode(path, track, OPUS)
        return path.read_bytes()


def spectrogram_png(track: Samples, sample_rate: int) -> bytes:
    """Return the spectrogram of (N,) as a PNG, low frequencies at the bottom."""
    levels = _shrink(_shrink(spectrogram_db(track, sample_rate), _COLUMNS).T, _ROWS)
    brightness = (levels - FLOOR_DB) / (TOP_DB - FLOOR_DB)
    index = np.clip(brightness * _COLOURS, 0, _COLOURS - 1).astype(np.uint8)[::-1]
    return _png(index)


def _shrink(rows: Samples, most: int) -> Samples:
    """Return at most `most` rows, by averaging neighbours."""
    starts = np.unique(np.linspace(0, len(rows), min(most, len(rows)), endpoint=False).astype(int))
    sizes = np.diff(np.append(starts, len(rows)))
    return (np.add.reduceat(rows, starts) / sizes[:, None]).astype(np.float32)


def _png(index: NDArray[np.uint8]) -> bytes:
    """Return (H, W) palette indices as a PNG; a third of the size of true colour.

    Source: Portable Network Graphics, 3rd edition, W3C, sections 5, 9 and 11.
    """
    at = np.linspace(0, len(_ANCHORS) - 1, _COLOURS)
    channels = [np.interp(at, range(len(_ANCHORS)), c) for c in np.array(_ANCHORS).T]
    palette = np.stack(channels, axis=1).round().astype(np.uint8)
    height, width = index.shape
    filtered = np.pad(index, ((0, 0), (1, 0)))  # filter 0 before each line

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"PLTE", palette.tobytes())
        + chunk(b"IDAT", zlib.compress(filtered.tobytes(), 9))
        + chunk(b"IEND", b"")
    )
