"""What goes to a worker and what comes back: a name and a few numbers, never sound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rtmtass.offline.plan import Job, Result


@dataclass(frozen=True)
class Task:
    """One recording to separate.

    Attributes:
        name: as given by the user.
        job: of `plan`; its paths are local ones or those of `urls.as_path`.
        url: of the recording; "" for a local one.
        targets: URL of each output that is remote.
        size: in bytes; 1 if it isn't known.
    """

    name: str
    job: Job
    url: str = ""
    targets: Mapping[str, str] = field(default_factory=dict)
    size: int = 1


@dataclass(frozen=True)
class Row:
    """The outcome of one recording.

    Attributes:
        name: as given by the user.
        status: "done", "skipped" or "failed".
        outputs: paths and URLs, by stem or `MIX`.
        duration_s: length of the recording in seconds; 0 if it failed or was skipped.
        elapsed_s: time that a worker took for it, with copying, in seconds.
        message: why it failed, or "".
        host: the machine; "" if it wasn't sent to one.
        traceback: of a bug in rtmtass, or "".
        ends_job: the error concerns all recordings, as a model that isn't there.
    """

    name: str
    status: str
    outputs: Mapping[str, str] = field(default_factory=dict)
    duration_s: float = 0.0
    elapsed_s: float = 0.0
    message: str = ""
    host: str = ""
    traceback: str = ""
    ends_job: bool = False

    def line(self) -> str:
        """Return what the progress display prints when the recording has ended."""
        if self.status == "failed":
            return f"failed: {self.message}"
        if self.status == "skipped":
            return f"{self.name}: skipped, outputs exist (--overwrite replaces them)"
        names = ", ".join(text.rpartition("/")[2] for text in self.outputs.values())
        took = f"{self.duration_s:.1f} s in {self.elapsed_s:.1f} s"
        return f"{self.name} → {names}  ({took}, {self.host})"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, the same keys for every status: a row of the Parquet file."""
        return {
            "path": self.name,
            "status": self.status,
            "seconds": round(self.duration_s, 6),
            "elapsed_s": round(self.elapsed_s, 3),
            "message": self.message,
            "host": self.host,
            "outputs": [{"stem": stem, "path": path} for stem, path in self.outputs.items()],
        }


def outputs_of(task: Task) -> dict[str, str]:
    """Return the paths and URLs of a task's outputs."""
    return {
        name: task.targets.get(name) or str(target) for name, target in task.job.targets.items()
    }


def failed(task: Task, message: str, *, host: str = "", result: Result | None = None) -> Row:
    """Return the row of a recording that can't be separated."""
    trace = result.traceback if result else ""
    return Row(task.name, "failed", message=message, host=host, traceback=trace)
