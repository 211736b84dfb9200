"""Describes the machine and the software that a result was measured on."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
import time
from pathlib import Path

from benchmarks.harness import FOLDER
from rtmtass.benchmark import cpu_model

PACKAGES = (
    "rtmtass", "numpy", "numba", "scipy", "torch", "onnxruntime", "openvino", "pyfftw", "librosa",
)  # fmt: skip
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
"""Set to 1 by the scripts before any import reads them, so that all candidates use one thread."""


def versions() -> dict[str, str]:
    """Return the versions of those `PACKAGES` that are installed."""
    installed = {}
    for name in PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def commit() -> str:
    """Return the commit that ran, with `+` if files of rtmtass differ from it."""
    outputs = []
    for words in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "rtmtass"]):
        command = ["git", "-C", str(FOLDER.parent), *words]
        try:
            process = subprocess.run(command, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return ""
        outputs.append(process.stdout.strip())
    return outputs[0] + ("+" if outputs[1] else "")


def governor() -> str:
    """Return the CPU frequency governor; "unknown" where it is hidden, as in virtual machines."""
    path = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    try:
        return path.read_text().strip()
    except OSError:
        return "unknown"


def busy_others() -> float | None:
    """Return how many cores other processes keep busy, measured over 0.5 s; None if unknown."""

    def used() -> tuple[float, float]:
        ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
        own_s = sum(os.times()[:4])
        return (sum(ticks[:8]) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK"), own_s

    try:
        all_before, own_before = used()
        start = time.perf_counter()
        time.sleep(0.5)
        (all_after, own_after), elapsed = used(), time.perf_counter() - start
    except (OSError, ValueError, IndexError, AttributeError):
        return None
    return round(max(0.0, all_after - all_before - (own_after - own_before)) / elapsed, 2)


def machine_card() -> dict[str, object]:
    """Return the description stored with every result; plain values for JSON."""
    try:
        load = [round(value, 2) for value in os.getloadavg()]
    except OSError:
        load = []
    affinity = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "cores_allowed": affinity,
        "governor": governor(),
        "threads": {name: os.environ.get(name, "") for name in THREADS},
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions(),
        "commit": commit(),
        "load_1_5_15_min": load,
        "cores_busy_with_others": busy_others(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
