"""Runs tasks in processes on all cores and yields the results in order."""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from typing import TypeVar

from rtmtass.jit.cores import n_cores

Task = TypeVar("Task")
Result = TypeVar("Result")

_AHEAD = 3
"""Queued tasks per process; more would only fill memory with results."""


def in_order(
    function: Callable[[Task], Result], tasks: Iterable[Task], workers: int | None = None
) -> Generator[Result]:
    """Yield `function(task)` for every task, in order.

    Args:
        function: importable by name; its exceptions are raised here.
        tasks: picklable.
        workers: processes; all cores by default. With 0 or 1, runs in this process.
    """
    n = n_cores() if workers is None else workers
    if n <= 1:
        yield from map(function, tasks)
        return
    context = multiprocessing.get_context("spawn")  # torch's threads don't survive a fork
    pool = ProcessPoolExecutor(n, mp_context=context, initializer=_ignore_interrupts)
    ahead: deque[Future[Result]] = deque()
    try:
        for task in tasks:
            ahead.append(pool.submit(function, task))
            if len(ahead) >= _AHEAD * n:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _ignore_interrupts() -> None:
    """Ignore Ctrl-C in a worker: the parent process shuts the pool down."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
