"""What a person at a terminal sees: progress while it works, tables afterwards."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.progress import (
    BarColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as Bars,
)
from rich.table import Table
from rich.text import Text

from rtmtass.offline.plan import Result
from rtmtass.training.log import minutes_left

_RTF_WINDOW_S = 2.0
_PIPE_WIDTH = 240  # nobody wraps what goes into a file


class _Drawn:
    """Bars that are drawn from entering to leaving."""

    _bars: Bars

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop drawing."""
        self._bars.stop()


class Progress(_Drawn):
    """A Watcher that draws a bar, elapsed and remaining time, and the current RTF on stderr.

    Use it as a context manager: leaving puts the terminal in order again.
    """

    def __init__(self, n_files: int) -> None:
        self._n_files = n_files
        self._n_done = 0
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[rtf]}"),
            console=Console(stderr=True),
        )
        self._task = self._bars.add_task("", total=None, visible=False, rtf="")

    def started(self, path: Path, frames: int | None, sample_rate: int) -> None:
        """See Watcher."""
        of = f" ({self._n_done + 1}/{self._n_files})" if self._n_files > 1 else ""
        name = "stdin" if str(path) == "-" else path.name
        self._rate = sample_rate
        self._window = (time.perf_counter(), 0)
        self._frames = 0
        self._bars.reset(self._task, total=frames, description=f"{name}{of}", visible=True, rtf="")

    def advanced(self, frames: int) -> None:
        """See Watcher."""
        self._frames += frames
        self._bars.update(self._task, advance=frames)
        then, frames_then = self._window
        now = time.perf_counter()
        if now - then >= _RTF_WINDOW_S or not frames_then:
            rtf = (now - then) * self._rate / (self._frames - frames_then)
            self._bars.update(self._task, rtf=f"RTF {rtf:.3f}")
            self._window = (now, self._frames)

    def finished(self, result: Result) -> None:
        """See Watcher."""
        self._n_done += 1
        self._bars.update(self._task, visible=False)
        self._bars.console.print(_line(result), markup=False, highlight=False, soft_wrap=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows of words to stdout, coloured on a terminal only.

    Args:
        columns: headings; where all are empty, there is no heading.
        rows: as many words each as there are columns.
    """
    is_terminal = sys.stdout.isatty()
    console = Console(width=None if is_terminal else _PIPE_WIDTH)
    table = Table(box=None, pad_edge=False, show_header=any(columns))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(word) for word in row))
    with console.capture() as capture:
        console.print(table)
    print("\n".join(line.rstrip() for line in capture.get().splitlines()))


def _line(result: Result) -> str:
    if result.status == "failed":
        return f"failed: {result.error}"
    if result.status == "skipped":
        return f"{result.path}: done before (--overwrite does it again)"
    names = ", ".join(path.name for path in result.outputs.values())
    return (
        f"{result.path} → {names}  ({result.duration_s:.1f} s in {result.elapsed_s:.1f} s,"
        f" RTF {result.rtf:.3f})"
    )


class Steps(_Drawn):
    """A bar on stderr for work counted in steps: what, how many done, elapsed, remaining.

    Call it as (name, done, of); use it as a context manager. Off a terminal it is silent.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        console = Console(stderr=True)
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=quiet or not console.is_terminal,
        )
        self._task = self._bars.add_task("", total=1, visible=False)

    def __call__(self, name: str, done: float, of: float) -> None:
        """Show that `done` of `of` steps of `name` are done."""
        self._bars.update(self._task, description=name, completed=done, total=of, visible=True)


class TrainingTable:
    """A table on stderr that shows how a training run is doing, redrawn at every report.

    Call it with the reports of `rtmtass.training.log`; use it as a context manager.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._live = Live(console=console or Console(stderr=True), auto_refresh=False)
        self._train: dict[str, Any] = {}
        self._dev: dict[str, Any] = {}
        self._best: dict[str, Any] = {}
        self._last_skip: dict[str, Any] = {}

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop drawing; the last state stays on the screen."""
        self._live.stop()

    def __call__(self, report: dict[str, Any]) -> None:
        """Take a report and draw anew."""
        if report["kind"] == "dev":
            self._dev = report
            if report["si_sdri"] > self._best.get("si_sdri", float("-inf")):
                self._best = report
        elif report["kind"] == "skipped":
            self._last_skip = report
        else:
            self._train = report
        self._live.update(self._table(), refresh=True)

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, show_header=False)
        for name, words in (*self._train_rows(), *self._dev_rows()):
            table.add_row(Text(name, style="dim"), Text(words))
        return table

    def _train_rows(self) -> list[tuple[str, str]]:
        r, rows = self._train, []
        if r:
            rows = [
                ("done", f"{r['done']:.1%}, step {r['step']}"),
                ("time", f"{_clock(r['minutes'])}, {time_left(r)}"),
                ("loss", f"{r['loss']:.3f}"),
                ("gradient", f"{r['gradient']:.2f}"),
                ("learning rate", f"{r['rate']:.2e}"),
                ("speed", f"{r['speed']:.0f}x real time"),
            ]
        if self._last_skip or r.get("skipped"):
            skipped = max(self._last_skip.get("skipped", 0), r.get("skipped", 0))
            last = f", the last at step {self._last_skip['step']}" if self._last_skip else ""
            rows.append(("skipped", f"{skipped} batches without a finite loss{last}"))
        return rows

    def _dev_rows(self) -> list[tuple[str, str]]:
        if not self._dev:
            return [("dev", "not judged yet")]
        stems = [k.removeprefix("si_sdri_") for k in self._dev if k.startswith("si_sdri_")]
        by_stem = ", ".join(f"{s} {self._dev[f'si_sdri_{s}']:.2f}" for s in stems)
        best = f"best {self._best['si_sdri']:.2f} dB at step {self._best['step']}"
        return [
            ("dev SI-SDRi", f"{self._dev['si_sdri']:.2f} dB at step {self._dev['step']}; {best}"),
            ("", by_stem),
            ("dev SDRi", f"{self._dev['sdri']:.2f} dB"),
        ]


def time_left(report: dict[str, Any]) -> str:
    """Return the same in words."""
    minutes = minutes_left(report)
    return "no end set" if math.isinf(minutes) else f"{_clock(minutes)} left"


def _clock(minutes: float) -> str:
    return f"{int(minutes // 60)}:{int(minutes % 60):02d} h"
