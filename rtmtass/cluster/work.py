"""Separates recordings on a machine of the cluster: what `separate` does, between two copies."""

from __future__ import annotations

import contextlib
import dataclasses
import pickle
import socket
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rtmtass.cluster import urls
from rtmtass.cluster.task import Row, Task, failed, outputs_of
from rtmtass.errors import ModelError, RtmtassError
from rtmtass.fullband import StreamSeparator
from rtmtass.io.opening import open_recording
from rtmtass.offline.parallel import run_job
from rtmtass.offline.plan import Result, SeparateOptions
from rtmtass.offline.separate import NullProgress

Batch = dict[str, Any]
"""Columns, each a list or an array: as Ray Data hands rows over."""
_PREFIX = "rtmtass-"


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all workers have in common.

    Attributes:
        options: of all recordings; no path in them depends on the current folder.
        open_model: opens the model on the worker's machine.
        describe: returns what decides the stems there; see `describe_model`.
    """

    options: SeparateOptions
    open_model: Callable[[], StreamSeparator]
    describe: Callable[[], str]


class Worker:
    """One loaded model; an actor. Called with batches of pickled tasks, it yields pickled rows.

    No exception leaves it: Ray would repeat the recording, or end the job with a traceback.
    """

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._host = socket.gethostname()
        self._error: Row | None = None
        self._separator: StreamSeparator | None = None
        try:
            self._open()
        except RtmtassError as error:
            self._error = Row("", "failed", message=f"{self._host}: {error}", ends_job=True)
        except Exception as error:
            self._error = Row(
                "", "failed", ends_job=True, traceback=traceback.format_exc(),
                message=f"{self._host}: the model can't be opened ({urls.why(error)})",
            )  # fmt: skip

    def __call__(self, batch: Batch) -> Batch:
        """Return {"row": pickled rows} for {"task": pickled tasks}."""
        rows = [self.separate(pickle.loads(data)) for data in batch["task"]]
        return {"row": [pickle.dumps(row) for row in rows]}

    def separate(self, task: Task) -> Row:
        """Return the row of a task, whatever happens."""
        if self._error:
            return dataclasses.replace(self._error, name=task.name)
        started_s = time.perf_counter()
        try:
            row = self._separate(task)
        except (RtmtassError, OSError) as error:
            row = failed(task, _one_line(task, error))
        except Exception as error:
            why = f"{task.name} failed by a bug in rtmtass ({error!r}); please report it"
            row = dataclasses.replace(failed(task, why), traceback=traceback.format_exc())
        elapsed_s = time.perf_counter() - started_s
        return dataclasses.replace(row, elapsed_s=elapsed_s, host=self._host)

    def _open(self) -> None:
        here = self._setting.describe()
        if here != self._setting.options.model:
            raise ModelError(
                "the model isn't the one of the machine that started the job; put the same files"
                " and the same rtmtass on all machines"
            )
        self._separator = self._setting.open_model()

    def _separate(self, task: Task) -> Row:
        if not task.url and not task.targets:
            return self._run(task, task)
        with tempfile.TemporaryDirectory(prefix=_PREFIX) as folder:
            local = _local(task, Path(folder))
            if task.url:
                local.job.path.parent.mkdir()
                urls.download(task.url, local.job.path)
            row = self._run(task, local)
            if row.status == "done":
                for name, target in local.job.targets.items():
                    if name in task.targets:
                        urls.upload(target, task.targets[name])
        return row

    def _run(self, task: Task, local: Task) -> Row:
        """Separate a task whose files are all on this machine; the row is that of `task`."""
        assert self._separator is not None, "no error, so it is open"
        result = run_job(local.job, self._setting.options, self._separator, NullProgress())
        if result.status == "failed":
            message = result.error.replace(str(local.job.path), task.name)
            return failed(task, message, result=result)
        return Row(task.name, "done", outputs_of(task), _duration_s(result))


def _local(task: Task, folder: Path) -> Task:
    """Return a task with all its remote files in a folder of this machine."""
    path = task.job.path
    targets = {
        name: folder / name / target.name if name in task.targets else target
        for name, target in task.job.targets.items()
    }
    job = dataclasses.replace(
        task.job, path=folder / "input" / path.name if task.url else path, targets=targets
    )
    return dataclasses.replace(task, job=job)


def _duration_s(result: Result) -> float:
    """Return the length of what was separated, also where a worker that was lost has done it.

    Finished recordings aren't sent: outputs that exist were written by such a worker.
    """
    if result.status == "done":
        return result.duration_s
    try:
        with contextlib.closing(open_recording(next(iter(result.outputs.values())))) as output:
            return (output.frames or 0) / output.sample_rate
    except RtmtassError:
        return 0.0


def _one_line(task: Task, error: Exception) -> str:
    if isinstance(error, RtmtassError):
        return str(error)
    return f"{task.name} can't be copied: {error.strerror if isinstance(error, OSError) else error}"
