"""A job from its list to its table of results."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rtmtass.cluster.done import divide
from rtmtass.cluster.pool import connect, run_tasks
from rtmtass.cluster.progress import Progress
from rtmtass.cluster.results import Table
from rtmtass.cluster.task import Row, Task
from rtmtass.cluster.work import Setting
from rtmtass.errors import ModelError
from rtmtass.signals import Interrupted, defer_signals


@dataclass(frozen=True)
class Machines:
    """Where a job runs.

    Attributes:
        address: see `pool.connect`.
        n_cpus: of a cluster of this machine alone.
        on_gpu: each model takes a part of a GPU.
    """

    address: str
    n_cpus: int = 1
    on_gpu: bool = False


def separate_on_cluster(
    tasks: Sequence[Task],
    setting: Setting,
    machines: Machines,
    table: Table,
    progress: Progress,
) -> Iterator[Row]:
    """Run tasks; a recording that fails, or a machine that is lost, doesn't end the job.

    Args:
        tasks: one for each recording.
        setting: of all workers.
        machines: to run on; they are not asked for if all recordings are done.
        table: gets every row, and is complete when this ends, however it ends.
        progress: shown meanwhile.

    Yields:
        the row of each: first those that are done already, then in the order of their ends.

    Raises:
        RtmtassError: an error that isn't specific to one file, such as a `ModelError`.
        Interrupted: by Ctrl-C or SIGTERM.
    """
    n_done = 0
    try:
        left, rows = divide(
            tasks,
            setting.options,
            lambda n: progress.note(f"looking for outputs, {n} of {len(tasks)}"),
        )
        for row in rows:
            _tell(row, table, progress)
            yield row
        if left:
            for row in _run(left, setting, machines, progress):
                n_done += row.status == "done"
                _tell(row, table, progress)
                yield row
    except KeyboardInterrupt as stop:
        ended = Interrupted([], stop)
        ended.finished = n_done
        raise ended from stop
    finally:
        with defer_signals():
            table.close()


def _tell(row: Row, table: Table, progress: Progress) -> None:
    table.add([row])
    progress.ended(row.line())


def _run(
    tasks: Sequence[Task], setting: Setting, machines: Machines, progress: Progress
) -> Iterator[Row]:
    """Yield the rows of tasks whose outputs don't exist yet."""
    sizes = {task.name: task.size for task in tasks}
    done, of = 0, sum(sizes.values())
    progress.note("starting Ray" if machines.address == "local" else "connecting to Ray")
    with connect(machines.address, machines.n_cpus) as ray:
        progress.progressed(done, of)
        running = run_tasks(ray, tasks, setting, on_gpu=machines.on_gpu)
        with contextlib.closing(running):
            for row in running:
                if row.ends_job:
                    raise ModelError("\n".join(filter(None, (row.message, row.traceback))))
                yield row
                done += sizes[row.name]
                progress.progressed(done, of)
