"""Counts cores; needs no compiler, as training on a bare machine has none."""

from __future__ import annotations

import os


def n_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
