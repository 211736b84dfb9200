"""What an export is put together from: the kernels, the C sources, the models, the headers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rtmtass.native.targets import Target
from rtmtass.weights import Model

C_FOLDER = Path(__file__).parent / "c"
JS_FOLDER = Path(__file__).parent / "js"
WORDS_HEADER = "rtmtass_words.h"


@dataclass(frozen=True)
class Parts:
    """The rooms that an export draws on; one value, so that a test can do without a compiler.

    Attributes:
        library: names of the library's C sources.
        header: returns `rtmtass_words.h`, which Python generates.
        build_objects: (target, folder, on_step) -> the kernels' object files, of all variants.
        write_model: (model, precision) -> the bytes of a `.rtm` file.
    """

    library: Sequence[str]
    header: Callable[[], str]
    build_objects: Callable[[Target, Path, Callable[[str], None]], Sequence[Path]]
    write_model: Callable[[Model, str], bytes]


def load_parts() -> Parts:
    """Import them; only here, since they import the compiler of the kernels."""
    from rtmtass.native.build import C_SOURCES, build_objects
    from rtmtass.native.model_file import c_header, write_model

    return Parts(C_SOURCES, c_header, build_objects, write_model)
