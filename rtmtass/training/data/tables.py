"""Reads the CSV tables of corpora, sources lists and manifests; each error is one line."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rtmtass.errors import DataError

_MOST_BYTES = 512_000_000


@dataclass(frozen=True)
class Line:
    """A line of a table: its values by column, and where it stands."""

    values: dict[str, str]
    path: Path
    number: int

    def one_of(self, column: str, allowed: Sequence[str]) -> None:
        """Check a value.

        Raises:
            DataError: it isn't one of those allowed.
        """
        value = self.values.get(column, "")
        if value not in allowed:
            names = ", ".join(name or "nothing" for name in allowed)
            raise DataError(
                f"{self.path}, line {self.number}: unknown {column} {_short(value)};"
                f" give one of: {names}"
            )


def read_table(
    path: Path, needed: Sequence[str], *, may_be_empty: Sequence[str] = (), hint: str = ""
) -> Iterator[Line]:
    """Read a CSV table in UTF-8, or one compressed with gzip if its name ends in .gz.

    Args:
        path: of the file.
        needed: columns that must be there.
        may_be_empty: those among them whose values may be empty or, in a short line, missing.
        hint: what else to do about missing columns.

    Raises:
        DataError: the file can't be read or isn't a CSV table, or it lacks columns or values.
    """
    # A byte-order mark is what spreadsheets write.
    table = csv.DictReader(io.StringIO(_text(path).removeprefix("\ufeff"), newline=""))
    try:
        missing = set(needed) - set(table.fieldnames or ())
        if missing:
            raise DataError(
                f"{path} lacks the columns {', '.join(sorted(missing))}; it needs"
                f" {', '.join(needed)}: add them{', ' + hint if hint else ''}"
            )
        for row in table:
            values = {k: v for k, v in row.items() if isinstance(k, str) and isinstance(v, str)}
            line = Line(values, path, table.line_num)
            for column in needed:
                if not values.get(column) and column not in may_be_empty:
                    raise DataError(f"{path}, line {line.number}: no {column}; add it")
            yield line
    except csv.Error as error:
        raise DataError(
            f"{path}, line {table.line_num}: not a CSV table ({error}); correct the line"
        ) from None


def _text(path: Path) -> str:
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except gzip.BadGzipFile as error:
        raise DataError(f"{path} is damaged: {error}; copy it again") from None
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}; check its path") from None
    except (EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged: {error}; copy it again") from None
    if len(data) > _MOST_BYTES:
        raise DataError(f"{path} is larger than {_MOST_BYTES // 10**6} MB; split it")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} isn't UTF-8: byte {error.start} is 0x{data[error.start]:02x}; save it as UTF-8"
        ) from None


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}…")
