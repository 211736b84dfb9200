"""Checks a walk's outputs; exits with 1 and says why if they aren't right.

check.py length FILE FRAMES          the file holds exactly so many frames
check.py same-length FILE FILE…      all files hold as many
check.py sum DB FILE PART…           the parts sum to the file, to an error of DB dBFS
check.py title FILE TEXT             its title
check.py page FILE TEXT…             the page is self-contained and says this
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import soundfile


def frames(path: str) -> int:
    return int(soundfile.info(path).frames)


def error_db(path: str, parts: list[str]) -> float:
    whole = soundfile.read(path, always_2d=True)[0]
    total = sum(soundfile.read(part, always_2d=True)[0] for part in parts)
    return float(20 * np.log10(np.abs(total - whole).max() + 1e-12))


def main(what: str, path: str, *rest: str) -> str:
    """Return what is wrong, or ""."""
    if what == "length":
        return "" if frames(path) == int(rest[0]) else f"{path} holds {frames(path)} frames"
    if what == "same-length":
        lengths = {name: frames(name) for name in (path, *rest)}
        return "" if len(set(lengths.values())) == 1 else f"lengths differ: {lengths}"
    if what == "sum":
        error = error_db(rest[0], list(rest[1:]))
        return "" if error <= float(path) else f"the sum's error is {error:.0f} dBFS"
    if what == "title":
        title = soundfile.SoundFile(path).title
        return "" if title == rest[0] else f"its title is {title!r}"
    if what == "page":
        text = Path(path).read_text(encoding="utf-8")
        if "http" in text or re.search(r'(src|href)="(?!data:)[^"]*://', text):
            return "it refers to the network"
        missing = [words for words in rest if words not in text]
        return f"it lacks {missing}" if missing else ""
    return f"unknown check {what!r}"


if __name__ == "__main__":
    problem = main(*sys.argv[1:])
    sys.exit(f"check: {problem}" if problem else 0)
