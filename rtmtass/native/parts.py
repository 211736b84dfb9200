"""What an export is put together from: the kernels, the C sources, the models, the headers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rtmtass.native.targets import Target
from rtmtass.weights import Model

C_FOLDER = Path(__file__).parent / "c"
JS_FOLDER = Path(__file__).parent / "js"

_PORTS = ("plugin.c", "ports.c", "model_bytes.c")
PLUGIN_SOURCES = {
    "clap": ("plugin.c", "model_bytes.c", "clap.c"),
    "lv2": (*_PORTS, "lv2.c"),
    "ladspa": (*_PORTS, "ladspa.c"),
}
"""Files of `C_FOLDER` that make a plugin of the library, by format."""


@dataclass(frozen=True)
class Parts:
    """The rooms that an export draws on; one value, so that a test can do without a compiler.

    Attributes:
        library: names of the library's C sources.
        headers: returns the headers that Python generates, by name.
        build_objects: (target, folder, on_step) -> the kernels' object files, of all variants.
        write_model: (model, precision) -> the bytes of a `.rtm` file.
        describe_lv2: (name of the binary) -> the other files of an LV2 bundle, by name.
    """

    library: Sequence[str]
    headers: Callable[[], Mapping[str, str]]
    build_objects: Callable[[Target, Path, Callable[[str], None]], Sequence[Path]]
    write_model: Callable[[Model, str], bytes]
    describe_lv2: Callable[[str], Mapping[str, str]]


def load_parts() -> Parts:
    """Import them; only here, since they import the compiler of the kernels."""
    from rtmtass.native.build import C_SOURCES, build_objects
    from rtmtass.native.lv2_ttl import describe_lv2
    from rtmtass.native.model_file import write_model
    from rtmtass.native.model_words import c_header
    from rtmtass.native.plugin_controls import controls_header

    def headers() -> dict[str, str]:
        return {"rtmtass_words.h": c_header(), "rtmtass_controls.h": controls_header()}

    return Parts(C_SOURCES, headers, build_objects, write_model, describe_lv2)
