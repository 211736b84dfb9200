"""What this processor can do in eight bits, found once at start."""

from __future__ import annotations

import os

import llvmlite.binding as llvm

from rtmtass.errors import UsageError

ISAS: dict[str, tuple[str, ...]] = {
    "avx512vnni": ("avx512f", "avx512bw", "avx512vnni"),
    "avxvnni": ("avx2", "avxvnni"),
    "avx2": ("avx2",),
    "neon": ("dotprod",),
    "portable": (),
}
"""Ways to sum products of bytes, best first, and the features each needs."""

VARIABLE = "RTMTASS_INT8"
"""Environment variable that forces one of `ISAS`, for tests and for comparisons."""


def features() -> frozenset[str]:
    """Return the features of this processor, by LLVM's names."""
    found = llvm.get_host_cpu_features()
    return frozenset(name for name, there in found.items() if there)


def usable_isas() -> tuple[str, ...]:
    """Return the ways this processor has, best first; the last is always there."""
    here = features()
    return tuple(name for name, needed in ISAS.items() if here.issuperset(needed))


def int8_isa() -> str:
    """Return the way to use: the best there is, or the one the environment forces.

    Raises:
        UsageError: the environment names none, or one this processor lacks.
    """
    isas = usable_isas()
    wanted = os.environ.get(VARIABLE, "")
    if not wanted:
        return isas[0]
    if wanted not in isas:
        raise UsageError(
            f"{VARIABLE}={wanted} is set, but this processor has {', '.join(isas)};"
            f" unset {VARIABLE}, or set it to one of them"
        )
    return wanted
