"""`rtmtass data pack`: writes a corpus and its banks as small tar files, for a bare GPU machine.

`pack_format` describes the files; `unpack` reads them.
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
"""Largest shard, in bytes."""
KBITS = 24.0
"""Bit rate of Opus at 16 kHz mono: 5.2 hours in 56 MB, without file and tar headers."""

_BLOCK = 512
_END = 10240  # tar pads its last record to this
_LOSSLESS = ("rooms",)  # a lossy codec would smear impulse responses
_RECODE_RATIO = 2.0  # Opus above this multiple of the bit rate is encoded again, else copied


@dataclass(frozen=True)
class _Piece:
    """One file of a shard: a recording, or entry number `entry` of the bank at `origin`."""

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
    """Write a corpus as tar files of Opus recordings, with an index and checksums.

    The shards unpacked with plain `tar`, together with `index.csv`, are a corpus again.
    The dev split is always complete and comes first, so that dev figures stay
    comparable; after it, any first shards hold all roles and banks in proportion, with
    as many groups of each role as possible. The same corpus gives the same audio in the
    same shards; only Ogg's serial numbers are random.

    Args:
        corpus: folder with an `index.csv`.
        out: folder for `shard-000.tar` … and the tables; created if missing.
        cache: folder with the corpus's banks; the training banks are packed too.
        kbits: bit rate of Opus, kbit/s. Opus files of 16 kHz mono are copied, unless
            their bit rate is more than twice as high.
        most_bytes: largest shard.
        most_shards: pack only what fits into so many shards.
        workers: encoding processes; all cores by default.
        progress: called with a recording's path, how many are done, and of how many.

    Returns:
        The shards, and the recordings that were left out because they can't be read.

    Raises:
        DataError: no corpus, no banks in `cache`, a recording larger than a shard, or a
            dev split larger than all shards.
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
        raise OutputError(why_unwritable(out, error, "")) from error
    return Packed(writer.paths, [pieces[index].origin for index in unreadable])


def _recordings(corpus: Path, rows: Sequence[IndexRow]) -> Iterator[_Piece]:
    names: set[str] = set()
    for row in rows:
        path = Path(row.path).with_suffix(".opus").as_posix()
        if path in names:  # recordings whose names differ only in the suffix
            path = f"{row.path}.opus"
        names.add(path)
        group = f"{row.source}/{row.group}"
        yield _Piece(row.role, row.split, group, path, row.seconds, corpus / row.path)


def _banks(cache: Path) -> list[_Piece]:
    """Return the entries of the training banks; the dev banks aren't used in training."""
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
            f"{cache} holds no training banks; make them with:"
            f" rtmtass data synthesise CORPUS --cache {cache}"
        )
    return pieces


@lru_cache
def _bank(stem_path: Path) -> Recordings:
    return Recordings(stem_path)


def balanced(pieces: Sequence[_Piece]) -> list[int]:
    """Return the order in which pieces are packed, as indices; see `pack`.

    Within a kind, the first recordings of all groups come before any second one;
    groups, and recordings within a group, are sorted by a hash of their names.
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
    """Return the shard of each packed piece, and the indices of unreadable pieces."""
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
            " allow more with --shards"
        )
    return shards, unreadable


def _encode(task: tuple[_Piece, float]) -> bytes | None:
    """Return the encoded file of a piece; None if it can't be read."""
    piece, kbits = task
    if piece.entry >= 0:
        bank = _bank(piece.origin)
        samples = bank.crop(piece.entry, 0, int(bank.lengths[piece.entry]))
        return as_flac(samples) if piece.path.endswith(".flac") else as_opus(samples, kbits)
    present = kbits_of_opus(piece.origin)
    if present is not None and present <= _RECODE_RATIO * kbits:
        return piece.origin.read_bytes()
    try:
        return as_opus(decode(piece.origin), kbits)
    except InputError:
        return None


def _write_tables(
    out: Path, rows: Sequence[IndexRow], pieces: Sequence[_Piece], shards: dict[int, str]
) -> None:
    """Write the tables of recordings and bank entries, in their original order."""
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
    """Writes consecutive tar files of limited size."""

    def __init__(self, out: Path, most_bytes: int, most_shards: int | None) -> None:
        self.paths: list[Path] = []
        self.most_bytes = most_bytes
        self._out, self._most_shards = out, most_shards
        self._tar: tarfile.TarFile | None = None
        self._size = 0

    def add(self, data: bytes, name: str) -> str | None:
        """Add a file under a name; return the name of its shard, or None if all are full."""
        info = tarfile.TarInfo(name)
        info.size = len(data)
        size = len(info.tobuf(tarfile.PAX_FORMAT)) + -(-info.size // _BLOCK) * _BLOCK
        if size + _END > self.most_bytes:
            raise DataError(
                f"{name} has {info.size} bytes, a shard at most {self.most_bytes}; split the"
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
        """Finish the current shard."""
        if self._tar is not None:
            self._tar.close()
            self._tar = None
