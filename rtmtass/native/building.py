"""The minute of work of an export: packs the model, compiles kernels and C sources, links."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from rtmtass.errors import OutputError
from rtmtass.io.part_file import why_unwritable
from rtmtass.native.link import MODEL, Objects, Workshop
from rtmtass.native.parts import WORDS_HEADER, Parts
from rtmtass.native.targets import Target
from rtmtass.native.zig import Zig

_MODEL_S, _KERNEL_STEP_S, _SOURCE_S, _LINK_S = 3.0, 10.0, 1.0, 3.0
"""What the steps take, about, for a fair bar."""
_KERNEL_STEPS = 2
"""Steps that `Parts.build_objects` reports for each variant."""
_OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


class OnStep(Protocol):
    """Called with the name of a step, the percents done before it, and 100."""

    def __call__(self, name: str, done: float, of: float) -> None:
        """Show the progress."""


class Meter:
    """Turns steps, each expected to take some seconds, into percents of them all."""

    def __init__(self, on_step: OnStep, total_s: float) -> None:
        self._on_step, self._total_s = on_step, total_s
        self._done_s, self._step_s = 0.0, 0.0

    def start(self, name: str, takes_s: float) -> None:
        """End the last step, and begin the next."""
        self._done_s = min(self._done_s + self._step_s, self._total_s)
        self._step_s = takes_s
        self._on_step(name, 100 * self._done_s / self._total_s, 100)

    def steps_of(self, takes_s: float) -> Callable[[str], None]:
        """Return a function that begins steps of equal length."""
        return lambda name: self.start(name, takes_s)

    def end(self) -> None:
        """End the last step."""
        self._on_step("writing", 100, 100)


Link = Callable[[Workshop, Objects], None]
"""Makes a library, a plugin or a module of object files, in the workshop."""


def build(
    target: Target, sources: Sequence[str], options: Sequence[str], model: Callable[[], bytes],
    link: Link, built: Mapping[str, str], *, headers: Mapping[str, str], parts: Parts, zig: Zig,
    on_step: OnStep,
) -> dict[str, bytes]:  # fmt: skip
    """Build a library, a plugin or a module.

    Args:
        target: the system and processor.
        sources: names of the C sources.
        options: of the C compiler for them.
        model: packs the model; a plugin contains its bytes.
        link: links the objects of kernels and sources.
        built: names in the workshop of what to return, by another name.
        headers: texts of generated headers, by name.
        headers: texts of generated headers, by name.
        parts: the rooms that contribute.
        zig: the compiler.
        on_step: shows the progress.

    Returns:
        the contents of those of `built`, which `link` has made, or the model's.

    Raises:
        CompilerError: the compiler fails.
        OutputError: there is no space for the intermediate files.
    """
    kernels_s = _KERNEL_STEP_S * _KERNEL_STEPS * len(target.variants)
    meter = Meter(on_step, _MODEL_S + kernels_s + _SOURCE_S * len(sources) + _LINK_S)
    folder = Path(tempfile.gettempdir())
    try:
        with tempfile.TemporaryDirectory(prefix="rtmtass-") as name:
            folder = Path(name)
            meter.start("packing the model", _MODEL_S)
            shop = Workshop(folder / "c", zig, target)
            shop.add(MODEL, model())
            for header, text in {WORDS_HEADER: parts.header(), **headers}.items():
                shop.add(header, text.encode())
            (folder / "kernels").mkdir()
            kernels = parts.build_objects(
                target, folder / "kernels", meter.steps_of(_KERNEL_STEP_S)
            )
            objects: list[str | Path] = [
                *shop.compile(sources, options, meter.steps_of(_SOURCE_S)),
                *kernels,
            ]
            meter.start("linking", _LINK_S)
            link(shop, objects)
            meter.end()
            return {name: shop.read(made) for name, made in built.items()}
    except OSError as error:
        if error.errno not in _OF_THE_DISK:
            raise
        raise OutputError(why_unwritable(folder, error, "TMPDIR=")) from error
