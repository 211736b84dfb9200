"""The page of `rtmtass separate --report`: checked before the first recording, written last."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rtmtass.cli.arguments import model_name
from rtmtass.errors import OutputError, UsageError

if TYPE_CHECKING:
    from rtmtass.offline.plan import Job, Result
    from rtmtass.report.separation import SeparationReport


def open_report(arguments: argparse.Namespace, jobs: Sequence[Job]) -> SeparationReport | None:
    """Open the page that `--report` names; None without it.

    Raises:
        UsageError: the name isn't a page's.
        OutputError: its folder can't be made, or something else has its name.
    """
    path: Path | None = arguments.report
    if path is None:
        return None
    from rtmtass import __version__
    from rtmtass.io.part_file import why_unwritable
    from rtmtass.report.separation import SeparationReport

    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{str(path)!r} isn't the name of a page; try --report page.html")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(why_unwritable(path, error, "--report")) from error
    if path.exists() and not path.is_file():
        raise OutputError(f"{path} isn't a plain file; name another with --report")
    title = jobs[0].path.name if len(jobs) == 1 else f"{len(jobs)} recordings"
    about = {
        "separated": "stdin" if title == "-" else title,
        "model": model_name(arguments),
        "rtmtass": __version__,
    }
    return SeparationReport(path, about, len(jobs))


def add_result(report: SeparationReport, result: Result) -> None:
    """Add a recording that is done, skipped or failed."""
    from rtmtass.offline.plan import STREAM

    name = "stdin" if result.path == STREAM else str(result.path)
    if result.status == "failed":
        report.add_failed(name, result.error)
    else:
        files = {track: path for track, path in result.outputs.items() if path != STREAM}
        report.add(name, files)
