"""An output file in progress, which records write errors that libsndfile drops."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows, which doesn't let a second run rename an open file
    fcntl = None  # type: ignore[assignment]

from rtmtass.io.wav_header import as_plain_wav, read_header

WAV_LIMIT = 4_000_000_000
"""Size in bytes above which a WAV must be RF64; a little under the 2**32 of its size field."""


class PartFile:
    """The file object that libsndfile writes to.

    libsndfile drops some write errors, and all of those on close, and no exception can
    propagate through its C code. The first error is therefore kept in `error`.

    It is locked: a second run on the same output gets an error, and damages nothing.

    Attributes:
        error: the first write error, or None.

    Raises:
        BlockingIOError: another run is writing the file.
        OSError: the file can't be opened.
    """

    def __init__(self, path: Path) -> None:
        self._file = _open_locked(path)
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        """Write all of `data`, or nothing after an error; return the bytes written."""
        if self.error:
            return 0
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
        except OSError as error:
            self.error = error
        return len(data) - len(rest)

    def read(self, n_bytes: int) -> bytes:
        """Read up to `n_bytes` from the current position."""
        return self._file.read(n_bytes) or b""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position; return it in bytes."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._file.tell()

    def close(self) -> None:
        """Close the file; may be called twice."""
        self._file.close()

    def make_plain_wav(self) -> None:
        """Turn a finished RF64 into a plain WAV, which more programs read, if it is short enough.

        Raises:
            OSError: the header can't be rewritten.
        """
        n_bytes = self.seek(0, os.SEEK_END)
        if n_bytes > WAV_LIMIT:
            return
        self.seek(0)
        offset = read_header(self.read, "the output").data_offset
        self.seek(0)
        start = self.read(offset)
        self.seek(0)
        self._file.write(as_plain_wav(start, n_bytes))


def _open_locked(path: Path) -> BinaryIO:
    """Open a file for writing and lock it; only then empty it, as it may be another run's."""
    while True:
        # Unbuffered: a buffer would defer errors.
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            opened = os.fstat(file.fileno())
            # The other run may have renamed it to its final name before it released the lock.
            if fcntl is None or os.path.samestat(opened, os.stat(path)):
                if stat.S_ISREG(opened.st_mode):
                    file.truncate(0)
                return file
        except FileNotFoundError:
            pass
        except BaseException:
            file.close()
            raise
        file.close()


def why_unreadable(path: Path, error: OSError) -> str:
    """Return the message for a file that can't be opened: the reason, and what to do."""
    if error.errno == errno.ENOENT:
        return f"{path} doesn't exist; check the spelling: ls {path.parent}"
    if error.errno == errno.EISDIR:
        return f"{path} is a folder, a file was expected; give the files in it"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{path} can't be read: permission denied; chmod u+r it, or ask its owner"
    return f"{path} can't be read: {error.strerror}; check the disk, or copy it elsewhere"


def why_unwritable(path: Path, error: OSError) -> str:
    """Return the message for a file that can't be written: the reason, and what to do."""
    elsewhere = "name another folder with -o"
    if isinstance(error, BlockingIOError):
        return f"{path} is being written by another run; wait for it, or {elsewhere}"
    if error.errno == errno.ENOSPC:
        return f"{path} can't be written: the disk is full; free some space or {elsewhere}"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{path} can't be written: permission denied; {elsewhere}"
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return f"{path} can't be written: {path.parent} is not a folder; {elsewhere}"
    return f"{path} can't be written: {error.strerror}; {elsewhere}"
