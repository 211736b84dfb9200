"""The parts of a page: its head, tables, colour scale, and figures with embedded audio."""

from __future__ import annotations

import base64
import html
import struct
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rtmtass.errors import OutputError
from rtmtass.io.part_file import PartFile, part_path, why_unwritable
from rtmtass.report.assets import CSS
from rtmtass.spectrogram import spectrogram_db
from rtmtass.types import Floats, Samples

MAX_BYTES = 25_000_000
"""Largest page, so that it can be mailed; what doesn't fit is only listed by name."""
FLOOR_DB, TOP_DB = -100.0, -20.0
"""Range of the colour scale, the same on all pages; a sine at full scale is 0 dB."""
COLUMNS, ROWS = 480, 128
"""Size of a spectrogram's picture, in pixels; columns at most."""
_COLOURS = 64
_ANCHORS = (
    (4, 4, 18),
    (58, 15, 112),
    (150, 40, 125),
    (226, 82, 90),
    (253, 164, 96),
    (253, 250, 204),
)


def head(about: Mapping[str, str]) -> str:
    """Return a page up to its first heading.

    Args:
        about: name → value, the line below the heading; the first value is the title.
    """
    title = html.escape(next(iter(about.values())))
    subtitle = " · ".join(f"{html.escape(k)} {html.escape(v)}" for k, v in about.items())
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title><style>{CSS}</style></head><body><main>\n"
        f'<h1>{title}</h1><p class="quiet">{subtitle}</p>'
    )


def foot(script: str) -> str:
    """Return the end of a page, with its script."""
    return f"</main><script>{script}</script></body></html>\n"


def table(columns: Iterable[str], rows: Iterable[str]) -> str:
    """Return a table of named columns; each row is its cells in HTML."""
    cells = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    return (
        f'<div class="wide"><table><thead><tr>{cells}</tr></thead>'
        f"<tbody>{''.join(f'<tr>{row}</tr>' for row in rows)}</tbody></table></div>"
    )


def legend() -> str:
    """Return the colour scale of the spectrograms."""
    stops = ", ".join(f"rgb{anchor}" for anchor in _ANCHORS)
    return (
        f'<p class="legend"><span>{FLOOR_DB:g} dB</span>'
        f'<i style="background:linear-gradient(90deg,{stops})"></i>'
        f"<span>{TOP_DB:g} dB re full scale</span></p>"
    )


def figure(
    caption: str,
    picture: bytes,
    audio: bytes,
    sample_rate: int,
    seconds: float,
    kind: str = "",
    attributes: str = "",
) -> str:
    """Return a spectrogram with a player below it.

    Args:
        caption: as plain text.
        picture: a PNG.
        audio: an Ogg Opus file; empty for no player.
        sample_rate: of the spectrogram, in Hz.
        seconds: its length.
        kind: CSS classes of the figure.
        attributes: more attributes of the player, as HTML.
    """
    caption = html.escape(caption)
    encoded = base64.b64encode(picture).decode()
    player = ""
    if audio:
        player = (
            f'<audio controls preload="none"{attributes}'
            f' src="data:audio/ogg;base64,{base64.b64encode(audio).decode()}"></audio>'
        )
    return (
        f'<figure class="{kind}"><figcaption>{caption}</figcaption>'
        f'<div class="picture"><img alt="spectrogram of {caption}"'
        f' src="data:image/png;base64,{encoded}"><b class="top">{sample_rate / 2000:g} kHz</b>'
        f'<b class="end">{seconds:g} s</b><i></i></div>{player}</figure>'
    )


def write_page(path: Path, text: str, option: str) -> None:
    """Write a page, under its final name only when complete.

    Args:
        path: of the page.
        text: all of it.
        option: the command line's option that names the path, for the error.

    Raises:
        OutputError: the page can't be written.
    """
    try:
        file = PartFile(part_path(path))
        try:
            file.write(text.encode("utf-8", "replace"))  # names of files may be any bytes
            file.close()
            if file.error:
                raise file.error
            file.publish(path)
        finally:
            file.remove()
    except OSError as error:
        raise OutputError(why_unwritable(path, error, option)) from error


def spectrogram_png(track: Samples, sample_rate: int) -> bytes:
    """Return the spectrogram of (N,) as a PNG, low frequencies at the bottom."""
    return levels_png(shrink(shrink(spectrogram_db(track, sample_rate), COLUMNS).T, ROWS).T)


def levels_png(levels_db: Floats) -> bytes:
    """Return levels (T, F) in dB as a PNG of T columns and F rows, the first row at the bottom."""
    brightness = (levels_db.T - FLOOR_DB) / (TOP_DB - FLOOR_DB)
    return _png(np.clip(brightness * _COLOURS, 0, _COLOURS - 1).astype(np.uint8)[::-1])


def shrink(rows: Floats, most: int) -> Floats:
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
