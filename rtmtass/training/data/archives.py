"""Unpacks the recordings of downloaded archives, none of which is trusted.

Only audio files and the zip files around them are written, as plain files, each inside its
folder. Links and devices in an archive are skipped, and the sum of all sizes is bounded.
"""

from __future__ import annotations

import errno
import gzip
import io
import lzma
import os
import struct
import subprocess
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, BinaryIO, cast

from rtmtass.errors import DataError, MissingPartError, OutputError
from rtmtass.io.part_file import why_unwritable

SOUND_SUFFIXES = frozenset({
    ".aac", ".aif", ".aiff", ".au", ".caf", ".flac", ".g722", ".m4a",
    ".mp3", ".oga", ".ogg", ".opus", ".sph", ".wav", ".wma", ".wv",
})  # fmt: skip
ZIP_SUFFIXES = frozenset({".zip", ".pk3", ".wz", ".whl"})

MOST_FILES = 100_000
"""Members of all archives of a package, whether or not they are written."""
MOST_BYTES = 32_000_000_000
"""Unpacked bytes of all archives of a package."""
MOST_RATIO = 50
"""Unpacked bytes per downloaded byte, above `FREE_BYTES`; recordings stay below about 10."""
FREE_BYTES = 64_000_000

_BUFFER = 1 << 20
_MOST_DIRECTORY = 24_000_000  # bytes of a zip's directory, which zipfile reads at once
_MOST_NAME = 1 << 16  # bytes of a tar header's extension, likewise

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO})
"""Errors of the disk, not of the archive."""


class Budget:
    """What the archives of a package may still unpack to.

    Args:
        downloaded: size of the downloaded archives, in bytes.
    """

    def __init__(self, downloaded: int) -> None:
        self.n_bytes = min(MOST_BYTES, FREE_BYTES + MOST_RATIO * downloaded)
        self._limit, self._downloaded = self.n_bytes, downloaded
        self.files = MOST_FILES

    def take_files(self, n: int) -> None:
        """Count members.

        Raises:
            DataError: there are too many.
        """
        self.files -= n
        if self.files < 0:
            raise DataError(f"holds more than {MOST_FILES} files, which isn't unpacked")

    def take_bytes(self, n: int) -> None:
        """Count unpacked bytes, written or skipped.

        Raises:
            DataError: there are too many.
        """
        self.n_bytes -= n
        if self.n_bytes < 0:
            raise DataError(
                f"unpacks to more than {self._limit / 1e6:.0f} MB from"
                f" {self._downloaded / 1e6:.1f} MB, too much for recordings"
            )


def unpack_zip(archive: Path, folder: Path, budget: Budget) -> None:
    """Unpack the recordings and zip files of a zip file.

    Raises:
        DataError: the archive is damaged, encrypted or too large, or a member's name leads
            out of the folder; the message begins with the archive's name.
        OutputError: the disk is full, or the folder can't be written.
    """
    with _refusals(archive, folder), _DirectoryReader(archive) as raw, zipfile.ZipFile(raw) as file:
        members = file.infolist()
        budget.take_files(len(members))  # before any is written, which takes a while
        for info in members:
            if not info.is_dir() and _is_wanted(info.filename) and not _is_zipped_link(info):
                target = _target(folder, info.filename)
                with file.open(info) as source:
                    _write(target, source, budget)


def unpack_tgz(archive: Path, folder: Path, budget: Budget) -> None:
    """Unpack the recordings and zip files of a .tgz; see `unpack_zip`."""
    with _refusals(archive, folder), gzip.open(archive) as stream:
        _unpack_tar(cast(BinaryIO, stream), folder, budget)


def unpack_deb(archive: Path, folder: Path, budget: Budget) -> None:
    """Unpack the recordings and zip files of a Debian package; see `unpack_zip`.

    Raises:
        MissingPartError: dpkg-deb isn't installed.
    """
    command = ["dpkg-deb", "--fsys-tarfile", str(archive)]
    with tempfile.TemporaryFile() as errors, _refusals(archive, folder):
        try:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
        except FileNotFoundError:
            raise MissingPartError(
                f"{archive.name} is unpacked by dpkg-deb, which isn't installed; install dpkg, or"
                " remove the package from the list"
            ) from None
        assert process.stdout is not None
        try:
            _unpack_tar(cast(BinaryIO, process.stdout), folder, budget)
            while rest := process.stdout.read(_BUFFER):  # what pads the end
                budget.take_bytes(len(rest))
            process.wait()
        except tarfile.TarError:
            if not _has_failed(process):
                raise
        finally:
            process.kill()
            process.stdout.close()
            process.wait()
        if process.returncode > 0:
            errors.seek(0)
            lines = errors.read(4096).decode(errors="replace").strip().splitlines()
            raise DataError(f"is damaged: {lines[-1] if lines else 'dpkg-deb gives no reason'}")


def _has_failed(process: subprocess.Popen[bytes]) -> bool:
    """Return whether a process ended with an error, which then explains its damaged output."""
    try:
        return process.wait(timeout=1.0) != 0
    except subprocess.TimeoutExpired:  # it waits for us to read on
        return False


def unpack_inner(folder: Path, budget: Budget) -> None:
    """Unpack the zip files under a folder, each beside itself, under its name without suffix."""
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in ZIP_SUFFIXES)
    for archive in found:
        if archive.is_file() and not archive.is_symlink() and zipfile.is_zipfile(archive):
            inside = archive.with_suffix("")
            if not inside.resolve().is_relative_to(folder.resolve()):
                raise DataError(f"{archive.name} would be unpacked outside {folder}")
            unpack_zip(archive, inside, budget)


def _unpack_tar(stream: BinaryIO, folder: Path, budget: Budget) -> None:
    metered = cast(IO[bytes], _Metered(stream, budget))
    with tarfile.open(fileobj=metered, mode="r|", tarinfo=_Header) as file:
        for info in file:
            budget.take_files(1)
            # Links and devices aren't regular; sparse files unpack to more than was read.
            if info.isreg() and not info.issparse() and _is_wanted(info.name):
                source = file.extractfile(info)
                assert source is not None
                _write(_target(folder, info.name), source, None)


def _is_wanted(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in SOUND_SUFFIXES | ZIP_SUFFIXES


def _is_zipped_link(info: zipfile.ZipInfo) -> bool:
    """Return whether a member is a link or device, by the Unix mode that zip files may hold."""
    kind = info.external_attr >> 16 & 0o170000
    return kind not in (0, 0o100000)


def _target(folder: Path, name: str) -> Path:
    """Return where a member is written.

    Raises:
        DataError: its name is absolute or climbs out of the folder.
    """
    pure, windows = PurePosixPath(name), PureWindowsPath(name)
    is_outside = pure.is_absolute() or windows.drive or windows.root or ".." in windows.parts
    if is_outside or "\0" in name:
        raise DataError(f"holds {_short(name)}, which leads outside its folder")
    target = folder / pure
    if not target.parent.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"holds {_short(name)}, which leads outside its folder through a link")
    return target


def _short(name: str) -> str:
    text = ascii(name)
    return text if len(text) <= 80 else f"{text[:60]}…{text[-16:]}"


def _write(target: Path, source: IO[bytes], budget: Budget | None) -> None:
    """Write a member; `budget` is None if its bytes are counted where they are read."""
    target.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(target, flags, 0o644), "wb") as out:
        while data := source.read(_BUFFER):
            if budget is not None:
                budget.take_bytes(len(data))
            out.write(data)


@contextmanager
def _refusals(archive: Path, folder: Path) -> Iterator[None]:
    """Turn what a damaged or hostile archive raises into a `DataError` that names it."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{archive.name} {error}") from None
    except OSError as error:
        if error.errno in _FULL:
            raise OutputError(why_unwritable(folder, error, "--downloads")) from error
        reason = error.strerror or str(error)
        raise DataError(f"{archive.name} can't be unpacked: {reason}") from None
    except RecursionError:
        raise DataError(f"{archive.name} is damaged: its headers never end") from None
    except NotImplementedError as error:  # before RuntimeError, its base
        raise DataError(f"{archive.name} can't be unpacked: {error}") from None
    except RuntimeError as error:
        what = "it is encrypted" if "password" in str(error) else str(error)
        raise DataError(f"{archive.name} can't be unpacked: {what}") from None
    except (
        tarfile.TarError, zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, lzma.LZMAError,
        EOFError, ValueError, OverflowError, struct.error, KeyError, IndexError,
    ) as error:  # fmt: skip
        raise DataError(f"{archive.name} is damaged: {error or type(error).__name__}") from None


class _DirectoryReader(io.FileIO):
    """A file of which no read is larger than a reasonable zip directory."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _MOST_DIRECTORY:
            raise DataError(f"holds more than {MOST_FILES} files, which isn't unpacked")
        return super().read(-1 if size is None else size) or b""


class _Metered:
    """A stream that counts what is read from it."""

    def __init__(self, stream: BinaryIO, budget: Budget) -> None:
        self._stream, self._budget = stream, budget

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes."""
        data = self._stream.read(size)
        self._budget.take_bytes(len(data))
        return data


class _Header(tarfile.TarInfo):
    """A tar header whose extensions, which tarfile reads into memory, are small."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        """Read a header block.

        Raises:
            DataError: the extension is larger than any name.
        """
        header = super().frombuf(buf, encoding, errors)
        if header.type in _EXTENSIONS and not 0 <= header.size <= _MOST_NAME:
            raise DataError(f"is damaged: a header of {header.size} bytes")
        return header


_EXTENSIONS = (
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)  # fmt: skip
