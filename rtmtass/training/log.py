"""What a training run tells: to CSV files, to TensorBoard if asked, and to whoever watches."""

from __future__ import annotations

import csv
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rtmtass.errors import MissingPartError

Progress = Callable[[dict[str, Any]], None]
"""Called with a report: `kind` is "train", "dev" or "skipped"; `done` is 0..1."""


class Log:
    """One run's log.

    `train.csv` and `dev.csv` hold a row per report; a resumed run takes out the rows
    beyond the step it goes on from, so that every step is told once.

    Args:
        folder: the run's.
        progress: whoever watches.
        tensorboard: also write events under `folder/tensorboard`.

    Raises:
        MissingPartError: TensorBoard is asked for and not installed.
    """

    def __init__(self, folder: Path, progress: Progress, *, tensorboard: bool = False) -> None:
        self._folder, self._progress = folder, progress
        self._events = _events(folder / "tensorboard") if tensorboard else None

    def note(self, kind: str, done: float, row: dict[str, Any], **more: Any) -> None:
        """Keep a row of figures, all of one kind with the same keys; pass it and `more` on."""
        path = self._folder / f"{kind}.csv"
        fresh = not path.exists()
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
        self.tell(kind, done, {**row, **more})

    def tell(self, kind: str, done: float, row: dict[str, Any]) -> None:
        """Pass something on that is not kept."""
        self._progress({"kind": kind, "done": done, **row})

    def rewind(self, step: int) -> None:
        """Take out of the CSV files what was noted after `step`."""
        for path in (self._folder / "train.csv", self._folder / "dev.csv"):
            if not path.exists():
                continue
            head, *rows = path.read_text(encoding="utf-8").splitlines()
            place = head.split(",").index("step")
            kept = [row for row in rows if int(row.split(",")[place]) <= step]
            if len(kept) < len(rows):
                part = path.with_suffix(".csv.part")
                part.write_text("\n".join([head, *kept]) + "\n", encoding="utf-8")
                os.replace(part, path)

    def close(self) -> None:
        """Finish the event file."""
        if self._events is not None:
            self._events.close()


def minutes_left(report: dict[str, Any]) -> float:
    """Return how many minutes are left, of a run that is `done` so far after `minutes`.

    A report may say so itself, as those of a trunk do; infinite where nothing ends it.
    """
    if "minutes_left" in report:
        return float(report["minutes_left"])
    return float(report["minutes"] * (1 / max(report["done"], 1e-9) - 1))


def _events(folder: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its own dependencies' deprecations
            from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingPartError(
            "tensorboard = true needs TensorBoard: pip install 'rtmtass[tensorboard]'"
        ) from None
    return SummaryWriter(folder)
