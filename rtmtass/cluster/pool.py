"""Runs tasks on a Ray cluster: one actor is one loaded model, fed by Ray Data.

A machine that is lost costs nothing but time: its actors start again where there is room, and
repeat what they had. By default Ray Data would also repeat a recording that ends its worker, as by
its size, for ever. Here it gives up after two tries, and what hasn't come back in one round is sent
again in the next, until rounds bring nothing.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import pickle
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Generator, Iterator, Sequence
from typing import Any, TextIO

from rtmtass.cluster.task import Row, Task, failed
from rtmtass.cluster.work import Batch, Setting, Worker
from rtmtass.errors import DeviceError, InputError, MissingPartError, UsageError

FRUITLESS = 2
"""Rounds in a row without a row, after which the recordings that are left are given up."""
_TRIES = 2
"""Of a recording in a round. With one, what is sent to an actor that starts again fails at once."""
_BLOCKS = 10_000
"""Most blocks of rows; a block goes to a worker as a whole, and each costs the driver a little."""
_GPU_SHARE = 0.25
"""Of a GPU for one model: the network is small, and reading and writing take most of the time."""
_REACH_S = 5.0
_STORE_BYTES = 80 << 20
"""Object store of a cluster of this machine alone: only paths and results are in it."""


def load_ray() -> Any:
    """Return the module `ray`, with `ray.data`.

    Raises:
        MissingPartError: it isn't installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to anybody
    try:
        import ray
        import ray.data
    except ImportError:
        raise MissingPartError("--ray needs Ray: pip install 'rtmtass[ray]'") from None
    logger = logging.getLogger("ray.data")  # its file in Ray's folder of logs stays
    logger.handlers = [h for h in logger.handlers if not isinstance(h, logging.StreamHandler)]
    return ray


@contextlib.contextmanager
def connect(address: str, n_cpus: int) -> Iterator[Any]:
    """Within this context a cluster is connected; its value is the module `ray`.

    Args:
        address: HOST:PORT of a cluster that runs, auto for the one of this machine, or local for
            one that is started here and ended with the context.
        n_cpus: of a local one.

    Raises:
        InputError: there is no cluster at the address.
        MissingPartError: Ray isn't installed.
        UsageError: the address is of another kind.
    """
    _check(address)
    ray = load_ray()
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        if address == "local":
            ray.init(
                address="local", num_cpus=n_cpus, include_dashboard=False,
                object_store_memory=_STORE_BYTES, **quiet,
            )  # fmt: skip
        else:
            ray.init(address=address, **quiet)
        for number, handler in handlers.items():  # Ray sets one that ends the process
            signal.signal(number, handler)
    except Exception as error:  # of many kinds
        raise InputError(_why_unreachable(address, error)) from None
    stdout = sys.stdout
    sys.stdout = _WithoutRay(stdout)
    try:
        yield ray
    finally:
        with contextlib.redirect_stdout(
            io.StringIO()
        ):  # what it kept back is printed by this thread
            ray.shutdown()
        sys.stdout = stdout


class _WithoutRay:
    """Stdout without what Ray's threads print, as that a machine was lost: rows go there.

    Nothing in Ray's interface turns that off; it is in Ray's logs too.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._thread = stream, threading.get_ident()

    def write(self, text: str) -> int:
        """Write text of the thread that made this; drop that of others."""
        return self._stream.write(text) if threading.get_ident() == self._thread else len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _check(address: str) -> None:
    if address in ("auto", "local"):
        return
    host, colon, port = address.rpartition(":")
    if "://" in address or not colon or not port.isdecimal():
        raise UsageError(
            f"--ray {address} isn't local, auto or HOST:PORT, as in --ray 10.0.0.1:6379; run it on"
            " a machine of the cluster"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), _REACH_S).close()
    except (OSError, OverflowError) as error:
        raise InputError(_why_unreachable(address, error)) from None


def _why_unreachable(address: str, error: Exception) -> str:
    if address == "local":
        return f"Ray can't be started here: {_first_line(error)}"
    if address == "auto":
        return (
            "no Ray cluster runs on this machine; start one with: ray start --head, or use"
            " --ray local"
        )
    return (
        f"no Ray cluster can be reached at {address} ({_first_line(error)}); start one there with:"
        f" ray start --head --port {address.rpartition(':')[2]}, or use --ray local"
    )


def _first_line(error: Exception) -> str:
    text = (getattr(error, "strerror", None) or str(error)).strip()
    return text.splitlines()[0] if text else type(error).__name__


def run_tasks(
    ray: Any, tasks: Sequence[Task], setting: Setting, *, on_gpu: bool
) -> Generator[Row, None, None]:
    """Run tasks; yield the row of each, in the order of their ends.

    Raises:
        DeviceError: no machine has what a worker needs, or Ray gave up.
    """
    left = {task.name: task for task in tasks}
    resources = {"num_cpus": 1.0, "num_gpus": _GPU_SHARE if on_gpu else 0.0}
    _check_resources(ray, resources)
    in_flight = 2  # each worker has its next recording waiting
    fruitless = 0
    while left and fruitless < FRUITLESS:
        n_left = len(left)
        for row in _run_round(ray, list(left.values()), setting, resources, in_flight):
            if row.ends_job:
                yield row
                return
            if left.pop(row.name, None):
                yield row
        in_flight = 1  # none is lost with another that ends its worker
        fruitless = fruitless + 1 if len(left) == n_left else 0
    for task in left.values():
        yield failed(
            task,
            f"{task.name}: its worker was lost each time; is there enough memory on the machines?",
        )


def _check_resources(ray: Any, needed: dict[str, float]) -> None:
    there = ray.cluster_resources()
    for key, name, word in (("num_cpus", "CPU", "core"), ("num_gpus", "GPU", "GPU")):
        if there.get(name, 0.0) < needed[key]:
            raise DeviceError(
                f"the cluster has no {word} for a model; its machines have to be started with"
                f" one: ray start --num-{name.lower()}s 1"
            )


def _run_round(
    ray: Any, tasks: Sequence[Task], setting: Setting, resources: dict[str, float], in_flight: int
) -> Iterator[Row]:
    """Send each task once, up to `in_flight` to a worker; yield the rows that come back."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1  # a lost worker costs this round its block only
    n_actors = _n_actors(ray, len(tasks), resources)
    rows = [{"task": pickle.dumps(task)} for task in tasks]
    paths = ray.data.from_items(rows, override_num_blocks=min(len(rows), _BLOCKS))
    with warnings.catch_warnings():  # the last two options are to be named otherwise in Ray 2.64
        warnings.simplefilter("ignore", DeprecationWarning)
        results = paths.map_batches(
            Worker,
            fn_constructor_args=(setting,),
            batch_size=1,
            batch_format="numpy",
            zero_copy_batch=True,
            compute=ray.data.ActorPoolStrategy(
                min_size=1,
                max_size=n_actors,
                initial_size=n_actors,
                max_tasks_in_flight_per_actor=in_flight,
            ),
            **resources,
            max_restarts=-1,  # a worker that ends is started again where there is room
            max_task_retries=_TRIES - 1,
        )
    batches = iter(results.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0))
    while (batch := _next(batches)) is not None:
        for data in batch.get("row", ()):
            yield pickle.loads(data)


def _next(batches: Iterator[Batch]) -> Batch | None:
    """Return the next batch; None at the end.

    Raises:
        DeviceError: Ray gave up, as where a machine can't import what a worker needs.
    """
    try:
        return next(batches, None)
    except Exception as error:
        if not type(error).__module__.startswith("ray."):
            raise
        last = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise DeviceError(
            f"the Ray cluster gave up: {last[0].strip()}; all its machines need the same Python,"
            " Ray and rtmtass as this one"
        ) from None


def _n_actors(ray: Any, n_tasks: int, resources: dict[str, float]) -> int:
    """Return how many workers to use: as many as the cluster can hold now, or there is work for."""
    there = ray.cluster_resources()
    room = min(
        int(there.get(name, 0.0) / resources[key])
        for key, name in (("num_cpus", "CPU"), ("num_gpus", "GPU"))
        if resources[key]
    )
    return max(1, min(n_tasks, room))
