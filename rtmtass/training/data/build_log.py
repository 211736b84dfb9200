"""The build log of a corpus: every file a build has processed and the problems found."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rtmtass.training.data.corpus import IndexRow


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
    """`build.jsonl`: one line per processed file; a later line replaces an earlier one."""

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
        """Return whether the file is in the log and hasn't changed since."""
        line = self._lines.get(candidate.key)
        return line is not None and line["stamp"] == _stamp(candidate.file)

    def twin(self, digest: str, key: str) -> str | None:
        """Return the key of another recording with the same samples."""
        other = self._keys_by_hash.get(digest)
        return None if other == key else other

    def add(
        self,
        candidate: Candidate,
        row: IndexRow | None,
        digest: str,
        problems: list[tuple[str, str]],
    ) -> None:
        """Log a file.

        Args:
            candidate: the file.
            row: its index row; None if it is left out.
            digest: hash of its samples; empty if they couldn't be used.
            problems: problem and detail of each finding.
        """
        line = {
            "key": candidate.key,
            "stamp": _stamp(candidate.file),
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
        text = "".join(json.dumps(line) + "\n" for line in self._lines.values())
        self._path.write_text(text, encoding="utf-8")


def _stamp(path: Path) -> str:
    status = path.stat()
    return f"{status.st_size}-{status.st_mtime_ns}"
