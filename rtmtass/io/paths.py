"""Names of files: of any bytes, short enough for a file system, and as a shell takes them."""

from __future__ import annotations

import hashlib
import os
import shlex
from pathlib import Path

NAME_BYTES = 255
"""Length limit of a file name in bytes, on all usual file systems."""


def fit_name(name: str, suffix: str) -> str:
    """Return `name` + `suffix`; a name that is too long loses its end for a hash of itself.

    The result is at most `NAME_BYTES` long, and the same for the same name.
    """
    room = NAME_BYTES - len(os.fsencode(suffix))
    data = os.fsencode(name)
    if len(data) <= room:
        return name + suffix
    mark = "~" + hashlib.sha256(data).hexdigest()[:8]
    start = data[: room - len(mark)]
    while start and 0x80 <= data[len(start)] < 0xC0:  # within a character of UTF-8
        start = start[:-1]
    return os.fsdecode(start) + mark + suffix


def quoted(path: Path | str) -> str:
    """Return a path as a shell takes it, also if it isn't UTF-8."""
    text = str(path)
    if text.startswith("-") and text != "-":
        text = f"./{text}"  # no option
    if text.isprintable():
        return shlex.quote(text)
    escaped = "".join(
        chr(b) if 32 <= b < 127 and b not in b"'\\" else f"\\x{b:02x}" for b in os.fsencode(text)
    )
    return f"$'{escaped}'"


def converted(path: Path, word: str = "converted") -> Path:
    """Return a free name for a WAV made of a recording, in the same folder."""
    wav = path.with_suffix(".wav")
    return wav if not os.path.lexists(wav) else path.with_name(f"{path.stem}-{word}.wav")
