"""Pins a benchmark and its child processes to one core."""

from __future__ import annotations

import os


def stay_on_one_core() -> None:
    """Pin this process and its children to the last core they may use.

    All candidates then run on the same single core. The first core is avoided because it
    usually serves interrupts.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
