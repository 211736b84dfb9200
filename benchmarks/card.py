"""On what a number was measured: without this, no number of ours is published."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path

PACKAGES = ("rtmtass", "numpy", "numba", "scipy", "torch", "pyfftw", "librosa", "onnxruntime")


def cpu_model() -> str:
    """Return the CPU's own name for itself, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def versions() -> dict[str, str]:
    """Return the versions of the packages that our numbers depend on, of those installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine_card() -> dict[str, object]:
    """Return what must stand beside every measurement, ready for JSON."""
    try:
        load = [round(value, 2) for value in os.getloadavg()]
    except OSError:
        load = []
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions(),
        "load_1_5_15_min": load,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
