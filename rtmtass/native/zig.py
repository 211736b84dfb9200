"""The C compiler and linker of the wheel `ziglang`, which builds for every target."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from rtmtass.errors import MissingPartError, OutputError
from rtmtass.io.part_file import why_unwritable

OLDEST = (0, 14)
"""First version whose C compiler has #embed, by which a plugin contains its model."""
INSTALL = 'pip install "rtmtass[native]"'

_LAST_LINES = 12
_FULL = re.compile(r"no space left|NoSpaceLeft", re.IGNORECASE)
_CACHES = ("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR")


class CompilerError(MissingPartError):
    """The compiler failed on sources that we ship: it is damaged, or of a version we don't know."""


class Zig:
    """The compiler, once found.

    Attributes:
        version: of the wheel.

    Raises:
        MissingPartError: ziglang isn't installed, or is older than `OLDEST`.
        OutputError: there is no folder for its cache.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("ziglang") is None:
            raise MissingPartError(
                f"building native code needs the compiler package ziglang: {INSTALL}"
            )
        self.version = metadata.version("ziglang")
        if _numbers(self.version) < OLDEST:
            oldest = ".".join(map(str, OLDEST))
            raise MissingPartError(
                f"ziglang {self.version} is too old, {oldest} or newer is needed:"
                f' pip install --upgrade "ziglang>={oldest}"'
            )
        self._environment = {**os.environ, **_caches(os.environ)}

    def cc(self, words: Sequence[str | Path], folder: Path) -> None:
        """Compile or link.

        Args:
            words: the command line of the C compiler.
            folder: to run it in.

        Raises:
            CompilerError: it fails; the message ends with the last lines of its output.
            OutputError: the disk is full.
        """
        self._run("cc", words, folder)

    def ar(self, words: Sequence[str | Path], folder: Path) -> None:
        """Write a static library; as `cc`."""
        self._run("ar", words, folder)

    def _run(self, tool: str, words: Sequence[str | Path], folder: Path) -> None:
        command = [sys.executable, "-m", "ziglang", tool, *map(str, words)]
        process = subprocess.run(
            command, cwd=folder, env=self._environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            check=False,
        )  # fmt: skip
        if process.returncode == 0:
            return
        said = process.stdout.strip().splitlines()[-_LAST_LINES:]
        if any(_FULL.search(line) for line in said):
            raise OutputError(
                f"{folder} or {self._environment[_CACHES[0]]} can't be written: the disk is full;"
                " free some space, or set TMPDIR and XDG_CACHE_HOME to folders on another disk"
            )
        raise CompilerError(
            f"ziglang {self.version} failed ({tool}, exit code {process.returncode}); install it"
            " again: pip install --force-reinstall ziglang\n"
            + "\n".join(f"  {line}" for line in said)
        )


def _numbers(version: str) -> tuple[int, ...]:
    """Return the first two numbers of a version; what follows doesn't matter here."""
    return tuple(int(word) for word in re.findall(r"\d+", version)[: len(OLDEST)])


def _caches(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the cache folders that the environment doesn't name, created.

    Zig keeps what it compiles of libc there, so that a second export takes seconds.
    """
    base = environment.get("XDG_CACHE_HOME") or environment.get("LOCALAPPDATA")
    try:
        folder = (Path(base) if base else Path.home() / ".cache").absolute() / "rtmtass" / "zig"
        if not all(environment.get(name) for name in _CACHES):
            folder.mkdir(parents=True, exist_ok=True)
    except RuntimeError:  # no home directory, as in some containers
        raise OutputError(
            "the compiler needs a cache folder, and this user has no home folder; set"
            " XDG_CACHE_HOME to one that can be written"
        ) from None
    except OSError as error:
        reason = why_unwritable(folder, error, "XDG_CACHE_HOME=")
        raise OutputError(f"the compiler's cache: {reason}") from error
    return {name: str(folder) for name in _CACHES if not environment.get(name)}
