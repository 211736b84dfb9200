"""A corpus in packs: all shards are decoded once, on all cores, into a cache folder.

`pack_format` describes the files; `pack` writes them. Needs only numpy and soundfile.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np

from rtmtass.errors import DataError, OutputError
from rtmtass.io.part_file import why_unwritable
from rtmtass.training.data.codecs import from_bytes
from rtmtass.training.data.corpus import Corpus, IndexRow, cache_name
from rtmtass.training.data.pack_format import SUMS, check_sums, read_banks, read_shards, read_sums
from rtmtass.training.data.process_pool import in_order
from rtmtass.training.data.recordings import (
    PendingRecording,
    Recording,
    Recordings,
    file_lock,
    quantise,
    stored_stamp,
)
from rtmtass.types import Progress, Samples

_PACKS = "packs "
"""Prefix of the stamps of recordings decoded from packs."""
_CHUNK_S = 300.0
"""Length of the recordings decoded by a process as one task, in seconds."""

Decoded = list[tuple[Recording, bytes]]


@dataclass(frozen=True)
class _Member:
    """A file in a shard, with the recording's source, group and path."""

    source: str
    group: str
    path: str
    seconds: float
    scale: float
    shard: Path
    offset: int
    size: int

    def read(self) -> bytes:
        with open(self.shard, "rb") as shard:
            shard.seek(self.offset)
            return shard.read(self.size)

    def load(self) -> Samples:
        return from_bytes(self.read()) * np.float32(self.scale)


def corpus_of_packs(
    packs: Path, cache: Path, progress: Progress | None = None, workers: int | None = None
) -> PackedCorpus:
    """Return the corpus in a folder of packs, decoded into a cache; see `PackedCorpus`."""
    return PackedCorpus(packs, cache, progress, workers)


class PackedCorpus(Corpus):
    """A corpus in packs: the same rows, recordings and banks as the corpus that was packed.

    The cache has the same layout as that of `Corpus`. The constructor decodes all shards
    into it; after that they aren't needed, as long as `index.csv`, `banks.csv` and
    `SHA256SUMS` are kept. An interrupted run keeps the files it has completed.

    Args:
        packs: folder written by `rtmtass data pack`.
        cache: folder for the decoded recordings, 115 MB per hour. It is reused for the
            same packs.
        progress: called with the task's name, how much is done, and of how much.
        workers: decoding processes; all cores by default.

    Raises:
        DataError: there are no packs, files of them are missing or damaged, or the
            cache holds recordings or banks that aren't from packs.
        OutputError: the cache can't be written.
    """

    def __init__(
        self,
        packs: Path,
        cache: Path,
        progress: Progress | None = None,
        workers: int | None = None,
    ) -> None:
        sums = read_sums(Path(packs))
        self._packs_stamp = _PACKS + hashlib.sha256(repr(sorted(sums.items())).encode()).hexdigest()
        super().__init__(packs, cache, progress)
        self._banks = read_banks(self.folder)
        self._names = {
            *(cache_name(row.role, row.split) for row in self.rows),
            *(f"{row.bank}-{row.split}" for row in self._banks),
        }
        try:
            self._decode_missing(workers)
        except OSError as error:
            raise OutputError(why_unwritable(self.cache, error, "")) from error

    def bank(self, name: str, split: str, first: int | None = None) -> Recordings | None:
        """See `Corpus.bank`; banks in the cache that aren't from these packs are ignored."""
        if f"{name}-{split}" not in self._names:
            return None
        return super().bank(name, split, first)

    def _prepare(self, stem_path: Path, rows: Sequence[IndexRow]) -> None:
        """Do nothing: the constructor decodes everything."""

    def _decode_missing(self, workers: int | None) -> None:
        """Decode the recordings and banks that the cache doesn't hold yet."""
        if not self._missing():
            return
        self.cache.mkdir(parents=True, exist_ok=True)
        with open(self.cache / "packs.lock", "ab") as lock, file_lock(lock):
            missing = self._missing()  # another process may have decoded them meanwhile
            if missing:
                check_sums(self.folder, self._progress)
                self._decode(missing, workers)

    def _missing(self) -> list[str]:
        """Return the names in the cache that haven't been decoded from these packs yet."""
        missing: list[str] = []
        for name in sorted(self._names):
            stamp = stored_stamp(self.cache / name)
            if stamp and not stamp.startswith(_PACKS):
                raise DataError(
                    f"{self.cache / name}.jsonl wasn't decoded from packs and would be overwritten;"
                    " set cache to another folder"
                )
            if stamp != self._packs_stamp:
                missing.append(name)
        return missing

    def _decode(self, missing: Sequence[str], workers: int | None) -> None:
        members = self._members()
        tasks = [(name, chunk) for name in missing for chunk in _chunks(members[name])]
        done, total = 0, sum(len(members[name]) for name in missing)
        with closing(in_order(_decode_chunk, tasks, workers)) as decoded:
            for name, chunks in groupby(decoded, key=itemgetter(0)):
                with _AtomicRecordings(self.cache / name, self._packs_stamp) as file:
                    for _, chunk in chunks:
                        file.add(chunk)
                        done += len(chunk)
                        if self._progress is not None:
                            self._progress("decoding packs", done, total)

    def _members(self) -> dict[str, list[_Member]]:
        """Return the shard members of each name in the cache, in order."""
        shards = read_shards(self.folder)
        tars = _Tars(self.folder)
        members: dict[str, list[_Member]] = defaultdict(list)
        for row, shard in zip(self.rows, shards, strict=True):
            member = tars.member(row.source, row.group, row.path, row.seconds, 1.0, shard)
            members[cache_name(row.role, row.split)].append(member)
        for entry in self._banks:
            names = (entry.source, entry.group, entry.path)
            member = tars.member(*names, entry.seconds, entry.scale, entry.shard)
            members[f"{entry.bank}-{entry.split}"].append(member)
        return members


class _Tars:
    """Offsets and sizes of the files in a folder's shards."""

    def __init__(self, packs: Path) -> None:
        self._packs = packs
        self._extents: dict[str, dict[str, tuple[int, int]]] = {}

    def member(
        self, source: str, group: str, path: str, seconds: float, scale: float, shard: str
    ) -> _Member:
        if shard not in self._extents:
            self._extents[shard] = self._read(self._packs / shard)
        if path not in self._extents[shard]:
            raise DataError(
                f"{self._packs / shard} lacks {path}, which the index lists in it; copy all of"
                f" {self._packs} again"
            )
        extent = self._extents[shard][path]
        return _Member(source, group, path, seconds, scale, self._packs / shard, *extent)

    def _read(self, shard: Path) -> dict[str, tuple[int, int]]:
        try:
            with tarfile.open(shard, "r:") as tar:
                return {info.name: (info.offset_data, info.size) for info in tar}
        except tarfile.TarError as error:
            raise DataError(
                f"{shard} is damaged although its checksum in {SUMS} is right: {error}; copy both"
                " again, or make the pack again"
            ) from None


def _chunks(members: Sequence[_Member]) -> Iterator[list[_Member]]:
    """Split members into chunks of about `_CHUNK_S` seconds."""
    chunk: list[_Member] = []
    seconds = 0.0
    for member in members:
        chunk.append(member)
        seconds += member.seconds
        if seconds >= _CHUNK_S:
            yield chunk
            chunk, seconds = [], 0.0
    if chunk:
        yield chunk


def _decode_chunk(task: tuple[str, list[_Member]]) -> tuple[str, Decoded]:
    name, members = task
    return name, [quantise(PendingRecording(m.source, m.group, m.path, m.load), 0) for m in members]


class _AtomicRecordings:
    """Writes a `Recordings` file that gets its final name only when it is complete."""

    def __init__(self, stem_path: Path, stamp: str) -> None:
        self._audio = Path(f"{stem_path}.i16")
        self._table = Path(f"{stem_path}.jsonl")
        self._lines = [json.dumps({"stamp": stamp})]
        self._end = 0

    def __enter__(self) -> _AtomicRecordings:
        self._file = open(f"{self._audio}.part", "wb")
        return self

    def add(self, decoded: Iterable[tuple[Recording, bytes]]) -> None:
        for row, data in decoded:
            self._file.write(data)
            self._lines.append(json.dumps(asdict(replace(row, start=self._end))))
            self._end += row.length

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._file.flush()
            os.fsync(self._file.fileno())
        self._file.close()
        part = Path(f"{self._table}.part")
        if kind is not None:
            os.unlink(self._file.name)
            return
        part.write_text("\n".join(self._lines) + "\n", encoding="utf-8")
        # Remove the old table first: a crash must not leave it beside the new samples.
        self._table.unlink(missing_ok=True)
        os.replace(self._file.name, self._audio)
        os.replace(part, self._table)
