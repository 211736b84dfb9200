"""The controls of a recording's player, its chart of levels, and links to its files."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np

from rtmtass.types import Floats

_FLOOR_DB = -80.0
_COLOURS = ("var(--quiet)", "#d1495b", "#3d7ea6", "#7a9e3b", "#b07aa1", "#c98b2b")
_HEIGHT = 100


def controls(seconds: float) -> str:
    """Return the player's button, position and A/B switch, which the script makes visible."""
    return (
        '<div class="controls" hidden><button type="button" class="play">Play</button>'
        f'<input type="range" class="seek" aria-label="position" min="0" max="{seconds:.3f}"'
        ' step="any" value="0"><output class="time"></output>'
        '<fieldset><legend>compare</legend><label><input type="radio" value="a" checked>'
        ' A: mixture</label> <label><input type="radio" value="b"> B: stems, at the faders'
        "</label></fieldset></div>"
        '<p class="trouble" hidden>This browser can\'t decode Ogg Opus here; try the players'
        " below the pictures, or open the files.</p>"
    )


def faders(stems: Sequence[str]) -> str:
    """Return a fader in dB and a solo box for each stem; a fader at its lower end is off."""
    parts = [
        f'<span><label>{stem}<input type="range" class="fader" name="{stem}" min="-60" max="12"'
        ' step="1" value="0"><output>0 dB</output></label>'
        f'<label><input type="checkbox" class="solo" value="{stem}"> solo</label></span>'
        for stem in map(html.escape, stems)
    ]
    return f'<div class="faders" hidden>{"".join(parts)}</div>'


def level_chart(levels_db: Mapping[str, Floats]) -> str:
    """Return the levels over time as one chart.

    Args:
        levels_db: by track, (T,) each, in dBFS; the first is the mixture.
    """
    paths, key = [], []
    for (track, level_db), colour in zip(levels_db.items(), _cycle(len(levels_db)), strict=True):
        y = np.clip(level_db / _FLOOR_DB, 0, 1) * _HEIGHT
        points = " ".join(f"{x} {value:.1f}" for x, value in enumerate(y))
        paths.append(f'<path style="stroke:{colour}" d="M{points} H{len(y)}"/>')
        key.append(f'<i style="background:{colour}"></i>{html.escape(track)}')
    width = max(map(len, levels_db.values()))
    return (
        f'<svg class="levels" viewBox="0 0 {width} {_HEIGHT}" preserveAspectRatio="none"'
        f' role="img" aria-label="levels over time">{"".join(paths)}</svg>'
        f'<p class="quiet key">RMS level, 0 dBFS at the top, {_FLOOR_DB:g} dBFS at the bottom:'
        f" {''.join(key)}</p>"
    )


def duration(seconds: float) -> str:
    """Return a duration as h:mm:ss, or in seconds below a minute."""
    if seconds < 60:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"


def link(target: Path, folder: Path) -> str:
    """Return a link from a page in `folder` to a file, named after the file."""
    try:
        path = Path(os.path.relpath(target, folder)).as_posix()
    except ValueError:  # another drive on Windows
        path = target.absolute().as_uri()
        return f'<a href="{html.escape(path)}">{html.escape(target.name)}</a>'
    return f'<a href="{quote(os.fsencode(path))}">{html.escape(target.name)}</a>'


def _cycle(n: int) -> list[str]:
    return [_COLOURS[k % len(_COLOURS)] for k in range(n)]
