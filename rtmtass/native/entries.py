"""The functions of the native library that C calls, compiled ahead of time.

Every argument and result is an int64, addresses among them.
"""

from __future__ import annotations

from typing import Any

from numba import types

from rtmtass.native import layout, model_check, stream

ENTRIES: dict[str, tuple[Any, int]] = {
    "check": (model_check.check, 2),
    "lay_out": (layout.lay_out, 5),
    "start": (layout.start, 2),
    "reset": (layout.reset, 2),
    "apply": (layout.apply, 3),
    "process": (stream.process, 5),
}
"""Kernels by their names in C, with the number of their arguments."""


def compile_entries() -> None:
    """Compile every entry point for its arguments."""
    for kernel, n_arguments in ENTRIES.values():
        kernel.compile((types.int64,) * n_arguments)
