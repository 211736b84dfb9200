"""The build log of a corpus: every file a build has processed and the problems found."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rtmtass.training.data.corpus import ROLES, IndexRow


@dataclass(frozen=True)
class Candidate:
    """A file that may become a recording; an empty `split` is assigned later."""

    role: str
    source: str
    group: str
    file: Path
    name: str
    split: str = ""
    licence: str = ""
    tier: str = ""

    def __post_init__(self) -> None:
        # A name on disk may be no text; as text, each byte is spelled out: caf\xe9.wav.
        for field in ("source", "group", "name"):
            text = os.fsencode(getattr(self, field)).decode("utf-8", "backslashreplace")
            object.__setattr__(self, field, text)

    @property
    def key(self) -> str:
        """Permanent identifier of the recording."""
        return f"{self.role}/{self.source}/{self.name}"


@dataclass(frozen=True)
class Finding:
    """A problem with a recording or a package."""

    key: str
    problem: str
    detail: str = ""


class BuildLog:
    """`build.jsonl`: one line per processed file; a later line replaces an earlier one.

    Lines that were cut off or damaged are dropped: their files are processed again.

    Raises:
        OSError: the file can't be read or rewritten; it is then as it was.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: dict[str, dict[str, Any]] = {}
        texts = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        for text in texts:
            line = _line(text)
            if line is not None:
                self._lines[line["key"]] = line
        if len(self._lines) != len(texts):
            self._rewrite()
        self._keys_by_hash = {line["hash"]: key for key, line in self._lines.items() if line["row"]}

    def is_current(self, candidate: Candidate, stamp: str) -> bool:
        """Return whether the file is in the log and had this stamp then."""
        line = self._lines.get(candidate.key)
        return line is not None and line["stamp"] == stamp

    def twin(self, digest: str, key: str) -> str | None:
        """Return the key of another recording with the same samples."""
        other = self._keys_by_hash.get(digest)
        return None if other == key else other

    def add(
        self,
        candidate: Candidate,
        stamp: str,
        row: IndexRow | None,
        digest: str,
        problems: list[tuple[str, str]],
    ) -> None:
        """Log a file.

        Args:
            candidate: the file.
            stamp: of the file, before it was read; see `stamp_of`.
            row: its index row; None if it is left out.
            digest: hash of its samples; empty if they couldn't be used.
            problems: problem and detail of each finding.
        """
        line = {
            "key": candidate.key,
            "stamp": stamp,
            "hash": digest,
            "row": None if row is None else asdict(row),
            "found": problems,
        }
        self._lines[candidate.key] = line
        if row is not None:
            self._keys_by_hash[digest] = candidate.key
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def rows(self) -> list[IndexRow]:
        """Return the index rows of all recordings in the corpus."""
        return [IndexRow(**line["row"]) for _, line in sorted(self._lines.items()) if line["row"]]

    def findings(self) -> list[Finding]:
        """Return all problems."""
        return [
            Finding(key, problem, detail)
            for key, line in sorted(self._lines.items())
            for problem, detail in line["found"]
        ]

    def _rewrite(self) -> None:
        """Replace the file in one step: it is the only record of hours of work."""
        part = self._path.with_name(f"{self._path.name}.part")
        with open(part, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in self._lines.values())
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._path)


def _line(text: bytes) -> dict[str, Any] | None:
    """Return a line of the log, or None if it isn't a whole and sound one."""
    try:
        line = json.loads(text)
        is_sound = text.endswith(b"\n") and all(
            isinstance(line[key], kind)
            for key, kind in (("key", str), ("stamp", str), ("hash", str), ("found", list))
        )
        findings = [(str(problem), str(detail)) for problem, detail in line["found"]]
        row = None if line["row"] is None else IndexRow(**line["row"])
        if row is not None and (row.role not in ROLES or not isinstance(row.seconds, float)):
            return None
        return {**line, "found": findings} if is_sound else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def stamp_of(path: Path) -> str:
    """Return a file's size and time of change.

    Raises:
        OSError: there is no such file.
    """
    status = path.stat()
    return f"{status.st_size}-{status.st_mtime_ns}"
