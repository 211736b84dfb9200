"""When this process started, its CPU time, and a clock that runs while the computer sleeps."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

_INTERVAL_S = 0.5
_START_FIELD = 22  # of /proc/PID/stat, from 1: proc(5)
_TICK_S = 1e-7  # of a FILETIME
_EPOCH_S = 11644473600.0  # from a FILETIME's zero, 1601, to that of time.time, 1970


def process_start_s() -> float | None:
    """Return when the process was created, on time.monotonic; None on unsupported systems.

    On Linux to about 10 ms, the length of a tick.
    """
    if sys.platform.startswith("linux"):
        age_s = _age_on_linux()
    elif sys.platform == "win32":
        age_s = _age_on_windows()
    else:
        return None
    return time.monotonic() - age_s if age_s is not None and age_s >= 0 else None


class CpuMeter:
    """The CPU time that this process uses, in cores; `share` is called from one thread.

    It is measured over `_INTERVAL_S` or more, as that of less jumps: several displays may take
    snapshots, each at its own pace.
    """

    def __init__(self) -> None:
        self._sampled = time.monotonic(), time.process_time()
        self._share = 0.0

    def share(self) -> float:
        """Return the CPU time per time, lately."""
        now_s, used_s = time.monotonic(), time.process_time()
        elapsed_s = now_s - self._sampled[0]
        if elapsed_s >= _INTERVAL_S or not self._share:
            self._share = (used_s - self._sampled[1]) / max(elapsed_s, 1e-9)
            self._sampled = now_s, used_s
        return self._share


def passed_s() -> float:
    """Return the time of a clock that includes suspend, where the system has one, in seconds."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    if sys.platform == "darwin":  # time.monotonic stops during suspend
        return time.clock_gettime(time.CLOCK_MONOTONIC)
    return time.monotonic()


def _age_on_linux() -> float | None:
    try:
        stat = Path("/proc/self/stat").read_text("utf-8", "replace")
        # The program's name, in parentheses, may contain spaces and parentheses.
        ticks = int(stat.rpartition(")")[2].split()[_START_FIELD - 3])
    except (OSError, ValueError, IndexError):
        return None
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def _age_on_windows() -> float | None:
    if sys.platform != "win32":
        return None
    import ctypes
    from ctypes import wintypes

    created, *others = (wintypes.FILETIME() for _ in range(4))
    kernel32 = ctypes.windll.kernel32
    kernel32.GetCurrentProcess.restype = wintypes.HANDLE
    process = wintypes.HANDLE(kernel32.GetCurrentProcess())
    if not kernel32.GetProcessTimes(process, *(ctypes.byref(each) for each in (created, *others))):
        return None
    ticks = (created.dwHighDateTime << 32) + created.dwLowDateTime
    return time.time() - (ticks * _TICK_S - _EPOCH_S)
