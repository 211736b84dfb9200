"""Progress bars, tables and durations on the terminal."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.live import Live
from rich.progress import (
    BarColumn,
    ProgressColumn,
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

if TYPE_CHECKING:
    from rtmtass.offline.plan import Result

_RTF_WINDOW_S = 2.0
_PIPE_WIDTH = 240  # wide enough that lines in a file or pipe don't wrap


class _BarContext:
    """Context manager that shows bars."""

    _bars: Bars

    def __enter__(self) -> Self:
        """Start drawing."""
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


def _columns() -> tuple[ProgressColumn, ...]:
    """Return the columns of recordings: name, bar, share, elapsed and remaining time."""
    return (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )


class Progress(_BarContext):
    """A ProgressListener: bar, elapsed and remaining time, and the current RTF on stderr.

    Use it as a context manager, which restores the terminal on exit.
    """

    def __init__(self, n_files: int) -> None:
        self._n_files = n_files
        self._n_done = 0
        self._bars = Bars(
            *_columns(),
            TextColumn("{task.fields[rtf]}"),
            console=Console(stderr=True),
        )
        self._task = self._bars.add_task("", total=None, visible=False, rtf="")

    def started(self, path: Path, frames: int | None, sample_rate: int) -> None:
        """See ProgressListener."""
        of = f" ({self._n_done + 1}/{self._n_files})" if self._n_files > 1 else ""
        name = "stdin" if str(path) == "-" else path.name
        self._rate = sample_rate
        self._window = (time.perf_counter(), 0)
        self._frames = 0
        self._bars.reset(self._task, total=frames, description=f"{name}{of}", visible=True, rtf="")

    def advanced(self, frames: int) -> None:
        """See ProgressListener."""
        self._frames += frames
        self._bars.update(self._task, advance=frames)
        then, frames_then = self._window
        now = time.perf_counter()
        if now - then >= _RTF_WINDOW_S or not frames_then:
            rtf = (now - then) * self._rate / (self._frames - frames_then)
            self._bars.update(self._task, rtf=f"RTF {rtf:.3f}")
            self._window = (now, self._frames)

    def finished(self, result: Result) -> None:
        """See ProgressListener."""
        self._n_done += 1
        self._bars.update(self._task, visible=False)
        self._bars.console.print(_line(result), markup=False, highlight=False, soft_wrap=True)


class SeriesProgress(_BarContext):
    """A SeriesListener: one bar over all recordings, with elapsed and remaining time.

    Use it as a context manager, which restores the terminal on exit.
    """

    def __init__(self, n_files: int) -> None:
        self._n_files, self._n_done = n_files, 0
        self._bars = Bars(
            *_columns(),
            console=Console(stderr=True),
        )
        self._task = self._bars.add_task(self._description(), total=None)

    def _description(self) -> str:
        return f"{self._n_done} of {self._n_files} recordings"

    def progressed(self, done: float, of: float) -> None:
        """See SeriesListener."""
        self._bars.update(self._task, completed=done, total=of, description=self._description())

    def finished(self, result: Result) -> None:
        """See SeriesListener."""
        self.ended(_line(result))

    def ended(self, line: str) -> None:
        """Print a line about a recording that has ended, and count it."""
        self._n_done += 1
        self._bars.update(self._task, description=self._description())
        self._bars.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """Show what is done before the first recording, instead of their number."""
        self._bars.update(self._task, description=text)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to stdout.

    Args:
        columns: headings; no heading is printed if all are empty.
        rows: one text per column each.
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
        return f"{result.path}: skipped, outputs exist (--overwrite replaces them)"
    names = ", ".join(path.name for path in result.outputs.values())
    return (
        f"{result.path} → {names}  ({result.duration_s:.1f} s in {result.elapsed_s:.1f} s,"
        f" RTF {result.rtf:.3f})"
    )


class Steps(_BarContext):
    """Progress bar on stderr for work counted in steps: name, count, elapsed and remaining time.

    Call it as (name, done, of); use it as a context manager. Silent if stderr is no terminal.
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
        """Show progress: `done` of `of` steps of `name`."""
        self._bars.update(self._task, description=name, completed=done, total=of, visible=True)


class TrainingTable:
    """Table of a training run's progress on stderr, redrawn at every report.

    Call it with the reports of `rtmtass.training.log`; use it as a context manager.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._live = Live(console=console or Console(stderr=True), auto_refresh=False)
        self._train: dict[str, Any] = {}
        self._dev: dict[str, Any] = {}
        self._best: dict[str, Any] = {}
        self._last_skip: dict[str, Any] = {}
        self._now = ""

    def __enter__(self) -> Self:
        """Start drawing."""
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop drawing; the table stays on the screen."""
        self._now = ""
        self._live.update(self._table(), refresh=True)
        self._live.stop()

    def progress(self, name: str, done: float, of: float) -> None:
        """Show slow work, `done` of `of` steps of `name`, until it is done or a report comes."""
        self._show("" if done >= of else f"{name} {done:.0f}/{of:.0f}")

    def note(self, text: str) -> None:
        """Show a line until the next report; from any thread."""
        self._show(text)

    def _show(self, text: str) -> None:
        self._now = text
        self._live.update(self._table(), refresh=True)

    def __call__(self, report: dict[str, Any]) -> None:
        """Update the table with a report."""
        if report["kind"] == "dev":
            self._dev = report
            if report["si_sdri"] > self._best.get("si_sdri", float("-inf")):
                self._best = report
        elif report["kind"] == "skipped":
            self._last_skip = report
        else:
            self._train = report
        self._show("")

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, show_header=False)
        for name, text in (*self._train_rows(), *self._dev_rows()):
            table.add_row(Text(name, style="dim"), Text(text))
        if self._now:
            table.add_row(Text("now", style="dim"), Text(self._now))
        return table

    def _train_rows(self) -> list[tuple[str, str]]:
        r, rows = self._train, []
        if r:
            rows = [
                ("done", f"{r['done']:.1%}, step {r['step']}"),
                ("time", f"{clock(60 * r['minutes'])}, {time_left(r)}"),
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
            return [("dev", "not validated yet")]
        stems = [k.removeprefix("si_sdri_") for k in self._dev if k.startswith("si_sdri_")]
        by_stem = ", ".join(f"{s} {self._dev[f'si_sdri_{s}']:.2f}" for s in stems)
        best = f"best {self._best['si_sdri']:.2f} dB at step {self._best['step']}"
        return [
            ("dev SI-SDRi", f"{self._dev['si_sdri']:.2f} dB at step {self._dev['step']}; {best}"),
            ("", by_stem),
            ("dev SDRi", f"{self._dev['sdri']:.2f} dB"),
        ]


def time_left(report: dict[str, Any]) -> str:
    """Return the time left of a training run, as text."""
    from rtmtass.training.log import minutes_left

    minutes = minutes_left(report)
    return "no end set" if math.isinf(minutes) else f"{clock(60 * minutes)} left"


def clock(seconds: float) -> str:
    """Return a duration as h:mm:ss."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
