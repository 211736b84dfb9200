"""Names of uploaded recordings: shown and used for downloads, never as a path here."""

from __future__ import annotations

import re
import unicodedata
from pathlib import PurePosixPath
from urllib.parse import quote

from rtmtass.io.paths import fit_name

_LONGEST = 200
_NAMELESS = "recording"
_FORBIDDEN = re.compile(r'[<>:"|?*\\/\x00-\x1f\x7f]')
_SUFFIX = re.compile(r"\.[a-z0-9]{1,8}")


def label_of(name: str) -> str:
    """Return a file's name as the page shows it: its last part, in one line of 200 characters.

    Characters that control the direction of the text are dropped too, as they let one suffix
    look like another.
    """
    last = re.split(r"[/\\]", name)[-1]
    shown = "".join(
        c for c in last if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
    )
    if len(shown) > _LONGEST:
        suffix = PurePosixPath(shown).suffix[:10]
        shown = f"{shown[: _LONGEST - len(suffix) - 1]}…{suffix}"
    return shown.strip() or _NAMELESS


def suffix_of(label: str) -> str:
    """Return the suffix that the upload is stored with, or "" if it isn't a plain one."""
    suffix = PurePosixPath(label).suffix.lower()
    return suffix if _SUFFIX.fullmatch(suffix) else ""


def download_name(label: str, track: str, suffix: str) -> str:
    """Return the name of a download, such as "talk.speech.flac"."""
    name = label.removesuffix(PurePosixPath(label).suffix) or label
    name = _FORBIDDEN.sub("_", name).strip(". ") or _NAMELESS
    return fit_name(name, f".{track}{suffix}")


def disposition(name: str) -> str:
    """Return the header Content-Disposition of a download.

    Source: RFC 6266: `filename` for old programs in ASCII, `filename*` for all others.
    """
    plain = re.sub(r"[^A-Za-z0-9 ._~()-]", "_", name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
