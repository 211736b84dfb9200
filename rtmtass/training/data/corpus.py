"""The training corpus: recordings with an index, decoded once into a cache."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rtmtass.config import STEMS
from rtmtass.errors import DataError
from rtmtass.io.decode import decode
from rtmtass.training.data.recordings import PendingRecording, Recordings, has_recordings, store
from rtmtass.training.data.tables import Line, read_table
from rtmtass.types import Progress

SINGING = "singing"
"""Role of unaccompanied singing: not a stem, but mixed over music in training."""
ROLES = (*STEMS, SINGING)
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
        folder: holds `index.csv`, whose paths are relative to this folder.
        cache: folder for the decoded recordings. They are reused while the index and the
            files are unchanged; an interrupted decoding resumes where it stopped.
        progress: called with the name of a set, how many recordings are done, and of
            how many.

    Attributes:
        rows: the index.

    Raises:
        DataError: there is no index, or it is invalid; see `read_index`.
    """

    def __init__(self, folder: Path, cache: Path, progress: Progress | None = None) -> None:
        self.folder, self.cache, self._progress = Path(folder), Path(cache), progress
        self.rows = read_index(self.folder / "index.csv")

    def recordings(self, role: str, split: str, *, keep_muffled: bool = True) -> Recordings:
        """Return the recordings of a role and split, decoding them first if necessary.

        Args:
            role: "speech", "music", "noise" or "singing".
            split: "train" or "dev".
            keep_muffled: include recordings without treble.

        Raises:
            DataError: the index has no such recordings, or names a missing file.
        """
        rows = [row for row in self.rows if row.role == role and row.split == split]
        if not rows:
            raise DataError(
                f"{self.folder / 'index.csv'} has no {role} for {split};"
                f" add recordings with: rtmtass data build"
            )
        stem_path = self.cache / cache_name(role, split)
        self._prepare(stem_path, rows)
        return Recordings(stem_path, keep_muffled=keep_muffled)

    def has(self, role: str, split: str) -> bool:
        """Return whether there are recordings of a role and split."""
        return any(row.role == role and row.split == split for row in self.rows)

    def bank(self, name: str, split: str, first: int | None = None) -> Recordings | None:
        """Return a bank of synthetic sounds; None if it hasn't been made.

        Args:
            name: "singing", "revoiced", "generated" or "rooms".
            split: "train" or "dev".
            first: use only the first so many entries; 0 returns None.
        """
        stem_path = self.cache / f"{name}-{split}"
        if first == 0 or not has_recordings(stem_path):
            return None
        return Recordings(stem_path, first=first)

    def _prepare(self, stem_path: Path, rows: Sequence[IndexRow]) -> None:
        """Decode the recordings that aren't in the cache yet."""
        store(stem_path, self._pending(rows), self._stamp(rows), self._progress, len(rows))

    def _pending(self, rows: Sequence[IndexRow]) -> Iterator[PendingRecording]:
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
                    f"{self.folder / 'index.csv'} lists {row.path}, which doesn't exist;"
                    " restore the file or run: rtmtass data build"
                ) from None
            line = f"{row.source}|{row.group}|{row.path}|{status.st_size}|{int(status.st_mtime)}\n"
            digest.update(line.encode())
        return digest.hexdigest()


def cache_name(role: str, split: str) -> str:
    """Return the name in the cache folder of the recordings of a role and split."""
    name = "recorded-singing" if role == "singing" else role  # "singing" is the synthetic bank
    return f"{name}-{split}"


def read_index(path: Path) -> list[IndexRow]:
    """Read a corpus's `index.csv`.

    Raises:
        DataError: the file or columns are missing, a role or split is unknown, or a length
            isn't a number.
    """
    if not path.exists():
        raise DataError(
            f"{path.parent} isn't a corpus: it has no index.csv; make one with: rtmtass data build"
        )
    hint = "or rebuild the corpus with: rtmtass data build"
    lines = read_table(
        path, INDEX_COLUMNS[:6], may_be_empty=("source", "group", "seconds"), hint=hint
    )
    return [_index_row(line, path) for line in lines]


def _index_row(line: Line, path: Path) -> IndexRow:
    text = {column: line.values.get(column, "") for column in INDEX_COLUMNS}
    line.one_of("role", ROLES)
    if text["split"] not in SPLITS:
        raise DataError(
            f"{path}: {text['path']} has split {text['split']!r}; change it to 'train' or 'dev'"
        )
    try:
        seconds = float(text.pop("seconds"))  # of "" too: a ValueError
        if not 0 <= seconds < float("inf"):
            raise ValueError
    except ValueError:
        given = line.values.get("seconds")
        raise DataError(
            f"{path}: {text['path']} has seconds {given!r}; change it to a number"
        ) from None
    return IndexRow(seconds=seconds, **text)
