"""Finds the clips of an evaluation set: listed by `rtmtass data mix`, or in a plain folder.

A plain folder has a folder per clip (`CLIP/mixture.wav`, `CLIP/speech.wav`, …), or a folder
per track (`mixture/CLIP.wav`, `speech/CLIP.wav`, …); a single clip may lie in it directly.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rtmtass.errors import DataError

MIXTURE = "mixture"
LAYOUTS = "CLIP/mixture.wav, CLIP/speech.wav, … or mixture/CLIP.wav, speech/CLIP.wav, …"
Row = dict[str, str]
"""A clip: its name, and the path of each track relative to the set's folder."""


def clip_rows(folder: Path, tracks: tuple[str, ...]) -> Iterator[Row]:
    """Yield the clips of a set, in its order; those of a plain folder by name.

    Args:
        folder: the set's.
        tracks: that every clip must have, such as mixture, speech, music and noise.

    Raises:
        DataError: the folder holds no set, or a clip lacks a track.
    """
    if (folder / "list.csv").is_file():
        yield from _listed(folder / "list.csv", tracks)
        return
    found = _in_folders_of_clips(folder) or _in_folders_of_tracks(folder)
    if not found:
        raise DataError(
            f"{folder} holds no list.csv; write a set with: rtmtass data mix, or give a folder with"
            f" {LAYOUTS}"
        )
    for name, paths in sorted(found.items()):
        lacking = [track for track in tracks if track not in paths]
        if lacking:
            raise DataError(
                f"{folder}: clip {name!r} lacks {' and '.join(lacking)} (it has"
                f" {', '.join(sorted(paths))}); add {'it' if len(lacking) == 1 else 'them'}, silent"
                " and as long as the mixture if nothing of the kind sounds"
            )
        yield {"name": name, **{track: str(paths[track].relative_to(folder)) for track in paths}}


def describe_set(folder: Path) -> dict[str, Any]:
    """Return the set's parameters from its set.json; empty if there is none.

    Raises:
        DataError: the file isn't JSON.
    """
    path = folder / "set.json"
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{path} can't be read ({error}); write the set again with: rtmtass data mix"
        ) from None


def _listed(path: Path, tracks: tuple[str, ...]) -> Iterator[Row]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            missing = {"name", *tracks} - set(table.fieldnames or ())
            if missing:
                raise DataError(
                    f"{path} lacks the columns {', '.join(sorted(missing))};"
                    " write the set again with: rtmtass data mix"
                )
            for row in table:
                empty = [key for key in ("name", *tracks) if not row[key]]
                if empty:
                    raise DataError(
                        f"{path}, line {table.line_num}, has no {' and no '.join(empty)}; write the"
                        " set again with: rtmtass data mix"
                    )
                yield row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path} can't be read ({error}); write the set again with: rtmtass data mix"
        ) from None


def _in_folders_of_clips(folder: Path) -> dict[str, dict[str, Path]]:
    """Return the tracks by clip of the layout CLIP/TRACK.wav, or of one clip in `folder`."""
    own = _files(folder)
    if MIXTURE in own:
        return {folder.resolve().name: own}
    clips = {inner.name: _files(inner) for inner in _folders(folder)}
    return clips if any(MIXTURE in files for files in clips.values()) else {}


def _in_folders_of_tracks(folder: Path) -> dict[str, dict[str, Path]]:
    """Return the tracks by clip of the layout TRACK/CLIP.wav."""
    by_track = {inner.name.lower(): _files(inner, is_lower=False) for inner in _folders(folder)}
    clips = by_track.get(MIXTURE, {})
    return {
        name: {track: files[name] for track, files in by_track.items() if name in files}
        for name in clips
    }


def _files(folder: Path, *, is_lower: bool = True) -> dict[str, Path]:
    """Return a folder's files by their names without suffix; hidden ones are left out."""
    if not folder.is_dir():
        return {}
    paths = (p for p in sorted(folder.iterdir()) if p.is_file() and not p.name.startswith("."))
    return {p.stem.lower() if is_lower else p.stem: p for p in paths}


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [p for p in sorted(folder.iterdir()) if p.is_dir() and not p.name.startswith(".")]
