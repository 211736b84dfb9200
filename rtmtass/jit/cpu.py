"""Detects the int8 instruction set of this processor."""

from __future__ import annotations

import os

import llvmlite.binding as llvm

from rtmtass.errors import UsageError

ISAS: dict[str, tuple[str, ...]] = {
    "avx512vnni": ("avx512f", "avx512bw", "avx512vnni"),
    "avxvnni": ("avx2", "avxvnni"),
    "avx2": ("avx2",),
    "neon": ("dotprod",),
    "sse2": ("sse2",),
    "wasm": ("simd128",),
    "portable": (),
}
"""Instruction sets with an int8 dot product, fastest first, and the features each needs."""

VARIABLE = "RTMTASS_INT8"
"""Environment variable that forces one of `ISAS`, for tests and benchmarks."""

_compiled_for = ""


def compile_for(isa: str) -> None:
    """Use one of `ISAS` that this processor may lack, to compile for another processor.

    Call it before any kernel is imported.
    """
    global _compiled_for
    _compiled_for = isa


def features() -> frozenset[str]:
    """Return this processor's features, by LLVM's names."""
    flags = llvm.get_host_cpu_features()
    return frozenset(name for name, is_present in flags.items() if is_present)


def usable_isas() -> tuple[str, ...]:
    """Return the usable members of `ISAS`, fastest first; "portable" always is."""
    available = features()
    return tuple(name for name, needed in ISAS.items() if available.issuperset(needed))


def int8_isa() -> str:
    """Return the instruction set to use: the fastest, or one forced by `compile_for` or `VARIABLE`.

    Raises:
        UsageError: the environment forces one that is unknown or that this processor lacks.
    """
    if _compiled_for:
        return _compiled_for
    isas = usable_isas()
    forced = os.environ.get(VARIABLE, "")
    if not forced:
        return isas[0]
    if forced not in isas:
        raise UsageError(
            f"{VARIABLE}={forced} is set, but this processor supports {', '.join(isas)};"
            f" unset {VARIABLE}, or set it to one of them"
        )
    return forced
