"""The files of an export: all are written under `.part` names, then renamed, or none is left."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rtmtass.errors import OutputError
from rtmtass.io.part_file import PartFile, check_replaceable, part_path, why_unwritable
from rtmtass.signals import defer_signals

_RUNNABLE = (".so", ".dll", ".dylib", ".clap")


class Outputs:
    """Context manager that opens every file of an export before the work begins.

    So a folder that can't be written is found before the minute of building, and a second
    export to the same names is refused. Without `publish` everything is removed again, the
    folders that were made for it included.

    Args:
        folder: made if missing, with those above it.
        names: of the files, relative to `folder`.
        overwrite: replace files that exist.
        option: of the command line that named the folder, for messages.

    Raises:
        OutputError: a file exists, a folder can't be written or is a file, or another run
            writes the same file.
    """

    def __init__(self, folder: Path, names: Sequence[str], *, overwrite: bool, option: str) -> None:
        self._folder, self._names, self._option = folder, tuple(names), option
        self._overwrite = overwrite
        self._parts: dict[str, PartFile] = {}
        self._made: list[Path] = []

    def __enter__(self) -> Self:
        """Open all files."""
        try:
            self._check_free()
            for name in self._names:
                self._open(name)
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove what was not published."""
        self._discard()

    def publish(self, files: Mapping[str, bytes]) -> dict[Path, int]:
        """Write all files, then give them their names.

        Args:
            files: contents by name, one for each of the names.

        Returns:
            the size in bytes of each file, by path.

        Raises:
            OutputError: the disk is full, or a file can't be renamed; those before it have been.
        """
        for name in self._names:
            part = self._parts[name]
            part.write(files[name])
            part.close()
            if part.error:
                raise self._unwritable(name, part.error) from part.error
        with defer_signals():
            for name in self._names:
                self._rename(name)
        return {self._folder / name: len(files[name]) for name in self._names}

    def _rename(self, name: str) -> None:
        path = self._folder / name
        try:
            if path.suffix in _RUNNABLE:
                _make_runnable(part_path(path))
            self._parts[name].publish(path)
        except OSError as error:
            raise self._unwritable(name, error) from error

    def _check_free(self) -> None:
        if self._folder.exists() and not self._folder.is_dir():
            raise OutputError(
                f"{self._folder} is a file, a folder was expected; name another with {self._option}"
            )
        for name in self._names:
            path = self._folder / name
            try:
                check_replaceable(path)
            except OSError as error:
                raise self._unwritable(name, error) from error
            if os.path.lexists(path) and not self._overwrite:
                raise OutputError(f"{path} exists; add --overwrite to replace it")

    def _open(self, name: str) -> None:
        path = self._folder / name
        try:
            self._make_folder(path.parent)
            self._parts[name] = PartFile(part_path(path))
        except OSError as error:
            raise self._unwritable(name, error) from error

    def _make_folder(self, folder: Path) -> None:
        missing = []
        while not folder.is_dir():
            missing.append(folder)
            if folder.parent == folder:
                break
            folder = folder.parent
        for path in reversed(missing):
            if os.path.lexists(path) and not path.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, "it is not a folder")
            path.mkdir(exist_ok=True)
            self._made.append(path)

    def _unwritable(self, name: str, error: OSError) -> OutputError:
        return OutputError(why_unwritable(self._folder / name, error, self._option))

    def _discard(self) -> None:
        with defer_signals():
            for part in self._parts.values():
                part.close()
                part.remove()
            for folder in reversed(self._made):
                with contextlib.suppress(OSError):  # holds something else by now
                    folder.rmdir()


def _make_runnable(path: Path) -> None:
    """Let whoever may read a library run it too, as linkers do."""
    mode = path.stat().st_mode
    path.chmod(mode | (mode & 0o444) >> 2)
