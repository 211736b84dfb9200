"""Reads lists of recordings and plans their outputs, local or remote."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rtmtass.cluster import urls
from rtmtass.cluster.task import Task
from rtmtass.errors import InputError, UsageError
from rtmtass.offline.parallel import size_of
from rtmtass.offline.plan import STREAM, Job, SeparateOptions, plan

LIST_SUFFIXES = (".txt", ".list", ".lst")
"""An input that ends so is a list."""
_LIST_BYTES = 1 << 30


@dataclass(frozen=True)
class Listing:
    """What is to be separated.

    Attributes:
        tasks: one for each recording.
        folders: among the inputs, for want of PyAV or ffmpeg partly unread; see `unread_files`.
        n_repeated: lines that name a recording again.
    """

    tasks: tuple[Task, ...]
    folders: tuple[Path, ...]
    n_repeated: int


def read_inputs(
    inputs: Sequence[str], options: SeparateOptions, *, recursive: bool = False
) -> Listing:
    """Return the recordings of lists, folders, paths and URLs.

    Raises:
        InputError: a list can't be read, or nothing is in it.
        OutputError, UsageError: see `plan` and `urls.check_writable`.
    """
    names = [name for text in inputs for name in _expand(text)]
    if not names:
        raise InputError(f"{', '.join(inputs)}: no recording is listed; give one path a line")
    sources = _sources(names)
    jobs = plan(list(sources), options, recursive=recursive)
    tasks = [_task(job, sources) for job in jobs]
    urls.check_writable(url for task in tasks for url in list(task.targets.values())[:1])
    folders = tuple(path for path in sources if path.is_dir())
    return Listing(tuple(tasks), folders, len(names) - len(sources))


def on_all_machines(options: SeparateOptions) -> SeparateOptions:
    """Return options whose folders don't depend on a machine's current folder; URLs as paths.

    Raises:
        UsageError: of stdout.
    """
    if STREAM in (options.folder, options.mix):
        raise UsageError(
            "a cluster can't write to stdout; name a folder with -o, or leave out --ray"
        )
    return dataclasses.replace(
        options, folder=_everywhere(options.folder), mix=_everywhere(options.mix)
    )


def _everywhere(path: Path | None) -> Path | None:
    if path is None:
        return None
    if str(path).startswith("file:/"):
        return Path(str(path).removeprefix("file:"))
    # Path has made of `s3://bucket` the path that stands for it.
    return path if urls.as_url(path) else Path(os.path.abspath(path))


def _expand(text: str) -> Iterable[str]:
    """Return the lines of a list, or an input itself."""
    if not text.lower().endswith(LIST_SUFFIXES) or os.path.isdir(text):
        return [text]
    if urls.is_url(text):
        data = urls.read(text, _LIST_BYTES)
    else:
        try:
            data = Path(text).read_bytes()
        except FileNotFoundError:
            raise InputError(f"the list {text} doesn't exist; check the path") from None
        except OSError as error:
            raise InputError(f"the list {text} can't be read: {error.strerror}") from None
    if b"\0" in data:
        raise InputError(f"{text} isn't a list of paths, one a line, but another kind of file")
    lines = os.fsdecode(data.removeprefix(b"\xef\xbb\xbf")).split("\n")
    return [line.strip("\r") for line in lines if line.strip()]


def _sources(names: Sequence[str]) -> dict[Path, str]:
    """Return the distinct recordings and folders: the path to plan with, and the name given."""
    if "-" in names:
        raise UsageError("stdin can't be sent to a cluster; name files, or leave out --ray")
    queries = Counter(urls.as_path(name) for name in dict.fromkeys(names) if urls.is_url(name))
    sources: dict[Path, str] = {}
    for name in names:
        if urls.is_url(name):
            path = urls.as_path(name)
            if queries[path] > 1:  # as /get?id=1 and /get?id=2
                path = urls.as_path(name, keeps_query=True)
        else:
            path = Path(os.path.abspath(name))
        sources.setdefault(path, name)
    return sources


def _task(job: Job, sources: dict[Path, str]) -> Task:
    name = sources.get(job.path, str(job.path))
    url = name if urls.as_url(job.path) else ""
    targets = {stem: urls.as_url(target) for stem, target in job.targets.items()}
    return Task(
        name, job, url, {stem: target for stem, target in targets.items() if target},
        max(1, size_of(job)),
    )  # fmt: skip
