"""Makes operations of output files fail, as full disks and lost network drives do."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from io import FileIO
from typing import Any

import rtmtass.io.part_file as part_file

Fails = Callable[[int, str, str], bool]
"""Called with the number of the operation from 0, its name and the file's path."""


class Failing(FileIO):
    """A file whose operations fail where `fails` says so; `close` closes it nevertheless."""

    fails: Fails
    n_operations: int
    code = errno.ENOSPC

    def _count(self, operation: str) -> None:
        n = Failing.n_operations
        Failing.n_operations += 1
        path = os.readlink(f"/proc/self/fd/{self.fileno()}")
        if Failing.fails(n, operation, path):
            raise OSError(Failing.code, os.strerror(Failing.code))

    def write(self, data: Any, /) -> int:
        self._count("write")
        return super().write(data)

    def read(self, size: int | None = -1, /) -> Any:
        self._count("read")
        return super().read(-1 if size is None else size)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._count("seek")
        return super().seek(offset, whence)

    def close(self) -> None:
        if self.closed:
            return
        try:
            self._count("close")
        finally:
            super().close()


def fail(fails: Fails, code: int = errno.ENOSPC) -> None:
    """Let all files that `PartFile` opens from now on fail so."""
    Failing.fails, Failing.n_operations, Failing.code = staticmethod(fails), 0, code
    part_file.FileIO = Failing  # type: ignore[misc]


class Once:
    """Fails the operation of a number, and no other.

    Attributes:
        failed: its name, or "" if there were fewer operations.
    """

    def __init__(self, at: int) -> None:
        self._at = at
        self.failed = ""

    def __call__(self, n: int, operation: str, path: str) -> bool:
        """See `Fails`."""
        if n == self._at:
            self.failed = operation
        return n == self._at
