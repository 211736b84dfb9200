"""Asks the system for what a real-time thread needs, and reports what it was given."""

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
"""Above the worker: what moves samples must not wait for what computes them."""
WORKER_PRIORITY = 55
OTHER_PRIORITY = 1
"""For all other threads of the process: one of them holds the interpreter's lock now and then,
and while it does no ordinary program may get in its way."""

_SWITCH_S = 0.0005
_LOCK_ALL_ON_FAULT = 1 | 2 | 4  # MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT
_TIME_CRITICAL = 15  # THREAD_PRIORITY_TIME_CRITICAL

_SCHEDULING_ADVICE = (
    "sudo sh -c \"printf '@audio - rtprio 95\\n@audio - memlock unlimited\\n'"
    ' > /etc/security/limits.d/95-audio.conf" && sudo usermod -aG audio $USER, and log in again'
)
_ELSEWHERE = "nothing to type here: it helps to close other programs"


@dataclass(frozen=True)
class Grant:
    """One thing that was asked for: `advice` says what to do where it wasn't given."""

    name: str
    is_granted: bool
    detail: str
    advice: str = ""


def request_priority(priority: int) -> Grant:
    """Run the calling thread before all ordinary ones."""
    name = "real-time priority"
    if sys.platform == "win32":
        kernel32 = ctypes.windll.kernel32
        is_granted = bool(kernel32.SetThreadPriority(kernel32.GetCurrentThread(), _TIME_CRITICAL))
        detail = "time critical" if is_granted else "refused"
        return Grant(name, is_granted, detail, "" if is_granted else _ELSEWHERE)
    if not hasattr(os, "sched_setscheduler"):
        return Grant(name, False, "this system has no call for it", _ELSEWHERE)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except OSError as error:
        return Grant(name, False, f"SCHED_FIFO refused: {error.strerror}", _SCHEDULING_ADVICE)
    return Grant(name, True, f"SCHED_FIFO {priority}")


def drop_priority() -> None:
    """Run the calling thread as an ordinary one; a new process inherits what it needn't have."""
    if hasattr(os, "SCHED_OTHER"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@contextmanager
def ordinary_priority() -> Iterator[None]:
    """Within it, threads that are created get no priority from this one."""
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
    """Keep the program's memory from being swapped out."""
    name = "locked memory"
    if not sys.platform.startswith("linux"):
        return Grant(name, False, "only asked for on Linux", _ELSEWHERE)
    import resource

    # With a limit, locking succeeds at first and lets a later allocation fail.
    if os.geteuid() and resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] != resource.RLIM_INFINITY:
        return Grant(name, False, "mlockall would run into the limit", _SCHEDULING_ADVICE)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(_LOCK_ALL_ON_FAULT):
        why = os.strerror(ctypes.get_errno())
        return Grant(name, False, f"mlockall refused: {why}", _SCHEDULING_ADVICE)
    return Grant(name, True, "mlockall")


@contextmanager
def gc_disabled() -> Iterator[None]:
    """Within it no garbage is looked for; a start that loads much is a quarter faster so."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def realtime_interpreter() -> Iterator[Grant]:
    """Within it nothing is collected, and threads hand the interpreter over sooner."""
    before = sys.getswitchinterval()
    # Without collecting first: that takes a tenth of a second and frees next to nothing.
    gc.freeze()
    sys.setswitchinterval(_SWITCH_S)
    try:
        with gc_disabled():
            yield Grant("garbage collection", True, "frozen and off")
    finally:
        sys.setswitchinterval(before)
        gc.unfreeze()
