"""The minute of work of an export: packs the model, compiles kernels and C sources, links."""

from __future__ import annotations

import errno
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rtmtass.errors import OutputError
from rtmtass.io.part_file import why_unwritable
from rtmtass.native.link import MODEL, Objects, Workshop
from rtmtass.native.parts import Parts
from rtmtass.native.targets import Target
from rtmtass.native.zig import Zig

_MODEL_S, _KERNEL_STEP_S, _SOURCE_S, _LINK_S = 3.0, 8.0, 1.0, 3.0
"""What the steps take, about, for a fair bar."""
_OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


class OnStep(Protocol):
    """Called with the name of a step, the percents done before it, and 100."""

    def __call__(self, name: str, done: float, of: float) -> None:
        """Show the progress."""


class Meter:
    """Turns steps, each expected to take some seconds, into percents of them all."""

    def __init__(self, on_step: OnStep, total_s: float) -> None:
        self._on_step, self._total_s, self._done_s = on_step, total_s, 0.0
        self._lock = threading.Lock()

    def show(self, name: str) -> None:
        """Show what is being done now."""
        with self._lock:
            self._on_step(name, 100 * min(self._done_s / self._total_s, 1), 100)

    def add(self, name: str, took_s: float) -> None:
        """End a step; from any thread."""
        with self._lock:
            self._done_s += took_s
        self.show(name)


Link = Callable[[Workshop, Objects], None]
"""Makes a library, a plugin or a module of object files, in the workshop."""


def build(
    folder: Path,
    target: Target, sources: Sequence[str], options: Sequence[str], model: Callable[[], bytes],
    link: Link, built: Mapping[str, str], *, headers: Mapping[str, str], parts: Parts, zig: Zig,
    on_step: OnStep,
) -> dict[str, bytes]:  # fmt: skip
    """Build a library, a plugin or a module.

    Args:
        folder: an empty one, of `temporary_folder`.
        target: the system and processor.
        sources: names of the C sources.
        options: of the C compiler for them.
        model: packs the model; a plugin contains its bytes.
        link: links the objects of kernels and sources.
        built: names in the workshop of what to return, by another name.
        headers: texts of generated headers, by name.
        parts: the rooms that contribute.
        zig: the compiler.
        on_step: shows the progress.

    Returns:
        the contents of those of `built`, which `link` has made, or the model's.

    Raises:
        CompilerError: the compiler fails.
        OutputError: there is no space for the compiler's files.
    """
    kernels_s = _KERNEL_STEP_S * parts.n_steps(target)
    meter = Meter(on_step, _MODEL_S + kernels_s + _SOURCE_S * len(sources) + _LINK_S)
    shop = Workshop(folder / "c", zig, target)
    for header, text in headers.items():
        shop.add(header, text.encode())
    meter.show("packing the model")
    shop.add(MODEL, model())
    meter.add("compiling the kernels", _MODEL_S)
    kernels = parts.build_objects(
        target, shop.kernels, lambda step: meter.add(step, _KERNEL_STEP_S)
    )
    meter.show("compiling the C sources")
    compiled = shop.compile(sources, options, lambda step: meter.add(step, _SOURCE_S))
    meter.show("linking (the first time, the system's C library is compiled)")
    link(shop, [*compiled, *kernels])
    meter.add("writing", _LINK_S)
    return {name: shop.read(made) for name, made in built.items()}


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a folder for `build`, which may still write to it when a signal ends the wait for it.

    Raises:
        OutputError: there is no space for it, or for what is written to it.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="rtmtass-", ignore_cleanup_errors=True) as name:
            yield Path(name)
    except OSError as error:
        if error.errno not in _OF_THE_DISK:
            raise
        folder = Path(tempfile.gettempdir()) / "rtmtass"
        raise OutputError(why_unwritable(folder, error, "TMPDIR=")) from error
