"""Finds the recordings whose outputs exist, before anything is sent to a machine.

The outputs are asked, not the results of an earlier run: a table may be lost, or of other
settings, and its files may have been deleted since.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rtmtass.cluster import urls
from rtmtass.cluster.task import Row, Task, failed, outputs_of
from rtmtass.errors import InputError, OutputError
from rtmtass.offline.plan import SeparateOptions
from rtmtass.offline.provenance import ends_of, outputs_to_write, why_unfit

_THREADS = 32
"""They wait for disks and servers most of the time."""


def divide(
    tasks: Sequence[Task], options: SeparateOptions, advanced: Callable[[int], None]
) -> tuple[list[Task], list[Row]]:
    """Return the tasks that are left, the largest first, and the rows of the others.

    Args:
        tasks: all.
        options: of all.
        advanced: called with the number of tasks looked at so far.
    """
    left, rows = [], []
    for i, found in enumerate(_look_at(tasks, options), 1):
        if isinstance(found, Row):
            rows.append(found)
        else:
            left.append(found)
        advanced(i)
    # So that no machine is left alone with a long one at the end; the order is stable.
    left.sort(key=lambda task: -task.size)
    return left, rows


def _look_at(tasks: Sequence[Task], options: SeparateOptions) -> Iterator[Task | Row]:
    look = functools.partial(_look_at_one, options=options)
    pool = ThreadPoolExecutor(_THREADS)
    try:
        yield from pool.map(look, tasks)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _look_at_one(task: Task, options: SeparateOptions) -> Task | Row:
    if task.job.error:
        return failed(task, task.job.error)
    try:
        if not task.url and not task.targets:
            missing = outputs_to_write(task.job, options)
        else:
            size = urls.size(task.url) if task.url else None
            task = dataclasses.replace(task, size=size or task.size)
            missing = _missing(task, options, size)
    except (InputError, OutputError) as error:
        return failed(task, str(error))
    if not missing:
        return Row(task.name, "skipped", outputs_of(task))
    # Local ones that exist are left out by `separate_file`, which compares the recording too.
    targets = {
        name: target
        for name, target in task.job.targets.items()
        if name in missing or name not in task.targets
    }
    return dataclasses.replace(task, job=dataclasses.replace(task.job, targets=targets))


def _missing(task: Task, options: SeparateOptions, size: int | None) -> dict[str, Path]:
    """Return the targets that don't exist yet, or all with `overwrite`.

    Raises:
        OutputError: one exists that is of another input or of other settings.
    """
    missing = {}
    for name, target in task.job.targets.items():
        url = task.targets.get(name)
        is_there = not options.overwrite and (urls.exists(url) if url else target.exists())
        if not is_there:
            missing[name] = target
            continue
        reason = why_unfit(urls.ends(url) if url else ends_of(target), name, options, size)
        if reason:
            raise OutputError(
                f"{url or target} exists and {reason}; add --overwrite to replace it,"
                " or name another folder with -o"
            )
    return missing
