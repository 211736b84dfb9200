"""A file under construction, which remembers every write that failed."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from rtmtass.io.wav_header import as_plain_wav, read_header

WAV_LIMIT = 4_000_000_000
"""Bytes from which on a WAV must be an RF64; a little under the 2**32 of its size field."""


class PartFile:
    """The bytes beneath an encoder.

    libsndfile drops some write errors, at the close all of them, and no exception
    can pass through its C code: so the first one waits in `error` to be asked for.

    Raises:
        OSError: the file can't be opened.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b", buffering=0)  # a buffer would fail later, elsewhere
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        """Append all of `data`; after a failure, nothing."""
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
        """Return up to `n_bytes` from where the file stands."""
        return self._file.read(n_bytes) or b""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move, and return the new position in bytes."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._file.tell()

    def close(self) -> None:
        """Close; may be called twice."""
        self._file.close()

    def make_plain_wav(self) -> None:
        """Turn a finished RF64 into a plain WAV, which more programs read, if it is short enough.

        Raises:
            OSError: the header can't be written again.
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


def why_unreadable(path: Path, error: OSError) -> str:
    """Say why `path` couldn't be opened, and what to do."""
    if error.errno == errno.ENOENT:
        return f"{path} doesn't exist; check the spelling: ls {path.parent}"
    if error.errno == errno.EISDIR:
        return f"{path} is a folder, a file was expected; give the files in it"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{path} may not be read by you; chmod u+r it, or ask its owner"
    return f"{path} can't be read: {error.strerror}; check the disk, or copy it elsewhere"


def why_unwritable(path: Path, error: OSError) -> str:
    """Say why `path` couldn't be written, and what to do."""
    elsewhere = "name another folder with -o"
    if error.errno == errno.ENOSPC:
        return f"{path} can't be written: the disk is full; free some space or {elsewhere}"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{path} may not be written by you; {elsewhere}"
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return f"{path} can't be written: {path.parent} is no folder; {elsewhere}"
    return f"{path} can't be written: {error.strerror}; {elsewhere}"
