"""Separates many recordings in processes of their own, one for each core.

A worker runs `separate_file`, as one process alone would, on a recording at a time, and sends
what happens over a pipe. Workers are started afresh, not forked: compiled code and audio libraries
don't survive a fork. They share the machine code and the pages of the weights' files on disk. All
start at once, and before this process imports what only they need, so that many are ready nearly
as soon as one; if something has to be compiled, `compile_once` lets one of them do it.
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rtmtass.errors import RtmtassError, UsageError
from rtmtass.jit.cores import n_cores
from rtmtass.offline.plan import STREAM, Job, Result, SeparateOptions
from rtmtass.signals import Interrupted, defer_signals, on_signal

if TYPE_CHECKING:
    from rtmtass.fullband import StreamSeparator
    from rtmtass.offline.separate import ProgressListener

START_BYTES = 20_000_000
"""Bytes of recordings from which one more process, which takes a second to start, is worth it."""
_TOPOLOGY = Path("/sys/devices/system/cpu")
_STOP_S = 10.0
"""How long the workers may take to complete their files after a signal."""
_POLL_S = 0.2
_MIN_INTERVAL_S = 0.05
"""Least time between two messages about the progress of a file."""

Open = Callable[[], "StreamSeparator"]
"""Opens the model; sent to each process, so a function of a module, or a `partial` of one."""


class SeriesListener(Protocol):
    """Callbacks on the progress of recordings that are separated at the same time."""

    def progressed(self, done: float, of: float) -> None:
        """Called with the bytes of all recordings that are separated so far, and of how many."""

    def finished(self, result: Result) -> None:
        """Called when a recording is done, skipped or failed, in the order of their ends."""


class NullSeries:
    """A `SeriesListener` that does nothing."""

    def progressed(self, done: float, of: float) -> None:
        """See SeriesListener."""

    def finished(self, result: Result) -> None:
        """See SeriesListener."""


def n_physical_cores(topology: Path = _TOPOLOGY) -> int:
    """Return how many cores this process may use, each once however many threads it runs.

    Where the system doesn't report which threads share a core, it is `n_cores`.
    """
    if not hasattr(os, "sched_getaffinity"):
        return n_cores()
    siblings = [
        topology / f"cpu{number}" / "topology" / "thread_siblings_list"
        for number in os.sched_getaffinity(0)
    ]
    try:
        return len({path.read_text().strip() for path in siblings})
    except OSError:
        return n_cores()


def n_processes(jobs: Sequence[Job], cores: int) -> int:
    """Return how many processes to use if nothing else is asked for.

    Args:
        jobs: to run.
        cores: that may be used.
    """
    total = sum(size_of(job) for job in jobs)
    return max(1, min(cores, len(jobs), round(total / START_BYTES)))


def shard_of(path: Path, n: int) -> int:
    """Return which of `n` shards, from 0, a recording is in: the same for the same path."""
    digest = hashlib.sha256(os.fsencode(path)).digest()  # a CRC is too regular for similar names
    return int.from_bytes(digest[:8]) % n


def size_of(job: Job) -> int:
    """Return the bytes of a recording; 0 if it can't be read."""
    try:
        return 0 if job.path == STREAM else job.path.stat().st_size
    except OSError:
        return 0


def separate_in_parallel(
    jobs: Sequence[Job],
    options: SeparateOptions,
    open_model: Open,
    n: int,
    listener: SeriesListener,
) -> Iterator[Result]:
    """Run jobs in `n` processes; a file that fails, or a process that dies, costs that file only.

    Yields:
        the result of each job, in their order.

    Raises:
        RtmtassError: an error that isn't specific to one file, such as a `ModelError`.
        Interrupted: by Ctrl-C or SIGTERM; open outputs are complete under their .part names.
    """
    if not jobs:
        return
    crew = _Crew(jobs, options, open_model, listener)
    try:
        for _ in range(min(n, len(jobs))):
            crew.add_worker()
        for index in range(len(jobs)):
            while index not in crew.results:
                crew.receive()
            yield crew.results[index]
    except KeyboardInterrupt as stop:
        with contextlib.suppress(KeyboardInterrupt), defer_signals():  # a second one adds nothing
            crew.stop()
        raise Interrupted(crew.parts, stop) from stop
    finally:
        with defer_signals():
            crew.close()


@dataclass
class _Worker:
    """A process.

    Attributes:
        process: that runs.
        connection: our end of its pipe.
        index: of the job it runs; None while it has none.
        done: bytes of that job's recording that are separated.
    """

    process: SpawnProcess
    connection: Connection
    index: int | None = None
    done: float = 0.0


class _Crew:
    """The processes, and what they have sent.

    Attributes:
        results: by index of the job.
        parts: unfinished outputs, after a stop.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        options: SeparateOptions,
        open_model: Open,
        listener: SeriesListener,
    ) -> None:
        self._jobs, self._arguments, self._listener = jobs, (options, open_model), listener
        self._sizes = [max(1, size_of(job)) for job in jobs]
        self._total, self._finished = sum(self._sizes), 0
        self._left = deque(range(len(jobs)))
        self._workers: list[_Worker] = []
        self.results: dict[int, Result] = {}
        self.parts: list[Path] = []

    def add_worker(self) -> None:
        """Start a process and give it its first job."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, *self._arguments), daemon=True)
        # A signal between the start and the list would leave it running.
        with defer_signals(), _without_interrupt():
            process.start()
            worker = _Worker(process, ours)
            self._workers.append(worker)
        theirs.close()
        self._give(worker)

    def receive(self) -> None:
        """Wait for messages and handle them.

        Raises:
            RtmtassError: of the model, from a process.
        """
        by_connection = {worker.connection: worker for worker in self._workers}
        for connection in wait(list(by_connection), _POLL_S):
            worker = by_connection[connection]  # type: ignore[index]
            try:
                kind, value = worker.connection.recv()
            except (EOFError, OSError):
                self._replace(worker)
                continue
            if kind == "progress":
                self._advance(worker, value)
            elif kind == "result":
                self._finish(worker, value)
                self._give(worker)
            elif kind == "error":
                raise value

    def _give(self, worker: _Worker) -> None:
        worker.index = self._left.popleft() if self._left else None
        job = None if worker.index is None else self._jobs[worker.index]
        with contextlib.suppress(OSError):  # one that has died is replaced
            worker.connection.send(job)

    def _advance(self, worker: _Worker, fraction: float) -> None:
        if worker.index is not None:
            worker.done = fraction * self._sizes[worker.index]
            self._show()

    def _show(self) -> None:
        running = sum(worker.done for worker in self._workers)
        self._listener.progressed(self._finished + running, self._total)

    def _finish(self, worker: _Worker, result: Result) -> None:
        assert worker.index is not None, "a worker has a job until its result"
        self.results[worker.index] = result
        self._finished += self._sizes[worker.index]
        worker.done = 0.0
        self._show()
        self._listener.finished(result)

    def _replace(self, worker: _Worker) -> None:
        """Give up the file of a process that has died, and go on with another process."""
        self._remove(worker)
        if worker.index is None:
            return
        path = self._jobs[worker.index].path
        why = _why_ended(worker.process.exitcode)
        self._finish(worker, Result(path, "failed", error=f"{path}: its process {why}"))
        if self._left:
            self.add_worker()

    def _remove(self, worker: _Worker) -> None:
        worker.process.join(_STOP_S)
        worker.connection.close()
        self._workers.remove(worker)

    def stop(self) -> None:
        """Pass a signal on, and collect what the processes leave."""
        for worker in self._workers:
            worker.process.terminate()
        ends = time.monotonic() + _STOP_S
        while self._workers and time.monotonic() < ends:
            for worker in list(self._workers):
                try:
                    while worker.connection.poll(_POLL_S / 4):
                        kind, value = worker.connection.recv()
                        if kind == "stopped":
                            self.parts += value
                        elif kind == "result":
                            self._finish(worker, value)
                except (EOFError, OSError):
                    self._remove(worker)

    def close(self) -> None:
        """End all processes: those without a job end by themselves, others are killed."""
        for worker in self._workers:
            if worker.index is not None:
                worker.process.kill()
            worker.connection.close()
            worker.process.join(_STOP_S)
        self._workers.clear()


@contextlib.contextmanager
def _without_interrupt() -> Iterator[None]:
    """Block Ctrl-C in processes that are started within: they ignore it only when they run."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # would be started first, and unblock it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _why_ended(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was ended by signal {-code} ({_signal_name(-code)}); is there enough memory?"
    return f"ended with status {code}; please report it"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


def _work(connection: Connection, options: SeparateOptions, open_model: Open) -> None:
    """Run jobs from the parent until it sends None or is gone; the entry of a process.

    Ctrl-C reaches the whole group of a terminal: only the parent obeys it, and passes it on.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, on_signal)
    with contextlib.suppress(EOFError, OSError), contextlib.closing(connection):
        try:
            separator = open_model()
            while (job := connection.recv()) is not None:
                connection.send(("result", run_job(job, options, separator, _Sender(connection))))
        except Interrupted as stop:
            connection.send(("stopped", list(stop.parts)))
        except KeyboardInterrupt:
            connection.send(("stopped", []))
        except RtmtassError as error:
            connection.send(("error", error))


def run_job(
    job: Job, options: SeparateOptions, separator: StreamSeparator, progress: ProgressListener
) -> Result:
    """Run one job of a series; an option that isn't for this file is its error."""
    from rtmtass.offline.separate import separate_files

    try:
        (result,) = separate_files([job], options, lambda: separator, progress)
    except UsageError as error:
        result = Result(job.path, "failed", error=f"{job.path}: {error}")
    return result


class _Sender:
    """A `ProgressListener` that sends the fraction of a file that is done."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._frames, self._total, self._sent_s = 0, 0, 0.0

    def started(self, path: Path, frames: int | None, sample_rate: int) -> None:
        """See ProgressListener."""
        self._frames, self._total = 0, frames or 0

    def advanced(self, frames: int) -> None:
        """See ProgressListener."""
        self._frames += frames
        now_s = time.monotonic()
        if self._total and now_s - self._sent_s >= _MIN_INTERVAL_S:
            self._sent_s = now_s
            self._connection.send(("progress", min(1.0, self._frames / self._total)))

    def finished(self, result: Result) -> None:
        """See ProgressListener."""
