"""The private folder of one run of the server, and what killed runs have left of theirs."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows, which doesn't remove an open file
    fcntl = None  # type: ignore[assignment]

_PREFIX = "rtmtass-web-"
_LOCK = "lock"


class RunFolder:
    """A temporary folder that no other user can read.

    A lock in it lasts as long as the process, so that the next run can tell the folder of a
    killed run from that of one beside it.

    Attributes:
        path: of the folder.

    Raises:
        OSError: the temporary folder can't be written.
    """

    def __init__(self) -> None:
        _remove_abandoned(Path(tempfile.gettempdir()))
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self._lock = (self.path / _LOCK).open("wb")
        _lock(self._lock)

    def close(self) -> None:
        """Remove the folder with all that is in it; may be called twice."""
        self._lock.close()
        shutil.rmtree(self.path, ignore_errors=True)


def _lock(file: BinaryIO) -> None:
    """Lock a file, or raise a `BlockingIOError` if another process has."""
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _remove_abandoned(parent: Path) -> None:
    """Remove this user's folders whose process has ended; never raises."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            about = folder.lstat()
            if stat.S_ISDIR(about.st_mode) and _is_own(about) and _is_abandoned(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _is_own(about: os.stat_result) -> bool:
    return not hasattr(os, "getuid") or about.st_uid == os.getuid()


def _is_abandoned(folder: Path) -> bool:
    """Whether the lock of a folder can be had; one without a lock is just being made."""
    path = folder / _LOCK
    if fcntl is None:
        path.unlink()  # raises while the other process has it open
        return True
    with path.open("rb") as file:
        _lock(file)
    return True


def disk_problem(error: OSError) -> str:
    """Return the line for a file of ours that can't be written."""
    folder = tempfile.gettempdir()
    if error.errno == errno.ENOSPC:
        return (
            f"the disk of {folder} is full: free some space, or set TMPDIR to a folder on"
            " another disk and start again"
        )
    return f"{folder} can't be written: {error.strerror}; set TMPDIR to another folder"
