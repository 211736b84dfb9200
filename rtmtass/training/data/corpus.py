"""Where training sound comes from: a corpus with an index, decoded once into a cache."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rtmtass.errors import DataError
from rtmtass.io.decode import decode
from rtmtass.training.data.recordings import PendingRecording, Recordings, has_recordings, store
from rtmtass.types import Progress

SPLITS = ("train", "dev")
INDEX_COLUMNS = ("role", "source", "group", "split", "path", "seconds", "licence", "tier")


@dataclass(frozen=True)
class IndexRow:
    """One line of a corpus's `index.csv`; `split` is by speaker, piece or recording."""

    role: str
    source: str
    group: str
    split: str
    path: str
    seconds: float
    licence: str = ""
    tier: str = ""


class Corpus:
    """A folder of recordings with an `index.csv`, decoded once into a cache folder.

    Args:
        folder: holds `index.csv`; its paths are relative to the folder.
        cache: where the decoded sound is kept. It is reused while the index and
            the files are unchanged, and taken up where it stopped otherwise.
        progress: called with what is being decoded, how many are done and of how many.

    Raises:
        DataError: no index, a column missing, or nothing in it for a role.
    """

    def __init__(self, folder: Path, cache: Path, progress: Progress | None = None) -> None:
        self.folder, self.cache, self._progress = Path(folder), Path(cache), progress
        self.rows = read_index(self.folder / "index.csv")

    def recordings(self, role: str, split: str, *, keep_muffled: bool = True) -> Recordings:
        """Return the recordings of a role and split, decoding them now if need be."""
        rows = [row for row in self.rows if row.role == role and row.split == split]
        if not rows:
            raise DataError(
                f"{self.folder / 'index.csv'} has no {role} for {split};"
                f" add recordings with: rtmtass data build"
            )
        stem_path = self.cache / place_of(role, split)
        self._prepare(stem_path, rows)
        return Recordings(stem_path, keep_muffled=keep_muffled)

    def has(self, role: str, split: str) -> bool:
        """Say whether there are recordings of a role and split."""
        return any(row.role == role and row.split == split for row in self.rows)

    def bank(self, name: str, split: str, first: int | None = None) -> Recordings | None:
        """Return a bank of synthetic sound, or None while it has not been made.

        Args:
            name: "singing", "revoiced", "generated" or "rooms".
            split: "train" or "dev".
            first: use only so many of its recordings; 0 is no bank.
        """
        stem_path = self.cache / f"{name}-{split}"
        if first == 0 or not has_recordings(stem_path):
            return None
        return Recordings(stem_path, first=first)

    def _prepare(self, stem_path: Path, rows: Sequence[IndexRow]) -> None:
        """Decode what the cache doesn't hold yet."""
        store(stem_path, self._found(rows), self._stamp(rows), self._progress, len(rows))

    def _found(self, rows: Sequence[IndexRow]) -> Iterator[PendingRecording]:
        for row in rows:
            load = partial(decode, self.folder / row.path)
            yield PendingRecording(row.source, row.group, row.path, load)

    def _stamp(self, rows: Sequence[IndexRow]) -> str:
        digest = hashlib.sha256()
        for row in rows:
            try:
                status = (self.folder / row.path).stat()
            except FileNotFoundError:
                raise DataError(
                    f"{self.folder / 'index.csv'} names {row.path}, which isn't there;"
                    " restore the file or run: rtmtass data build"
                ) from None
            line = f"{row.source}|{row.group}|{row.path}|{status.st_size}|{int(status.st_mtime)}\n"
            digest.update(line.encode())
        return digest.hexdigest()


def place_of(role: str, split: str) -> str:
    """Return the name, in a cache folder, of the recordings of a role and split."""
    name = "recorded-singing" if role == "singing" else role  # apart from the synthetic bank
    return f"{name}-{split}"


def read_index(path: Path) -> list[IndexRow]:
    """Read a corpus's `index.csv`.

    Raises:
        DataError: not there, columns missing, a split other than train and dev, or a
            length that is no number.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            table = csv.DictReader(file)
            missing = set(INDEX_COLUMNS[:6]) - set(table.fieldnames or ())
            if missing:
                raise DataError(
                    f"{path} lacks the columns {', '.join(sorted(missing))};"
                    " add them, or make it anew: rtmtass data build"
                )
            rows = [_index_row(line, path) for line in table]
    except FileNotFoundError:
        raise DataError(
            f"{path.parent} is no corpus: it has no index.csv; make one with: rtmtass data build"
        ) from None
    for row in rows:
        if row.split not in SPLITS:
            raise DataError(f"{path}: split is 'train' or 'dev', not {row.split!r} ({row.path})")
    return rows


def _index_row(line: Mapping[str, str | None], path: Path) -> IndexRow:
    text = {column: line.get(column) or "" for column in INDEX_COLUMNS}
    try:
        seconds = float(text.pop("seconds"))
    except ValueError:
        raise DataError(
            f"{path}: seconds is a number, not {line['seconds']!r} ({text['path']})"
        ) from None
    return IndexRow(seconds=seconds, **text)
