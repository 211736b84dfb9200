"""Gains saved by name, in files of the user's config folder, and a few that are built in."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rtmtass.config import STEMS
from rtmtass.errors import InputError, OutputError, UsageError
from rtmtass.io.paths import quoted

BUILT_IN: dict[str, dict[str, float]] = {
    "voice": {"speech": 0.0, "music": -math.inf, "noise": -math.inf},
    "no-music": {"speech": 0.0, "music": -math.inf, "noise": 0.0},
    "no-noise": {"speech": 0.0, "music": 0.0, "noise": -math.inf},
    "quiet": {"speech": 0.0, "music": -12.0, "noise": -18.0},
}
"""Gains in dB by stem, by name."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
_LARGEST_FILE = 4096
_LOWEST_DB = -200.0


def folder() -> Path:
    """Return where gains are saved: $XDG_CONFIG_HOME/rtmtass/gains, by default in ~/.config.

    Raises:
        InputError: there is no home directory, as in some containers.
    """
    base = os.environ.get("APPDATA" if sys.platform == "win32" else "XDG_CONFIG_HOME", "")
    root = Path(base) if os.path.isabs(base) else _home() / ".config"  # as XDG demands
    return root / "rtmtass" / "gains"


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:
        raise InputError(
            "gains are saved in the home directory, and there is none; set XDG_CONFIG_HOME to a"
            " folder"
        ) from None


def check_name(name: str) -> None:
    """Check a name to save gains under.

    Raises:
        UsageError: a character other than letters, digits, - and _, or a built-in's name.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"gains can't be saved as {name!r}; use up to 40 letters, digits, - and _, a letter"
            " or digit first"
        )
    if name in BUILT_IN:
        raise UsageError(
            f"{name} is built in; save under another name, as in --save-gains my-{name}"
        )


def names() -> list[str]:
    """Return all names that can be loaded: those built in, then those saved."""
    saved = []
    with contextlib.suppress(OSError, InputError):
        saved = [p.stem for p in folder().glob("*.json") if _NAME.fullmatch(p.stem)]
    return [*BUILT_IN, *sorted(set(saved) - set(BUILT_IN))]


def load_gains(name: str) -> dict[str, float]:
    """Return saved or built-in gains in dB by stem.

    Raises:
        UsageError: no gains of that name.
        InputError: the file isn't one of gains; the message names it.
    """
    if name in BUILT_IN:
        return dict(BUILT_IN[name])
    if _NAME.fullmatch(name):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return _read(folder() / f"{name}.json")
    raise UsageError(
        f"no gains are saved as {name!r}; known are {', '.join(names())}; save some with"
        " --save-gains NAME"
    )


def _read(path: Path) -> dict[str, float]:
    def broken(why: str) -> InputError:
        return InputError(
            f"{path} doesn't hold gains: {why}; it should be as in"
            ' {"speech": 0, "music": -20, "noise": "-inf"}: mend it or delete it'
        )

    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST_FILE + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        mend = f"chmod u+r {quoted(path)}" if isinstance(error, PermissionError) else "rename it"
        raise InputError(f"{path} can't be read: {error.strerror}; {mend}") from error
    if len(text) > _LARGEST_FILE:
        raise broken(f"it is longer than {_LARGEST_FILE} bytes")
    try:
        values: Any = json.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise broken(f"it isn't JSON, {error}".partition(":")[0]) from error
    if not isinstance(values, dict):
        raise broken("it isn't an object")
    from rtmtass.live.mixer import MAX_GAIN_DB  # imports numba

    gains_db: dict[str, float] = {}
    for stem, value in values.items():
        if stem not in STEMS:
            raise broken(f"unknown stem {stem!r}, known are {', '.join(STEMS)}")
        if value == "-inf":
            gains_db[stem] = -math.inf
        elif isinstance(value, bool) or not isinstance(value, int | float):
            raise broken(f"{stem} is {value!r}, not a number of dB")
        elif not _LOWEST_DB <= value <= MAX_GAIN_DB:
            raise broken(f"{stem} is {value!r}, not {_LOWEST_DB:g} to {MAX_GAIN_DB:g} dB")
        else:
            gains_db[stem] = float(value)
    return gains_db


def save_gains(name: str, gains_db: Mapping[str, float]) -> Path:
    """Save gains in dB by stem under a name, in place of those of that name; return the file.

    Raises:
        UsageError: see `check_name`.
        InputError: there is no folder for it.
        OutputError: the file can't be written; what was saved before is kept.
    """
    check_name(name)
    path = folder() / f"{name}.json"
    values = {stem: gain if math.isfinite(gain) else "-inf" for stem, gain in gains_db.items()}
    part = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{name}.")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        if part:
            Path(part).unlink(missing_ok=True)
        raise OutputError(
            f"the gains can't be saved to {path}: {error.strerror}; free some space, or set"
            " XDG_CONFIG_HOME to a folder that can be written"
        ) from error
    return path
