"""Training sound straight from packs: all shards decoded once, by all cores, into a cache folder.

What a folder of packs consists of is in `pack_format`; `pack` writes it. Nothing is
needed for it but numpy and soundfile.
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
from rtmtass.training.data.corpus import Corpus, IndexRow, place_of
from rtmtass.training.data.pack_format import SUMS, check_sums, read_banks, read_shards, read_sums
from rtmtass.training.data.process_pool import in_order
from rtmtass.training.data.recordings import (
    PendingRecording,
    Recording,
    Recordings,
    alone,
    quantise,
    stored_stamp,
)
from rtmtass.types import Progress, Samples

_PACKS = "packs "
"""What the stamp of a file begins with that was decoded from packs."""
_CHUNK_S = 300.0
"""How much sound a process decodes at a time."""

Decoded = list[tuple[Recording, bytes]]


@dataclass(frozen=True)
class _Member:
    """A file in a shard, and whose sound it is."""

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
    """Return the corpus that lies in packs, decoded into a cache; see `PackedCorpus`."""
    return PackedCorpus(packs, cache, progress, workers)


class PackedCorpus(Corpus):
    """A corpus that lies in packs: the same rows, recordings and banks, and no files of its own.

    The cache folder holds what `Corpus` would put there. It is complete when this
    returns; from then on the shards aren't needed any more, as long as `index.csv`,
    `banks.csv` and `SHA256SUMS` stay. An interrupted run keeps the files it has completed.

    Args:
        packs: the folder that `rtmtass data pack` wrote.
        cache: where the decoded sound is kept, 115 MB an hour. It is reused for the same packs.
        progress: called with what is being done, how much of it is, and of how much.
        workers: processes that decode; all cores by default.

    Raises:
        DataError: no packs, or files of them are missing, altered or damaged; or the
            cache holds recordings or banks that are not from packs.
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
        self._stamp_here = _PACKS + hashlib.sha256(repr(sorted(sums.items())).encode()).hexdigest()
        super().__init__(packs, cache, progress)
        self._banks = read_banks(self.folder)
        self._places = {
            *(place_of(row.role, row.split) for row in self.rows),
            *(f"{row.bank}-{row.split}" for row in self._banks),
        }
        try:
            self._complete(workers)
        except OSError as error:
            raise OutputError(why_unwritable(self.cache, error)) from error

    def bank(self, name: str, split: str, first: int | None = None) -> Recordings | None:
        """See Corpus; a bank that other packs left in the cache is none of this corpus."""
        if f"{name}-{split}" not in self._places:
            return None
        return super().bank(name, split, first)

    def _prepare(self, stem_path: Path, rows: Sequence[IndexRow]) -> None:
        """Do nothing: all was decoded at the beginning."""

    def _complete(self, workers: int | None) -> None:
        """Decode what the cache doesn't hold of these packs."""
        if not self._missing():
            return
        self.cache.mkdir(parents=True, exist_ok=True)
        with open(self.cache / "packs.lock", "ab") as lock, alone(lock):
            missing = self._missing()  # another process may have done it meanwhile
            if missing:
                check_sums(self.folder, self._progress)
                self._decode(missing, workers)

    def _missing(self) -> list[str]:
        """Return the places in the cache that hold nothing of these packs yet."""
        missing: list[str] = []
        for place in sorted(self._places):
            stamp = stored_stamp(self.cache / place)
            if stamp and not stamp.startswith(_PACKS):
                raise DataError(
                    f"{self.cache / place}.jsonl is not from packs, and would be overwritten;"
                    " name another folder as the cache"
                )
            if stamp != self._stamp_here:
                missing.append(place)
        return missing

    def _decode(self, missing: Sequence[str], workers: int | None) -> None:
        members = self._members()
        tasks = [(place, chunk) for place in missing for chunk in _chunks(members[place])]
        done, total = 0, sum(len(members[place]) for place in missing)
        with closing(in_order(_decode_chunk, tasks, workers)) as decoded:
            for place, chunks in groupby(decoded, key=itemgetter(0)):
                with _Whole(self.cache / place, self._stamp_here) as file:
                    for _, chunk in chunks:
                        file.add(chunk)
                        done += len(chunk)
                        if self._progress is not None:
                            self._progress("decoding packs", done, total)

    def _members(self) -> dict[str, list[_Member]]:
        """Return where in the shards the recordings of every place lie, in their order."""
        shards = read_shards(self.folder)
        found = _Tars(self.folder)
        members: dict[str, list[_Member]] = defaultdict(list)
        for row, shard in zip(self.rows, shards, strict=True):
            member = found.member(row.source, row.group, row.path, row.seconds, 1.0, shard)
            members[place_of(row.role, row.split)].append(member)
        for entry in self._banks:
            names = (entry.source, entry.group, entry.path)
            member = found.member(*names, entry.seconds, entry.scale, entry.shard)
            members[f"{entry.bank}-{entry.split}"].append(member)
        return members


class _Tars:
    """Where each file lies in the shards of a folder."""

    def __init__(self, packs: Path) -> None:
        self._packs = packs
        self._places: dict[str, dict[str, tuple[int, int]]] = {}

    def member(
        self, source: str, group: str, path: str, seconds: float, scale: float, shard: str
    ) -> _Member:
        if shard not in self._places:
            self._places[shard] = self._read(self._packs / shard)
        if path not in self._places[shard]:
            raise DataError(
                f"{self._packs / shard} lacks {path}, which should be in it; fetch all of"
                f" {self._packs} again"
            )
        where = self._places[shard][path]
        return _Member(source, group, path, seconds, scale, self._packs / shard, *where)

    def _read(self, shard: Path) -> dict[str, tuple[int, int]]:
        try:
            with tarfile.open(shard, "r:") as tar:
                return {info.name: (info.offset_data, info.size) for info in tar}
        except tarfile.TarError as error:
            raise DataError(
                f"{shard} is damaged though {SUMS} agrees: {error}; fetch both again, or pack anew"
            ) from None


def _chunks(members: Sequence[_Member]) -> Iterator[list[_Member]]:
    """Part members at about `_CHUNK_S` seconds."""
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
    place, members = task
    return place, [
        quantise(PendingRecording(m.source, m.group, m.path, m.load), 0) for m in members
    ]


class _Whole:
    """A `Recordings` file that appears under its name only when it is complete."""

    def __init__(self, stem_path: Path, stamp: str) -> None:
        self._sound = Path(f"{stem_path}.i16")
        self._table = Path(f"{stem_path}.jsonl")
        self._lines = [json.dumps({"stamp": stamp})]
        self._end = 0

    def __enter__(self) -> _Whole:
        self._file = open(f"{self._sound}.part", "wb")
        return self

    def add(self, decoded: Iterable[tuple[Recording, bytes]]) -> None:
        for row, data in decoded:
            self._file.write(data)
            self._lines.append(json.dumps(asdict(replace(row, start=self._end))))
            self._end += row.length

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._file.close()
        part = Path(f"{self._table}.part")
        if kind is not None:
            os.unlink(self._file.name)
            return
        part.write_text("\n".join(self._lines) + "\n", encoding="utf-8")
        # The old table goes first, or it could come to stand beside the new samples.
        self._table.unlink(missing_ok=True)
        os.replace(self._file.name, self._sound)
        os.replace(part, self._table)
