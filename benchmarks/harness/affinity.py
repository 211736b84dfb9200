"""Keeps a measurement and its children on one core."""

from __future__ import annotations

import os


def stay_on_one_core() -> None:
    """Keep this process and its children on the last core it may use; the first serves interrupts.

    Every side of a comparison then has the same core, and one only.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
