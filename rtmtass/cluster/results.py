"""The table of a run: a Parquet file with one small row for each recording."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rtmtass.cluster import urls
from rtmtass.cluster.task import Row
from rtmtass.errors import MissingPartError, OutputError

_GROUP = 10_000
"""Rows that are kept in memory until they are written."""


class Table:
    """Writes rows to a Parquet file, local or remote, which has its name once it is complete.

    Attributes:
        place: its path or URL; "" after `close` if no row was added, which leaves no file.

    Raises:
        MissingPartError: pyarrow isn't installed.
        OutputError: the folder can't be written.
    """

    def __init__(self, folder: str) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            raise MissingPartError(
                "the table of results needs pyarrow: pip install 'rtmtass[ray]'"
            ) from None
        name = f"results-{datetime.now(UTC):%Y%m%dT%H%M%S-%f}Z.parquet"
        self.place = f"{folder.rstrip('/')}/{name}"
        self._is_remote = urls.is_url(folder)
        text = pyarrow.string()
        output = pyarrow.struct([("stem", text), ("path", text)])
        self._schema = pyarrow.schema(
            [
                ("path", text),
                ("status", text),
                ("seconds", pyarrow.float64()),
                ("elapsed_s", pyarrow.float64()),
                ("message", text),
                ("host", text),
                ("outputs", pyarrow.list_(output)),
            ]
        )
        self._arrow = pyarrow
        self._rows: list[dict[str, Any]] = []
        self._n = 0
        if self._is_remote:
            urls.check_writable([folder])
            self._scratch = tempfile.TemporaryDirectory(prefix="rtmtass-")
            self._part = Path(self._scratch.name) / name
        else:
            self._part = Path(f"{self.place}.part")
        try:
            self._part.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pyarrow.parquet.ParquetWriter(str(self._part), self._schema)
        except OSError as error:
            raise OutputError(
                f"{folder} can't be written ({error.strerror or error}); name another folder for"
                " the table of results with --results"
            ) from None

    def add(self, rows: Sequence[Row]) -> None:
        """Add rows."""
        self._n += len(rows)
        self._rows += [_as_utf8(row.to_dict()) for row in rows]
        if len(self._rows) >= _GROUP:
            self._write()

    def close(self) -> None:
        """Complete the file.

        Raises:
            OutputError: it can't be written.
        """
        try:
            self._write()
            self._writer.close()
            if not self._n:
                self._part.unlink()
                self.place = ""
            elif not self._is_remote:
                self._part.rename(self.place)
        except OSError as error:
            raise OutputError(f"{self.place} can't be written: {error.strerror or error}") from None
        if self._is_remote:
            if self._n:
                urls.upload(self._part, self.place)
            self._scratch.cleanup()

    def _write(self) -> None:
        if self._rows:
            self._writer.write_table(self._arrow.Table.from_pylist(self._rows, self._schema))
            self._rows.clear()


def _as_utf8(value: Any) -> Any:
    """Return a value whose names that aren't UTF-8 are escaped, as Parquet requires."""
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {key: _as_utf8(inner) for key, inner in value.items()}
    return [_as_utf8(inner) for inner in value] if isinstance(value, list) else value
