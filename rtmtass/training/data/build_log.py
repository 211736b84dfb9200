"""What a build has looked at so far: candidates, what was found wrong, and the journal of both."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rtmtass.training.data.corpus import IndexRow


@dataclass(frozen=True)
class Candidate:
    """A file that may become a recording; `split` is empty where it is ours to choose."""

    role: str
    source: str
    group: str
    file: Path
    name: str
    split: str = ""
    licence: str = ""
    tier: str = ""

    @property
    def key(self) -> str:
        """Return what names the recording for good."""
        return f"{self.role}/{self.source}/{self.name}"


@dataclass(frozen=True)
class Finding:
    """Something wrong with a recording or a package."""

    key: str
    problem: str
    detail: str = ""


class BuildLog:
    """`build.jsonl`: one line per recording looked at; the last line about it counts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: dict[str, dict[str, Any]] = {}
        if path.exists():
            for text in path.read_text(encoding="utf-8").splitlines():
                try:
                    line = json.loads(text)
                except ValueError:
                    continue  # cut off when the build was interrupted
                self._lines[line["key"]] = line
            self._rewrite()
        self._keys_by_hash = {line["hash"]: key for key, line in self._lines.items() if line["row"]}

    def is_current(self, candidate: Candidate) -> bool:
        """Tell whether the file was looked at as it is now."""
        line = self._lines.get(candidate.key)
        return line is not None and line["stamp"] == _stamp(candidate.file)

    def twin(self, digest: str, key: str) -> str | None:
        """Return the key of another recording with the same samples."""
        other = self._keys_by_hash.get(digest)
        return None if other == key else other

    def add(
        self, candidate: Candidate, row: IndexRow | None, digest: str, found: list[tuple[str, str]]
    ) -> None:
        """Note what a file came to: its row, or None and what was found wrong."""
        line = {
            "key": candidate.key,
            "stamp": _stamp(candidate.file),
            "hash": digest,
            "row": None if row is None else asdict(row),
            "found": found,
        }
        self._lines[candidate.key] = line
        if row is not None:
            self._keys_by_hash[digest] = candidate.key
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def rows(self) -> list[IndexRow]:
        """Return the rows of all recordings taken in."""
        return [IndexRow(**line["row"]) for _, line in sorted(self._lines.items()) if line["row"]]

    def findings(self) -> list[Finding]:
        """Return all that was found wrong."""
        return [
            Finding(key, problem, detail)
            for key, line in sorted(self._lines.items())
            for problem, detail in line["found"]
        ]

    def _rewrite(self) -> None:
        text = "".join(json.dumps(line) + "\n" for line in self._lines.values())
        self._path.write_text(text, encoding="utf-8")


def _stamp(path: Path) -> str:
    status = path.stat()
    return f"{status.st_size}-{status.st_mtime_ns}"
