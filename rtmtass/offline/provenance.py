"""Marks outputs with their input and settings, so that a rerun keeps only stems that belong to it.

The mark is the text of the `software` tag. A file without one, as an MP3 or one of an earlier
version, is judged by its time: it must not be older than the input.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from rtmtass.errors import OutputError
from rtmtass.io.special_files import is_special
from rtmtass.offline.plan import STREAM, Job, SeparateOptions
from rtmtass.offline.writers import MIX
from rtmtass.weights import describe, find

_ELSEWHERE = (
    "stems", "folder", "format", "mix", "overwrite", "raw", "allow_truncated", "naming",
)  # fmt: skip
"""Options that don't change the samples of a stem; `gains_db` and `limit` change the remix only."""
_MARK = re.compile(rb"rtmtass \S+ \[(\w+)-(\d+)-(\d+)-(\w+)\]")
_SCANNED = 1 << 18  # bytes at either end of a file, where its tags are
_DIGITS = 16


@dataclasses.dataclass(frozen=True)
class _Mark:
    """What an output was made of.

    Attributes:
        content: SHA-256 of the input, shortened.
        size, time_ns: of the input, in bytes and as its modification time.
        settings: SHA-256 of the settings, shortened.
    """

    content: str
    size: int
    time_ns: int
    settings: str

    def __str__(self) -> str:
        from rtmtass import __version__

        return f"rtmtass {__version__} [{self.content}-{self.size}-{self.time_ns}-{self.settings}]"


def outputs_to_write(job: Job, options: SeparateOptions) -> dict[str, Path]:
    """Return those of a job's targets that don't exist yet, or all with `overwrite`.

    Raises:
        OutputError: one exists that is of another input or of other settings.
    """
    missing = {
        name: target
        for name, target in job.targets.items()
        if options.overwrite or target == STREAM or is_special(target) or not _exists(target)
    }
    for name, target in job.targets.items():
        if name in missing:
            continue
        if job.path == STREAM or is_special(job.path):
            reason = "can't be compared with what comes through a pipe"
        else:
            reason = _why_foreign(target, job.path, name, options)
        if reason:
            raise OutputError(
                f"{target} exists and {reason}; add --overwrite to replace it,"
                " or name another folder with -o"
            )
    return missing


def marks(path: Path, names: Iterable[str], options: SeparateOptions) -> dict[str, str]:
    """Return the text of each output's `software` tag; none for a pipe as input."""
    if path == STREAM or is_special(path):
        return {}
    try:
        about = path.stat()
        content = _digest_of(path)
    except OSError:
        return {}  # it can't be read twice
    return {
        name: str(_Mark(content, about.st_size, about.st_mtime_ns, settings_of(name, options)))
        for name in names
    }


def describe_model(name: str, precision: str, passes: int, runtime: str) -> str:
    """Return what decides the stems: the weights, and how they are run.

    Raises:
        ModelError: there is no such model.
    """
    weights = describe(find(name))[1].get("sha256", name)
    return f"{weights} {precision} {passes} {runtime}"


def settings_of(name: str, options: SeparateOptions) -> str:
    """Return a digest of all that decides the samples of a stem, or of the remix, but its input."""
    values = {
        field.name: getattr(options, field.name)
        for field in dataclasses.fields(options)
        if field.name not in _ELSEWHERE
    }
    if values["track"] is None:  # so that outputs of versions without this option stay valid
        del values["track"]
    gains, is_limited = dict(values.pop("gains_db")), values.pop("limit")
    if name == MIX:
        values["gains_db"] = sorted(gains.items())
        values["limit"] = is_limited
    return hashlib.sha256(repr(sorted(values.items())).encode()).hexdigest()[:_DIGITS]


def _exists(target: Path) -> bool:
    """Whether a target is taken, by a link to nothing too; folders are left to the writers."""
    return os.path.lexists(target) and not target.is_dir()


def _why_foreign(target: Path, path: Path, name: str, options: SeparateOptions) -> str:
    """Return why an existing output doesn't belong to this run, or "" if it does."""
    if not os.path.exists(target):
        return "is a link to nothing"
    try:
        about = path.stat()
        made = target.stat()
    except OSError:
        return ""  # opening the input raises the error
    mark = _find_mark(ends_of(target))
    if mark is None:
        return f"is older than {path}" if made.st_mtime_ns < about.st_mtime_ns else ""
    if mark.settings != settings_of(name, options):
        return "is of other settings"
    if (mark.size, mark.time_ns) == (about.st_size, about.st_mtime_ns):
        return ""
    if mark.size != about.st_size or mark.content != _digest_of(path):
        return f"is of another recording than {path} is now"
    return ""


def ends_of(target: Path) -> bytes:
    """Return what is at either end of a file; nothing if it can't be read."""
    try:
        with target.open("rb") as file:
            return read_ends(file, os.fstat(file.fileno()).st_size)
    except OSError:
        return b""


def read_ends(file: IO[bytes], size: int) -> bytes:
    """Return what is at either end of an open file of `size` bytes, where its tags are."""
    data = file.read(_SCANNED)
    file.seek(max(len(data), size - _SCANNED))
    return data + file.read(_SCANNED)


def why_unfit(ends: bytes, name: str, options: SeparateOptions, size: int | None) -> str:
    """Return why an output whose input isn't at hand doesn't belong to this run, or "".

    Args:
        ends: of the output; one without a mark belongs to it.
        name: of the stem, or `MIX`.
        options: of this run.
        size: of the input in bytes; None if it isn't known.
    """
    mark = _find_mark(ends)
    if mark is None:
        return ""
    if mark.settings != settings_of(name, options):
        return "is of other settings"
    return "is of another recording" if size is not None and mark.size != size else ""


def _find_mark(data: bytes) -> _Mark | None:
    found = _MARK.search(data)
    if found is None:
        return None
    content, size, time_ns, settings = (group.decode() for group in found.groups())
    return _Mark(content, int(size), int(time_ns), settings)


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:_DIGITS]
