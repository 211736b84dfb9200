"""`rtmtass data pack`: a corpus and its banks as small tar files, for a machine that has nothing.

What a folder of packs consists of is in `pack_format`; `unpack` reads it.
"""

from __future__ import annotations

import csv
import hashlib
import io
import tarfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from rtmtass.errors import DataError, InputError, OutputError
from rtmtass.io.decode import decode
from rtmtass.io.part_file import why_unwritable
from rtmtass.training.data.codecs import as_flac, as_opus, kbits_of_opus
from rtmtass.training.data.corpus import INDEX_COLUMNS, IndexRow, read_index
from rtmtass.training.data.pack_format import BANK_COLUMNS, BANKS, INDEX, SUMS, BankRow, write_sums
from rtmtass.training.data.process_pool import in_order
from rtmtass.training.data.recipe import BANKS as BANK_NAMES
from rtmtass.training.data.recordings import Recordings, has_recordings
from rtmtass.types import SAMPLE_RATE, Progress

MOST_BYTES = 56_000_000
KBITS = 24.0
"""Of Opus at 16 kHz mono: 5.2 hours in 56 MB, the files' and the tar's own bytes aside."""

_BLOCK = 512
_END = 10240  # tar fills its last record up to this
_LOSSLESS = ("rooms",)  # banks that no lossy codec may touch: impulse responses
_MUCH = 2.0  # Opus of more than this times the bit rate is coded again, else copied


@dataclass(frozen=True)
class _Piece:
    """What becomes one file of a shard: a recording, or entry `entry` of a bank at `origin`."""

    kind: str
    split: str
    group: str
    path: str
    seconds: float
    origin: Path
    entry: int = -1


@dataclass(frozen=True)
class Packed:
    """The shards that were written, and the recordings that could not be read."""

    shards: list[Path]
    unreadable: list[Path]


def pack(
    corpus: Path,
    out: Path,
    *,
    cache: Path | None = None,
    kbits: float = KBITS,
    most_bytes: int = MOST_BYTES,
    most_shards: int | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Packed:
    """Write a corpus as tar files of Opus recordings, with an index and checksums beside them.

    Unpacked with plain `tar`, the shards and `index.csv` in one folder are a corpus
    again. The dev split is always whole and comes first, so that dev figures can be
    compared; after it every beginning of the shards holds all roles and banks in
    proportion, and of each role as many groups as possible. The same corpus gives the
    same sound in the same shards; only Ogg's serial numbers are drawn each time.

    Args:
        corpus: folder with an `index.csv`.
        out: folder for `shard-000.tar` … and the rest; made if need be.
        cache: folder with the corpus's banks; those for training are packed, too.
        kbits: kbit/s of Opus. Opus of 16 kHz mono is copied unless it has twice as many.
        most_bytes: no shard is larger.
        most_shards: pack only what fits into so many.
        workers: processes that encode; all cores by default.
        progress: called with a recording's path, how many are done, of how many.

    Returns:
        The shards, and which recordings could not be read and were left out.

    Raises:
        DataError: no corpus, no banks in `cache`, one recording alone is larger than a
            shard, or the dev split larger than all.
        OutputError: the shards can't be written.
    """
    rows = read_index(corpus / "index.csv")
    pieces = [*_recordings(corpus, rows), *(_banks(cache) if cache else ())]
    try:
        out.mkdir(parents=True, exist_ok=True)
        for old in (*out.glob("shard-*.tar"), out / SUMS, out / BANKS):
            old.unlink(missing_ok=True)
        writer = _Shards(out, most_bytes, most_shards)
        shards, unreadable = _write_shards(writer, pieces, kbits, workers, progress)
        _write_tables(out, rows, pieces, shards)
        names = [INDEX, *([BANKS] if cache else []), *(path.name for path in writer.paths)]
        write_sums(out, names)
    except OSError as error:
        raise OutputError(why_unwritable(out, error)) from error
    return Packed(writer.paths, [pieces[index].origin for index in unreadable])


def _recordings(corpus: Path, rows: Sequence[IndexRow]) -> Iterator[_Piece]:
    names: set[str] = set()
    for row in rows:
        path = Path(row.path).with_suffix(".opus").as_posix()
        if path in names:  # two recordings that differed in their suffix alone
            path = f"{row.path}.opus"
        names.add(path)
        group = f"{row.source}/{row.group}"
        yield _Piece(row.role, row.split, group, path, row.seconds, corpus / row.path)


def _banks(cache: Path) -> list[_Piece]:
    """Return the entries of the banks for training; those for dev serve no training run."""
    pieces: list[_Piece] = []
    for name in BANK_NAMES:
        stem_path = cache / f"{name}-train"
        if not has_recordings(stem_path):
            continue
        suffix = "flac" if name in _LOSSLESS else "opus"
        for number, row in enumerate(_bank(stem_path).rows):
            path = f"banks/{stem_path.name}/{number:06d}.{suffix}"
            seconds = row.length / SAMPLE_RATE
            pieces.append(
                _Piece(f"bank {name}", "train", row.group, path, seconds, stem_path, number)
            )
    if not pieces:
        raise DataError(
            f"{cache} holds no banks to train from; make them with:"
            f" rtmtass data synthesise CORPUS --cache {cache}"
        )
    return pieces


@lru_cache
def _bank(stem_path: Path) -> Recordings:
    return Recordings(stem_path)


def balanced(pieces: Sequence[_Piece]) -> list[int]:
    """Return the order in which pieces are packed, as indices: see `pack`.

    Within a kind, every group gives its first recording before any gives its second;
    groups, and the recordings of each, come in the order of their names' hashes.
    """
    kinds: dict[tuple[str, str], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, piece in enumerate(pieces):
        kinds[piece.split, piece.kind][piece.group].append(index)
    keys: dict[int, tuple[bool, float, str]] = {}
    for (split, kind), groups in kinds.items():
        turns = {
            index: (turn, _hash(group), _hash(pieces[index].path))
            for group, members in groups.items()
            for turn, index in enumerate(sorted(members, key=lambda k: _hash(pieces[k].path)))
        }
        total_s = sum(pieces[index].seconds for index in turns)
        before_s = 0.0
        for index in sorted(turns, key=lambda k: turns[k]):
            middle_s = before_s + pieces[index].seconds / 2
            keys[index] = (split == "train", middle_s / max(total_s, 1e-9), kind)
            before_s += pieces[index].seconds
    return sorted(keys, key=lambda k: keys[k])


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _write_shards(
    writer: _Shards,
    pieces: Sequence[_Piece],
    kbits: float,
    workers: int | None,
    progress: Progress | None,
) -> tuple[dict[int, str], list[int]]:
    """Return the shard of every piece that was packed, and the pieces that can't be read."""
    order = balanced(pieces)
    shards: dict[int, str] = {}
    unreadable: list[int] = []
    tasks = ((pieces[k], kbits) for k in order)
    with closing(writer), closing(in_order(_encode, tasks, workers)) as encoded:
        for index, data in zip(order, encoded, strict=True):
            if data is None:
                unreadable.append(index)
            else:
                shard = writer.add(data, pieces[index].path)
                if shard is None:
                    break
                shards[index] = shard
            if progress is not None:
                progress(pieces[index].path, len(shards) + len(unreadable), len(pieces))
    n_dev = sum(piece.split == "dev" for piece in pieces)
    done = len(shards) + len(unreadable)
    if done <= n_dev and done < len(pieces):
        raise DataError(
            f"the dev split alone fills {len(writer.paths)} shards of {writer.most_bytes} bytes;"
            " allow more shards"
        )
    return shards, unreadable


def _encode(task: tuple[_Piece, float]) -> bytes | None:
    """Return the file that a piece becomes; None if it can't be read."""
    piece, kbits = task
    if piece.entry >= 0:
        bank = _bank(piece.origin)
        samples = bank.crop(piece.entry, 0, int(bank.lengths[piece.entry]))
        return as_flac(samples) if piece.path.endswith(".flac") else as_opus(samples, kbits)
    has = kbits_of_opus(piece.origin)
    if has is not None and has <= _MUCH * kbits:
        return piece.origin.read_bytes()
    try:
        return as_opus(decode(piece.origin), kbits)
    except InputError:
        return None


def _write_tables(
    out: Path, rows: Sequence[IndexRow], pieces: Sequence[_Piece], shards: dict[int, str]
) -> None:
    """Write index and banks, in the order they had before they were packed."""
    with open(out / INDEX, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow((*INDEX_COLUMNS, "shard"))
        for index, row in enumerate(rows):
            if index in shards:
                packed = replace(row, path=pieces[index].path)
                values = [getattr(packed, column) for column in INDEX_COLUMNS]
                table.writerow([*values, shards[index]])
    if len(pieces) == len(rows):
        return
    with open(out / BANKS, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(BANK_COLUMNS)
        for index in range(len(rows), len(pieces)):
            if index in shards:
                entry = _bank_row(pieces[index], shards[index])
                table.writerow([getattr(entry, column) for column in BANK_COLUMNS])


def _bank_row(piece: _Piece, shard: str) -> BankRow:
    stored = _bank(piece.origin).rows[piece.entry]
    name = piece.kind.removeprefix("bank ")
    split, seconds, scale = piece.split, round(piece.seconds, 4), stored.scale
    return BankRow(name, split, stored.source, stored.group, piece.path, seconds, scale, shard)


class _Shards:
    """Tar files, one after the other, each closed before it would grow too large."""

    def __init__(self, out: Path, most_bytes: int, most_shards: int | None) -> None:
        self.paths: list[Path] = []
        self.most_bytes = most_bytes
        self._out, self._most_shards = out, most_shards
        self._tar: tarfile.TarFile | None = None
        self._size = 0

    def add(self, data: bytes, name: str) -> str | None:
        """Add a file under a name; return the name of its shard, None where all are full."""
        info = tarfile.TarInfo(name)
        info.size = len(data)
        size = len(info.tobuf(tarfile.PAX_FORMAT)) + -(-info.size // _BLOCK) * _BLOCK
        if size + _END > self.most_bytes:
            raise DataError(
                f"{name} alone has {info.size} bytes, a shard at most {self.most_bytes}; cut the"
                " recording, or allow larger shards"
            )
        if self._tar is None or self._size + size + _END > self.most_bytes:
            if len(self.paths) == self._most_shards:
                return None
            self.close()
            self.paths.append(self._out / f"shard-{len(self.paths):03d}.tar")
            self._tar = tarfile.open(self.paths[-1], "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
            self._size = 0
        self._tar.addfile(info, io.BytesIO(data))
        self._size += size
        return self.paths[-1].name

    def close(self) -> None:
        """Complete the shard that is being written."""
        if self._tar is not None:
            self._tar.close()
            self._tar = None
