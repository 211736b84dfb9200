"""What an export is put together from: the kernels, the C sources, the models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rtmtass.native.targets import Target
from rtmtass.weights import Model

C_FOLDER = Path(__file__).parent / "c"
JS_FOLDER = Path(__file__).parent / "js"


@dataclass(frozen=True)
class Parts:
    """The rooms that an export draws on; one value, so that a test can do without a compiler.

    Attributes:
        library: names of the library's C sources.
        n_steps: (target) -> how often `build_objects` reports a step.
        build_objects: (target, folder, on_step) -> the kernels' object files, of all variants;
            writes the headers that Python generates to the folder too. `on_step` is called
            after a step, from any thread.
        write_model: (model, precision) -> the bytes of a `.rtm` file.
    """

    library: Sequence[str]
    n_steps: Callable[[Target], int]
    build_objects: Callable[[Target, Path, Callable[[str], None]], Sequence[Path]]
    write_model: Callable[[Model, str], bytes]


def load_parts() -> Parts:
    """Import them; only here, since they import the compiler of the kernels."""
    from rtmtass.native.build import C_SOURCES, build_objects, n_steps
    from rtmtass.native.model_file import write_model

    return Parts(C_SOURCES, n_steps, build_objects, write_model)
