"""What a folder of packs consists of: known to the one that writes it and the one that reads it.

    shard-000.tar …   recordings, and the entries of the banks; plain tar files
    index.csv         a corpus's index, with the shard of each recording
    banks.csv         the entries of the banks in their order, with the shard of each
    SHA256SUMS        of all of these; `sha256sum -c SHA256SUMS` checks them, too

`SHA256SUMS` is written last: a folder without it is no whole pack.
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
from rtmtass.types import Progress

INDEX, BANKS, SUMS = "index.csv", "banks.csv", "SHA256SUMS"
BANK_COLUMNS = ("bank", "split", "source", "group", "path", "seconds", "scale", "shard")

_SHOWN = 3


@dataclass(frozen=True)
class BankRow:
    """One entry of a bank; the file at `path` times `scale` is as loud as it was made."""

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
    """Write `SHA256SUMS` of files in a folder."""
    text = "".join(f"{sha256(packs / name)}  {name}\n" for name in names)
    (packs / SUMS).write_text(text, encoding="utf-8")


def read_sums(packs: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a folder of packs by name.

    Raises:
        DataError: it has no `SHA256SUMS`.
    """
    try:
        lines = (packs / SUMS).read_text(encoding="utf-8").splitlines()
    except OSError:
        raise DataError(
            f"{packs} holds no whole pack: it has no {SUMS}; fetch it, or make one with:"
            " rtmtass data pack"
        ) from None
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def check_sums(packs: Path, progress: Progress | None = None) -> None:
    """Compare all files with their SHA-256.

    Raises:
        DataError: some are missing or altered; it names them.
    """
    sums = read_sums(packs)
    wrong: list[str] = []
    with ThreadPoolExecutor() as pool:  # hashing leaves the interpreter's lock
        found = pool.map(lambda name: _problem(packs / name, sums[name]), sums)
        for number, problem in enumerate(found):
            wrong += [problem] if problem else []
            if progress is not None:
                progress("checking packs", number + 1, len(sums))
    if wrong:
        more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        them = "it" if len(wrong) == 1 else "them"
        raise DataError(f"{packs}: {'; '.join(wrong[:_SHOWN])}{more}; fetch {them} again")


def _problem(path: Path, wanted: str) -> str:
    try:
        found = sha256(path)
    except FileNotFoundError:
        return f"{path.name} is missing (SHA-256 {wanted[:16]}…)"
    except OSError as error:
        return f"{path.name} can't be read ({error.strerror})"
    if found == wanted:
        return ""
    return f"{path.name} has SHA-256 {found[:16]}…, expected {wanted[:16]}…"


def read_banks(packs: Path) -> list[BankRow]:
    """Return the entries of all banks in their order; none where none were packed."""
    if not (packs / BANKS).exists():
        return []
    with open(packs / BANKS, newline="", encoding="utf-8") as file:
        return [
            BankRow(**{**line, "seconds": float(line["seconds"]), "scale": float(line["scale"])})  # type: ignore[arg-type]
            for line in csv.DictReader(file)
        ]


def read_shards(packs: Path) -> list[str]:
    """Return the shard of each row of the index, in its order.

    Raises:
        DataError: the index names none.
    """
    with open(packs / INDEX, newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        if "shard" not in (table.fieldnames or ()):
            raise DataError(
                f"{packs / INDEX} names no shards: it is no packed corpus; make one with:"
                " rtmtass data pack"
            )
        return [line["shard"] for line in table]


def describe(packs: Path) -> list[str]:
    """Return lines that say what is in a folder of packs: hours by role and by bank, and bytes."""
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
