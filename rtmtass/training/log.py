"""The log of a training run: CSV files, TensorBoard events and reports to a callback."""

from __future__ import annotations

import csv
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rtmtass.errors import DataError, MissingPartError
from rtmtass.io.paths import quoted
from rtmtass.types import Progress

OnReport = Callable[[dict[str, Any]], None]
"""Called with a report: `kind` is "train", "dev" or "skipped"; `done` is 0..1."""


def _ignore(*_: Any) -> None:
    """Show nothing."""


@dataclass(frozen=True)
class Messages:
    """What a run shows besides its reports.

    Attributes:
        progress: called with the name of slow work, how much is done, and of how much.
        note: called with a line of text.
    """

    progress: Progress = _ignore
    note: Callable[[str], None] = _ignore


class Log:
    """One run's log.

    `train.csv` and `dev.csv` hold a row per report. A resumed run removes the rows after
    its checkpoint's step, so that no step is logged twice.

    Args:
        folder: the run's.
        on_report: called with every report.
        tensorboard: also write events under `folder/tensorboard`.

    Raises:
        MissingPartError: TensorBoard is requested but not installed.
    """

    def __init__(self, folder: Path, on_report: OnReport, *, tensorboard: bool = False) -> None:
        self._folder, self._on_report = folder, on_report
        self._events = _events(folder / "tensorboard") if tensorboard else None

    def write(self, kind: str, done: float, row: dict[str, Any], **more: Any) -> None:
        """Append a row of figures to the log and report it.

        Args:
            kind: "train" or "dev"; rows of one kind have the same keys.
            done: fraction of the run that is done, 0..1.
            row: the figures, with `step`.
            more: further values for the report only.
        """
        path = self._folder / f"{kind}.csv"
        fresh = not path.exists() or not path.stat().st_size
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(row))
            if fresh:
                writer.writeheader()
            writer.writerow(row)
        if self._events is not None:
            for name, value in row.items():
                if name != "step":
                    self._events.add_scalar(f"{kind}/{name}", value, row["step"])
            self._events.flush()
        self.report(kind, done, {**row, **more})

    def report(self, kind: str, done: float, row: dict[str, Any]) -> None:
        """Report figures without logging them."""
        self._on_report({"kind": kind, "done": done, **row})

    def rewind(self, step: int) -> None:
        """Remove the rows after `step` from the CSV files, and what a crash left half written.

        Raises:
            DataError: a file isn't the log of a run.
        """
        for path in (self._folder / "train.csv", self._folder / "dev.csv"):
            if not path.exists():
                continue
            before = path.read_bytes()
            kept = _rows_up_to(step, before, path)
            if kept == before:
                continue
            part = path.with_suffix(".csv.part")
            part.write_bytes(kept)
            os.replace(part, path)

    def close(self) -> None:
        """Finish the event file."""
        if self._events is not None:
            self._events.close()


def _rows_up_to(step: int, text: bytes, path: Path) -> bytes:
    """Return the header and the whole rows of a CSV file up to `step`; nothing if it is blank."""
    lines = [line for line in text.splitlines(keepends=True) if line.strip(b"\r\n\t \0")]
    if not lines:
        return b""
    head, *rows = lines
    columns = head.strip().split(b",")
    if b"step" not in columns:
        raise DataError(
            f"{path} isn't the log of a run: its first line has no column step; move it away:"
            f" mv {quoted(path)} {quoted(f'{path}.old')}"
        )
    at = columns.index(b"step")

    def is_kept(row: bytes) -> bool:
        cells = row.strip().split(b",")
        is_whole = row.endswith(b"\n") and len(cells) == len(columns) and cells[at].isdigit()
        return is_whole and int(cells[at]) <= step

    return b"".join([head, *filter(is_kept, rows)])


def minutes_left(report: dict[str, Any]) -> float:
    """Return the minutes left of a run; infinite for a run without an end.

    Estimated from `done` and `minutes` if the report doesn't hold `minutes_left`.
    """
    if "minutes_left" in report:
        return float(report["minutes_left"])
    return float(report["minutes"] * (1 / max(report["done"], 1e-9) - 1))


def _events(folder: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations in its dependencies
            from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingPartError(
            "tensorboard = true needs TensorBoard: pip install 'rtmtass[tensorboard]'"
        ) from None
    return SummaryWriter(folder)
