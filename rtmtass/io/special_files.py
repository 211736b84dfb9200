"""Named pipes, `<( )`, `>( )` and devices: read and written as streams, never replaced."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import stat
import threading
from io import FileIO
from pathlib import Path

from rtmtass.errors import InputError, OutputError
from rtmtass.io.part_file import why_unreadable, why_unwritable
from rtmtass.io.pipes import StreamSink, StreamSource

_STDIN = ("/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")
_STDOUT = ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")
_POLL_MS = 100


def is_special(path: Path) -> bool:
    """Whether a path is neither a plain file nor a folder, or lies where devices do."""
    if has_no_folder(path):
        return True
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def has_no_folder(path: Path) -> bool:
    """Whether a path lies under /dev or /proc, where no output can be put beside it."""
    parts = Path(os.path.abspath(path)).parts
    return parts[:2] in (("/", "dev"), ("/", "proc")) and parts[2:3] != ("shm",)


def is_stdin(path: Path) -> bool:
    """Whether a path is another name of stdin, and stdin is no plain file, which can seek."""
    return str(path) in _STDIN and not path.is_file()


def is_stdout(path: Path) -> bool:
    """Whether a path is another name of stdout."""
    return str(path) in _STDOUT


def open_special(path: Path, *, allow_truncated: bool = False) -> StreamSource:
    """Open a pipe or device that holds a WAV; waits for the writer of a named pipe.

    Raises:
        InputError: it can't be read, or holds no WAV; see `StreamSource`.
    """
    try:
        stream = _Peeked(path)
    except OSError as error:
        raise InputError(why_unreadable(path, error)) from error
    try:
        if stream.start and stream.start not in (b"RIFF", b"RF64"):
            raise InputError(
                f"{path} is a pipe without a WAV in it, and nothing else can be read from a pipe;"
                " decode into it: ffmpeg -i IN -f wav - | rtmtass separate - -o OUT"
            )
        return StreamSource(stream, str(path), allow_truncated=allow_truncated)
    except BaseException:
        stream.close()
        raise


class SpecialSink(StreamSink):
    """A `StreamSink` to a named pipe or device, as 16-bit or float WAV.

    Args:
        path: of the pipe; this waits for its reader.
        sample_rate: in Hz.
        channels: of the blocks.
        encoding: one of `encodings.RAW_ENCODINGS`.
        frames: expected length; None if unknown.
        stopped: ends a write that waits for the reader.

    Raises:
        OutputError: it can't be written, or is a disk or a terminal, or its reader has gone.
    """

    def __init__(
        self,
        path: Path,
        sample_rate: int,
        channels: int,
        encoding: str,
        *,
        frames: int | None,
        stopped: threading.Event,
    ) -> None:
        self._pipe = _Polled(path, stopped)
        try:
            super().__init__(
                self._pipe, sample_rate, channels, encoding, is_raw=False, frames=frames
            )
        except BaseException:
            self._pipe.close()
            raise

    def finalise(self) -> None:
        """Close the pipe, at which its reader has all."""
        self._pipe.close()

    def abandon(self) -> None:
        """Close the pipe; never raises."""
        with contextlib.suppress(OutputError):
            self._pipe.close()


class _Peeked:
    """A byte stream that can't seek, and its first four bytes, which `read` returns again.

    Attributes:
        start: fewer than four bytes if it ends there.
    """

    def __init__(self, path: Path) -> None:
        self._file = FileIO(path, "rb")
        self.start = b""
        while len(self.start) < 4 and (data := self._file.read(4 - len(self.start))):
            self.start += data
        self._unread = self.start

    def read(self, size: int, /) -> bytes | None:
        """Return the available bytes, up to `size`."""
        if not self._unread:
            return self._file.read(size)
        data, self._unread = self._unread[:size], self._unread[size:]
        return data

    def write(self, data: memoryview, /) -> int | None:
        """Write nothing: it is read only."""
        return None

    def close(self) -> None:
        """Close the stream."""
        self._file.close()


class _Polled:
    """The byte stream of `SpecialSink`; a write waits for the reader, but not after a stop."""

    def __init__(self, path: Path, stopped: threading.Event) -> None:
        self._path, self._stopped = path, stopped
        try:
            self._file = FileIO(os.open(path, os.O_WRONLY | getattr(os, "O_NOCTTY", 0)), "wb")
        except OSError as error:
            raise OutputError(why_unwritable(path, error)) from error
        try:
            mode = os.fstat(self._file.fileno()).st_mode
            if stat.S_ISBLK(mode) or self._file.isatty():
                kind = "a disk" if stat.S_ISBLK(mode) else "a terminal"
                reason = OSError(errno.EINVAL, f"it is {kind}")
                raise OutputError(why_unwritable(path, reason))
            if stat.S_ISFIFO(mode):
                os.set_blocking(self._file.fileno(), False)
        except BaseException:
            self._file.close()
            raise

    def read(self, size: int, /) -> bytes | None:
        """Return nothing: it is written only."""
        return b""

    def write(self, data: memoryview, /) -> int | None:
        """Write part of `data`; return the number of bytes written."""
        while not self._is_ready():
            if self._stopped.is_set():
                raise OutputError(f"{self._path} was stopped while it waited for its reader")
        try:
            return self._file.write(data)
        except BrokenPipeError:
            raise OutputError(
                f"{self._path} can't be written: its reader has ended; start it again first"
            ) from None
        except OSError as error:
            raise OutputError(why_unwritable(self._path, error)) from error

    def close(self) -> None:
        """Close the pipe; may be called twice."""
        try:
            self._file.close()
        except OSError as error:
            raise OutputError(why_unwritable(self._path, error)) from error

    def _is_ready(self) -> bool:
        if not hasattr(select, "poll"):
            return True
        poll = select.poll()
        poll.register(self._file.fileno(), select.POLLOUT)
        return bool(poll.poll(_POLL_MS))
