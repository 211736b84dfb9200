"""An output file in progress: its name, its lock, and write errors that libsndfile drops."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from io import FileIO
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, which doesn't let a second run rename or remove an open file
    fcntl = None  # type: ignore[assignment]

from rtmtass.io.paths import fit_name, quoted
from rtmtass.io.wav_header import as_plain_wav, read_header

WAV_LIMIT = 4_000_000_000
"""Size in bytes above which a WAV must be RF64; a little under the 2**32 of its size field."""

_PART = ".part"
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_BINARY = getattr(os, "O_BINARY", 0)


class NotReplaceableError(OSError):
    """A path holds something else than a plain file, which must not be replaced."""


class PartFile:
    """The file object that libsndfile writes to.

    libsndfile drops some errors, and all of those on close, and no exception can
    propagate through its C code. The first error is therefore kept in `error`.

    It is locked until it has its final name: a second run on the same output gets an
    error, and damages nothing.

    Attributes:
        error: the first error of any operation, or None.

    Raises:
        BlockingIOError: another run is writing the file.
        OSError: the file can't be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock: FileIO | None = None
        self._file = _open_locked(path)
        # The lock lasts until the last descriptor of this opening is closed.
        if fcntl is not None:
            self._lock = FileIO(os.dup(self._file.fileno()), "rb")
        self._has_part_name = True
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
        """Read up to `n_bytes` from the current position; b"" after an error."""
        try:
            return self._file.read(n_bytes) or b""
        except OSError as error:
            self.error = self.error or error
            return b""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position; return it in bytes, -1 after an error."""
        try:
            return self._file.seek(offset, whence)
        except OSError as error:
            self.error = self.error or error
            return -1

    def tell(self) -> int:
        """Return the position in bytes, -1 after an error."""
        return self.seek(0, os.SEEK_CUR)

    def close(self) -> None:
        """Close the file, which stays locked; may be called twice."""
        try:
            self._file.close()
        except OSError as error:  # as of a network drive, which writes only now
            self.error = self.error or error

    def publish(self, target: Path) -> None:
        """Rename the closed file to its final name, and unlock it.

        Raises:
            NotReplaceableError: `target` is a device, a pipe or a folder.
            OSError: the file can't be renamed.
        """
        check_replaceable(target)
        os.replace(self._path, target)
        self.release()

    def remove(self) -> None:
        """Remove the closed file unless it has its final name; never raises."""
        if self._has_part_name:
            with contextlib.suppress(OSError):
                self._path.unlink()
        self.release()

    def release(self) -> None:
        """Unlock the closed file, under whatever name it has; may be called twice."""
        self._has_part_name = False
        if self._lock is not None:
            with contextlib.suppress(OSError):
                self._lock.close()

    def __del__(self) -> None:
        self.release()

    def make_plain_wav(self) -> None:
        """Turn a finished RF64 into a plain WAV, which more programs read, if it is short enough.

        An error is kept in `error`.
        """
        n_bytes = self.seek(0, os.SEEK_END)
        if n_bytes > WAV_LIMIT or self.error:
            return
        self.seek(0)
        offset = read_header(self.read, "the output").data_offset
        self.seek(0)
        start = self.read(offset)
        self.seek(0)
        if not self.error:
            self.write(as_plain_wav(start, n_bytes))


def part_path(target: Path) -> Path:
    """Return the temporary path of an output: `NAME.part`, shortened if that is too long."""
    return target.with_name(fit_name(target.name, _PART))


def check_replaceable(path: Path) -> None:
    """Check that a path is free, a plain file, or a link to one.

    A file replaces the link, never what it links to.

    Raises:
        NotReplaceableError: it is a folder, a pipe, a device or a socket.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return  # free, or a link to nothing
    if stat.S_ISREG(mode):
        return
    kind = "a folder" if stat.S_ISDIR(mode) else "not a plain file"
    raise NotReplaceableError(errno.EEXIST, f"it is {kind}; move it away")


def _open_locked(path: Path) -> FileIO:
    """Create a file and lock it; one that a killed run has left is replaced.

    It is replaced, not emptied, because it may be a link to another file.
    """
    if fcntl is None:
        path.unlink(missing_ok=True)
        return FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _BINARY, 0o666), "r+b")
    while True:
        file, is_new = _create_or_open(path)
        try:
            _lock(file)
            # The other run may have renamed or replaced it before it released the lock.
            if os.path.samestat(os.fstat(file.fileno()), os.lstat(path)):
                if is_new:
                    return file
                path.unlink()
        except FileNotFoundError:
            pass
        except BaseException:
            file.close()
            raise
        file.close()


def _create_or_open(path: Path) -> tuple[FileIO, bool]:
    """Return the unbuffered file, as a buffer would defer errors, and whether it is new."""
    flags = os.O_RDWR | _NO_FOLLOW
    while True:
        try:
            return FileIO(os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666), "r+b"), True
        except FileExistsError:
            pass
        try:
            if not stat.S_ISREG(os.lstat(path).st_mode):
                raise NotReplaceableError(
                    errno.EEXIST, f"{path.name} is not a plain file; rm {quoted(path)}"
                )
            return FileIO(os.open(path, flags), "r+b"), False
        except FileNotFoundError:
            continue


def _lock(file: FileIO) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return  # some network drives have no locks


def why_unreadable(path: Path, error: OSError) -> str:
    """Return the message for a file that can't be opened: the reason, and what to do."""
    if error.errno == errno.ENOENT:
        return f"{path} doesn't exist; check the spelling: ls {quoted(path.parent)}"
    if error.errno == errno.EISDIR:
        return f"{path} is a folder, a file was expected; give the files in it"
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            f"{path} can't be read: permission denied; chmod u+r {quoted(path)}, or ask its owner"
        )
    return f"{path} can't be read: {error.strerror}; check the disk, or copy it elsewhere"


def why_unwritable(path: Path, error: OSError, option: str = "-o") -> str:
    """Return the message for a file that can't be written: the reason, and what to do.

    Args:
        path: of the file.
        error: of the attempt.
        option: of the command line that names another folder; empty if it isn't an option.
    """
    elsewhere = f"name another folder with {option}" if option else "name another folder"
    if isinstance(error, NotReplaceableError):
        return f"{path} can't be written: {error.strerror}; or {elsewhere}"
    if isinstance(error, BlockingIOError):
        return f"{path} is being written by another run; wait for it, or {elsewhere}"
    if error.errno == errno.ENOSPC:
        return f"{path} can't be written: the disk is full; free some space or {elsewhere}"
    if error.errno == errno.ENAMETOOLONG:
        return f"{path} can't be written: the name is too long; use a shorter one, or {elsewhere}"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{path} can't be written: permission denied; {elsewhere}"
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return f"{path} can't be written: {path.parent} is not a folder; {elsewhere}"
    return f"{path} can't be written: {error.strerror}; {elsewhere}"
