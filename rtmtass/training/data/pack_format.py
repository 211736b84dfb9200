"""The file format of packs, shared by `pack` and `unpack`.

    shard-000.tar …   recordings and bank entries; plain tar files
    index.csv         the corpus's index, with the shard of each recording
    banks.csv         the bank entries in order, with the shard of each
    SHA256SUMS        checksums of all of these, in the format of `sha256sum -c`

`SHA256SUMS` is written last: a folder without it is incomplete.
"""

from __future__ import annotations

import csv
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rtmtass.errors import DataError
from rtmtass.training.data.corpus import SPLITS
from rtmtass.training.data.recipe import BANKS as BANK_NAMES
from rtmtass.training.data.tables import Line, read_table
from rtmtass.types import Progress

INDEX, BANKS, SUMS = "index.csv", "banks.csv", "SHA256SUMS"
BANK_COLUMNS = ("bank", "split", "source", "group", "path", "seconds", "scale", "shard")

_SHOWN = 3  # problems listed in an error


@dataclass(frozen=True)
class BankRow:
    """One entry of a bank; the samples at `path` times `scale` have the original level."""

    bank: str
    split: str
    source: str
    group: str
    path: str
    seconds: float
    scale: float
    shard: str


def sha256(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_sums(packs: Path, names: Iterable[str]) -> None:
    """Write `SHA256SUMS` for files in a folder."""
    text = "".join(f"{sha256(packs / name)}  {name}\n" for name in names)
    (packs / SUMS).write_text(text, encoding="utf-8")


def read_sums(packs: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a folder of packs, by name.

    Raises:
        DataError: there is no `SHA256SUMS`.
    """
    try:
        lines = (packs / SUMS).read_text(encoding="utf-8").splitlines()
    except OSError:
        raise DataError(
            f"{packs} holds no complete pack: it has no {SUMS}; copy it there, or make a pack"
            " with: rtmtass data pack"
        ) from None
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def check_sums(packs: Path, progress: Progress | None = None) -> None:
    """Compare all files with their SHA-256.

    Raises:
        DataError: files are missing or differ; the message names them.
    """
    sums = read_sums(packs)
    wrong: list[str] = []
    with ThreadPoolExecutor() as pool:  # hashing releases the GIL
        results = pool.map(lambda name: _problem(packs / name, sums[name]), sums)
        for number, problem in enumerate(results):
            wrong += [problem] if problem else []
            if progress is not None:
                progress("checking packs", number + 1, len(sums))
    if wrong:
        more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        them = "it" if len(wrong) == 1 else "them"
        raise DataError(f"{packs}: {'; '.join(wrong[:_SHOWN])}{more}; copy {them} again")


def _problem(path: Path, expected: str) -> str:
    try:
        digest = sha256(path)
    except FileNotFoundError:
        return f"{path.name} is missing (SHA-256 {expected[:16]}…)"
    except OSError as error:
        return f"{path.name} can't be read ({error.strerror})"
    if digest == expected:
        return ""
    return f"{path.name} has SHA-256 {digest[:16]}…, expected {expected[:16]}…"


def read_banks(packs: Path) -> list[BankRow]:
    """Return the entries of all banks in order; an empty list if no banks were packed.

    Raises:
        DataError: the table can't be read, or names an unknown bank or split.
    """
    path = packs / BANKS
    return [_bank_row(line) for line in read_table(path, BANK_COLUMNS)] if path.exists() else []


def _bank_row(line: Line) -> BankRow:
    line.one_of("bank", BANK_NAMES)  # part of a file's name in the cache
    line.one_of("split", SPLITS)
    values = {column: line.values[column] for column in BANK_COLUMNS}
    try:
        numbers = {name: float(values.pop(name)) for name in ("seconds", "scale")}
    except ValueError:
        raise DataError(
            f"{line.path}, line {line.number}: seconds and scale must be numbers; make the pack"
            " again: rtmtass data pack"
        ) from None
    return BankRow(**values, **numbers)  # type: ignore[arg-type]


def read_shards(packs: Path) -> list[str]:
    """Return the shard of each row of the index, in order.

    Raises:
        DataError: the index has no shards.
    """
    with open(packs / INDEX, newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        if "shard" not in (table.fieldnames or ()):
            raise DataError(
                f"{packs / INDEX} has no column 'shard': {packs} isn't a packed corpus; make one"
                " with: rtmtass data pack"
            )
        return [line["shard"] for line in table]


def describe(packs: Path) -> list[str]:
    """Return a summary of a folder of packs: hours by role and by bank, number of files, size."""
    hours: dict[str, dict[str, float]] = defaultdict(lambda: {"train": 0.0, "dev": 0.0})
    with open(packs / INDEX, newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            hours[line["role"]][line["split"]] += float(line["seconds"]) / 3600
    for row in read_banks(packs):
        hours[f"bank {row.bank}"][row.split] += row.seconds / 3600
    sizes = _sizes(packs, read_sums(packs))
    lines = [f"{k}: {v['train']:.2f} h train, {v['dev']:.2f} h dev" for k, v in hours.items()]
    return [*lines, f"{len(sizes)} files, {sum(sizes.values()) / 1e6:.1f} MB"]


def _sizes(packs: Path, sums: Mapping[str, str]) -> dict[str, int]:
    return {name: (packs / name).stat().st_size for name in sums}
