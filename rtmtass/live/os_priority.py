"""Requests real-time scheduling and locked memory from the system, and reports what it granted."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

ENGINE_PRIORITY = 60
"""Above the worker: moving samples must not wait for computing them."""
WORKER_PRIORITY = 55
OTHER_PRIORITY = 1
"""For all other threads of the process: while one of them holds the GIL, no ordinary process may
preempt it."""

_SWITCH_S = 0.0005
_LOCK_ALL_ON_FAULT = 1 | 2 | 4  # MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT
_TIME_CRITICAL = 15  # THREAD_PRIORITY_TIME_CRITICAL

_SCHEDULING_ADVICE = (
    "sudo sh -c \"printf '@audio - rtprio 95\\n@audio - memlock unlimited\\n'"
    ' > /etc/security/limits.d/95-audio.conf" && sudo usermod -aG audio $USER, and log in again'
)
_OTHER_SYSTEMS = "no command changes that here; close other programs"


@dataclass(frozen=True)
class Grant:
    """Result of one request; `advice` says what to do if it wasn't granted."""

    name: str
    is_granted: bool
    detail: str
    advice: str = ""


def request_priority(priority: int) -> Grant:
    """Request real-time priority for the calling thread."""
    name = "real-time priority"
    if sys.platform == "win32":
        kernel32 = ctypes.windll.kernel32
        is_granted = bool(kernel32.SetThreadPriority(kernel32.GetCurrentThread(), _TIME_CRITICAL))
        detail = "time critical" if is_granted else "refused"
        return Grant(name, is_granted, detail, "" if is_granted else _OTHER_SYSTEMS)
    if not hasattr(os, "sched_setscheduler"):
        return Grant(name, False, "not supported by this system", _OTHER_SYSTEMS)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except OSError as error:
        return Grant(name, False, f"SCHED_FIFO refused: {error.strerror}", _SCHEDULING_ADVICE)
    return Grant(name, True, f"SCHED_FIFO {priority}")


def drop_priority() -> None:
    """Drop to normal scheduling, so that child processes don't inherit real-time priority."""
    if hasattr(os, "SCHED_OTHER"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@contextmanager
def ordinary_priority() -> Iterator[None]:
    """Within this context, new threads don't inherit this thread's priority."""
    if not hasattr(os, "sched_setscheduler"):
        yield
        return
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    drop_priority()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, *before)


def lock_memory() -> Grant:
    """Lock the process's memory, so that none of it is swapped out."""
    name = "locked memory"
    if not sys.platform.startswith("linux"):
        return Grant(name, False, "only on Linux", _OTHER_SYSTEMS)
    import resource

    # Under a limit, locking succeeds now and lets later allocations fail.
    if os.geteuid() and resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] != resource.RLIM_INFINITY:
        return Grant(name, False, "RLIMIT_MEMLOCK is too low for mlockall", _SCHEDULING_ADVICE)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(_LOCK_ALL_ON_FAULT):
        why = os.strerror(ctypes.get_errno())
        return Grant(name, False, f"mlockall refused: {why}", _SCHEDULING_ADVICE)
    return Grant(name, True, "mlockall")


@contextmanager
def gc_disabled() -> Iterator[None]:
    """Disable garbage collection within this context; start-up is a quarter faster without it."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def realtime_interpreter() -> Iterator[Grant]:
    """Within this context: garbage collection off, and a shorter GIL switch interval."""
    before = sys.getswitchinterval()
    # No collection first: it takes 0.1 s and frees next to nothing.
    gc.freeze()
    sys.setswitchinterval(_SWITCH_S)
    try:
        with gc_disabled():
            yield Grant("garbage collection", True, "frozen and off")
    finally:
        sys.setswitchinterval(before)
        gc.unfreeze()
