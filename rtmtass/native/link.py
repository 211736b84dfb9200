"""Compiles the C sources with the kernels into a library, a plugin or a WebAssembly module."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from rtmtass.native.parts import C_FOLDER
from rtmtass.native.targets import Target
from rtmtass.native.zig import Zig

HEADER = "rtmtass.h"
MODEL = "model.rtm"
"""Name under which a plugin's model lies beside the sources."""

Objects = Sequence[str | Path]
"""Object files, by their names in the workshop or their whole paths."""

_OPTIONS = (
    "-std=c11", "-O2", "-g0", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror",
    "-Wno-c23-extensions", "-I.", "-I../kernels",
)  # fmt: skip
_HEAP = ("malloc", "free")
_FUNCTION = re.compile(r"^RTMTASS_API[^;]*?\b(rtmtass_\w+)\(", re.MULTILINE)


def exported_functions(header: str) -> tuple[str, ...]:
    """Return the names of the functions that the text of `rtmtass.h` declares, in its order."""
    return tuple(_FUNCTION.findall(header))


class Workshop:
    """A temporary folder with the C sources and generated headers, where a target is built.

    Everything is named relative to it, so that the same sources give the same bytes anywhere.

    Attributes:
        kernels: a folder beside it, for the objects and headers of the kernels.
    """

    def __init__(self, folder: Path, zig: Zig, target: Target) -> None:
        self._folder, self._zig, self._target = folder, zig, target
        shutil.copytree(C_FOLDER, folder, dirs_exist_ok=True)
        self.kernels = folder.parent / "kernels"
        self.kernels.mkdir()

    def add(self, name: str, data: bytes) -> None:
        """Write a file beside the sources."""
        (self._folder / name).write_bytes(data)

    def read(self, name: str) -> bytes:
        """Return what was built."""
        return (self._folder / name).read_bytes()

    def compile(
        self, sources: Sequence[str], options: Sequence[str], on_step: Callable[[str], None]
    ) -> list[str]:
        """Compile C sources, with a step after each; return the names of the object files."""
        objects = []
        for source in sources:
            objects.append(f"{source}.o")
            self._cc(*_OPTIONS, *options, "-c", source, "-o", objects[-1])
            on_step(f"compiled {source}")
        return objects

    def link_shared(self, objects: Objects, name: str) -> None:
        """Link a shared library or plugin that needs nothing but the system's C library."""
        words: list[str | Path] = ["-shared", "-s", *self._target.link_options, *objects]
        if self._target.system == "linux":
            words += [f"-Wl,-soname,{name}", "-lm"]
        elif self._target.system == "macos":
            words += [f"-Wl,-install_name,@rpath/{name}"]
        elif name == self._target.shared_name:
            words += [f"-Wl,--out-implib,{import_library(self._target)}"]
        self._cc(*words, "-o", name)

    def link_wasm(self, objects: Objects, name: str) -> None:
        """Link a module that imports nothing, and exports the library and a heap."""
        functions = exported_functions((self._folder / HEADER).read_text(encoding="utf-8"))
        exports = [f"-Wl,--export={function}" for function in (*functions, *_HEAP)]
        self._cc("-mexec-model=reactor", "-s", *exports, *objects, "-o", name)

    def archive(self, objects: Objects, name: str) -> None:
        """Write a static library."""
        self._zig.ar(["rcs", name, *objects], self._folder)

    def _cc(self, *words: str | Path) -> None:
        self._zig.cc(["-target", self._target.zig, *words], self._folder)


def import_library(target: Target) -> str:
    """Return the name of the file by which programs link to a DLL; empty but for Windows."""
    return f"lib{target.shared_name}.a" if target.shared_name.endswith(".dll") else ""
