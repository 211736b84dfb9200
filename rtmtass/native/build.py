"""Builds the objects of the native library: the kernels of every variant, for one target."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rtmtass import __version__
from rtmtass.jit.cores import n_cores
from rtmtass.live.limits import HIGHEST_RATE_HZ, LOWEST_RATE_HZ
from rtmtass.native import model_words, stream_words
from rtmtass.native.ir import ir_file
from rtmtass.native.targets import Target, Variant

C_SOURCES = ("rtmtass.c", "cpu.c")
"""Of the library; they include the generated `rtmtass_words.h` and `kernels.h`."""
_ENTRIES = {"check": 2, "lay_out": 5, "start": 2, "reset": 2, "apply": 3, "process": 5}
"""Arguments of `entries.ENTRIES`, whose import would load the kernels; a test compares them."""
_SHARED = "check"
"""Compiled once, for the variant that every processor of the target runs: the last."""


def n_steps(target: Target) -> int:
    """Return how often `build_objects` calls `on_step`."""
    return 2 * len(target.variants)


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
    last = target.variants[-1]

    def compile_ir(variant: Variant) -> Path:
        entries = [entry for entry in _ENTRIES if entry != _SHARED or variant is last]
        path = ir_file(variant.int8, entries, folder)
        on_step(f"kernels for {variant.name}")
        return path

    with ThreadPoolExecutor(n_cores()) as pool:
        irs = list(pool.map(compile_ir, target.variants))
    objects = []
    for variant, ir in zip(target.variants, irs, strict=True):
        path = folder / f"kernels_{variant.name}.o"
        write_object(ir, target, variant, path)
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

    def symbol(variant: str, entry: str) -> str:
        return f"rtmtass_{names[-1] if entry == _SHARED else variant}_{entry}"

    functions = dict.fromkeys(
        f"int64_t {symbol(name, entry)}({parameters(n)});\n"
        for name in names
        for entry, n in _ENTRIES.items()
    )
    members = "".join(f"    int64_t (*{e})({parameters(n)});\n" for e, n in _ENTRIES.items())
    rows = "".join(
        f'    {{"{name}", {", ".join(symbol(name, entry) for entry in _ENTRIES)}}},\n'
        for name in names
    )
    return f"""/* The kernels of every variant, the preferred one first. */
#include "rtmtass_words.h"

#include <stdint.h>

{"".join(functions)}
typedef struct {{
    const char *variant;
{members}}} rtmtass_kernels;

enum {{ RTMTASS_N_VARIANTS = {len(names)} }};

static const rtmtass_kernels RTMTASS_KERNELS[RTMTASS_N_VARIANTS] = {{
{rows}}};
"""
