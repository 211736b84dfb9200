"""Builds the objects of the native library: the kernels of every variant, for one target."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rtmtass import __version__
from rtmtass.live.limits import HIGHEST_RATE_HZ, LOWEST_RATE_HZ
from rtmtass.native import model_words, stream_words
from rtmtass.native.ir import ir_file
from rtmtass.native.targets import Target

C_FOLDER = Path(__file__).parent / "c"
C_SOURCES = ("rtmtass.c", "cpu.c")
"""Of the library; they include the generated `rtmtass_words.h` and `kernels.h`."""
_ENTRIES = {"check": 2, "lay_out": 5, "start": 2, "reset": 2, "apply": 3, "process": 5}
"""`entries.ENTRIES`, whose import would load the kernels; a test compares them."""


def n_steps(target: Target) -> int:
    """Return how often `build_objects` calls `on_step`."""
    return len({variant.int8 for variant in target.variants}) + len(target.variants)


def build_objects(
    target: Target, folder: Path, on_step: Callable[[str], None] = lambda step: None
) -> list[Path]:
    """Compile the kernels of all variants, and generate the headers that the C sources include.

    Args:
        target: the system and processor.
        folder: receives objects and headers; it exists.
        on_step: called after each of `n_steps`, with its name.

    Returns:
        The objects.

    Raises:
        RtmtassError: the compilation failed.
    """
    from rtmtass.native.objects import write_object

    write_headers(target, folder)
    isas = list(dict.fromkeys(variant.int8 for variant in target.variants))

    def compile_ir(isa: str) -> Path:
        path = ir_file(isa, folder)
        on_step(f"kernels for {isa}")
        return path

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        irs = dict(zip(isas, pool.map(compile_ir, isas), strict=True))
    objects = []
    for variant in target.variants:
        path = folder / f"kernels_{variant.name}.o"
        write_object(irs[variant.int8], target, variant, path)
        on_step(f"machine code for {variant.name}")
        objects.append(path)
    return objects


def write_headers(target: Target, folder: Path) -> None:
    """Write `rtmtass_words.h` and `kernels.h` to a folder."""
    constants = {
        "RELEASE": f'"{__version__}"',
        "MIN_RATE": LOWEST_RATE_HZ,
        "MAX_RATE": HIGHEST_RATE_HZ,
    }
    lines = [f"#define RTMTASS_{name} {value}\n" for name, value in constants.items()]
    text = "".join([*lines, model_words.c_header(), stream_words.c_header()])
    (folder / "rtmtass_words.h").write_text(text)
    (folder / "kernels.h").write_text(_kernels_header(target))


def _kernels_header(target: Target) -> str:
    """Return the C declarations of all kernels, and the table of variants."""

    def parameters(n: int) -> str:
        return ", ".join(["int64_t"] * n)

    names = [variant.name for variant in target.variants]
    functions = "".join(
        f"int64_t rtmtass_{name}_{entry}({parameters(n)});\n"
        for name in names
        for entry, n in _ENTRIES.items()
    )
    members = "".join(f"    int64_t (*{e})({parameters(n)});\n" for e, n in _ENTRIES.items())
    rows = "".join(
        f'    {{"{name}", {", ".join(f"rtmtass_{name}_{entry}" for entry in _ENTRIES)}}},\n'
        for name in names
    )
    return f"""/* The kernels of every variant, the preferred one first. */
#include "rtmtass_words.h"

#include <stdint.h>

{functions}
typedef struct {{
    const char *variant;
{members}}} rtmtass_kernels;

enum {{ RTMTASS_N_VARIANTS = {len(names)} }};

static const rtmtass_kernels RTMTASS_KERNELS[RTMTASS_N_VARIANTS] = {{
{rows}}};
"""
