"""`rtmtass separate --ray`: what it shows, and what the other options mean there."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rtmtass.cli.arguments import model_name
from rtmtass.cli.streams import print_json
from rtmtass.errors import UsageError

if TYPE_CHECKING:
    import argparse

    from rtmtass.cluster.progress import Progress
    from rtmtass.cluster.run import Machines
    from rtmtass.cluster.task import Row
    from rtmtass.cluster.work import Setting
    from rtmtass.offline.plan import SeparateOptions

_INTERVAL_S = 30.0
_NAMED = 20  # failures in the summary
_STATUSES = ("done", "skipped", "failed")


def run_on_cluster(arguments: argparse.Namespace, options: SeparateOptions) -> int:
    """Run `rtmtass separate --ray`; return 1 if a file failed."""
    from rtmtass.cluster.listing import on_all_machines, read_inputs
    from rtmtass.cluster.pool import load_ray
    from rtmtass.cluster.results import Table
    from rtmtass.cluster.run import separate_on_cluster
    from rtmtass.offline.plan import unread_files, why_unread

    machines = _machines(arguments)
    options = on_all_machines(options)
    listing = read_inputs(arguments.inputs, options, recursive=arguments.recursive)
    unread = unread_files(listing.folders, recursive=arguments.recursive)
    for note in (_repeated(listing.n_repeated), why_unread(unread) if unread else ""):
        if note and not arguments.quiet:
            print(f"rtmtass: {note}", file=sys.stderr)
    load_ray()  # a missing package is reported before anything is written
    table = Table(_results_folder(arguments, options))
    rows: list[Row] = []
    started_s = time.monotonic()
    with _progress(arguments, len(listing.tasks)) as progress:
        for row in separate_on_cluster(
            listing.tasks, _setting(arguments, options), machines, table, progress
        ):
            rows.append(row)
            if arguments.json:
                print_json(row.to_dict())
    return _report(rows, table.place, time.monotonic() - started_s, is_quiet=arguments.quiet)


def _machines(arguments: argparse.Namespace) -> Machines:
    from rtmtass.cluster.run import Machines
    from rtmtass.offline.parallel import n_physical_cores

    for name, is_given, why in (
        ("--report", arguments.report is not None, "a page is of recordings separated here"),
        ("--shard", arguments.shard is not None, "the cluster divides the recordings itself"),
        ("--jobs", arguments.jobs is not None and arguments.ray != "local", "it has one worker for"
         " each of its cores"),
    ):  # fmt: skip
        if is_given:
            raise UsageError(f"{name} doesn't go with --ray: {why}; leave it out")
    on_gpu = arguments.runtime == "torch" and arguments.device.startswith("cuda")
    return Machines(arguments.ray, arguments.jobs or n_physical_cores(), on_gpu)


def _setting(arguments: argparse.Namespace, options: SeparateOptions) -> Setting:
    from rtmtass.cli.loading import model_opener
    from rtmtass.cluster.work import Setting
    from rtmtass.offline.provenance import describe_model

    name = model_name(arguments)
    if os.path.isdir(name):
        arguments.model = name = os.path.abspath(name)
    describe = functools.partial(
        describe_model, name, arguments.precision, arguments.passes, arguments.runtime
    )
    return Setting(options, model_opener(arguments), describe)


def _results_folder(arguments: argparse.Namespace, options: SeparateOptions) -> str:
    """Return where the table goes: --results, else the outputs' folder, else the list's."""
    from rtmtass.cluster.urls import as_url, is_url

    if arguments.results is not None:
        given: str = arguments.results
        return given if is_url(given) else os.path.abspath(given)
    if options.folder is not None:
        return as_url(options.folder) or str(options.folder)
    first = arguments.inputs[0]
    folder = Path.cwd() if is_url(first) else Path(os.path.abspath(first)).parent
    return str(folder)


@contextlib.contextmanager
def _progress(arguments: argparse.Namespace, n: int) -> Iterator[Progress]:
    """Within this context, progress is shown: bars on a terminal, else lines."""
    from rtmtass.cluster.progress import NullProgress

    if arguments.quiet or not sys.stderr.isatty():
        yield NullProgress() if arguments.quiet else _LogProgress(n)
        return
    from rtmtass.cli.console import SeriesProgress

    with SeriesProgress(n) as series:
        yield series


def _repeated(n: int) -> str:
    if not n:
        return ""
    return f"{n} line{'s' * (n > 1)} of the list left out: named before"


def _report(rows: Sequence[Row], place: str, elapsed_s: float, *, is_quiet: bool) -> int:
    """Print the summary and the failures; return the exit code."""
    from rtmtass.cli.console import clock

    n = {status: sum(row.status == status for row in rows) for status in _STATUSES}
    hours = sum(row.duration_s for row in rows) / 3600
    if not is_quiet:
        speed = f", {3600 * hours / elapsed_s:.0f}x real time" if hours and elapsed_s else ""
        counts = ", ".join(f"{n[status]} {status}" for status in _STATUSES if n[status])
        sound = f"{hours:.2f} h of sound in {clock(elapsed_s)}{speed}"
        print(f"rtmtass: {counts}; {sound}; table: {place}", file=sys.stderr)
    failures = [row for row in rows if row.status == "failed"]
    if failures:
        print(f"rtmtass: {len(failures)} of {len(rows)} recordings failed:", file=sys.stderr)
    for row in failures[:_NAMED]:
        print(f"  {row.message}", file=sys.stderr)
        print(row.traceback, file=sys.stderr, end="")
    if len(failures) > _NAMED:
        print(f"  and {len(failures) - _NAMED} more: see {place}", file=sys.stderr)
    return 1 if failures else 0


class _LogProgress:
    """A `Progress` for a stderr that is no terminal: a line every 30 s."""

    def __init__(self, n_files: int) -> None:
        self._n_files, self._n_ended = n_files, 0
        self._started_s = self._printed_s = time.monotonic()
        self._noted = ""

    def note(self, text: str) -> None:
        """See `Progress`."""
        what = text.partition(",")[0]
        now_s = time.monotonic()
        if what != self._noted or now_s - self._printed_s >= _INTERVAL_S:
            self._noted, self._printed_s = what, now_s
            print(f"rtmtass: {text} …", file=sys.stderr, flush=True)

    def progressed(self, done: float, of: float) -> None:
        """See `Progress`."""
        now_s = time.monotonic()
        if not done:
            self._started_s = now_s
        if now_s - self._printed_s < _INTERVAL_S or not done:
            return
        self._printed_s = now_s
        from rtmtass.cli.console import clock

        left_s = (now_s - self._started_s) * (of - done) / done
        print(
            f"rtmtass: {self._n_ended} of {self._n_files} recordings, {done / of:.0%};"
            f" {clock(left_s)} left",
            file=sys.stderr,
            flush=True,
        )

    def ended(self, line: str) -> None:
        """See `Progress`."""
        self._n_ended += 1
