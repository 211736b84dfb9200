"""Files at fsspec URLs: copied to and from local ones, and their names as paths."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

from rtmtass.errors import InputError, MissingPartError, OutputError, RtmtassError
from rtmtass.offline.provenance import read_ends

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.S)  # a drive, as in C:, is one letter
_PATH = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(?!/)(.*)", re.S)
_READ_ONLY = ("http", "https")
_ATOMIC = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "memory")
"""Object stores: what is uploaded is there whole or not at all, and renaming is copying."""


def is_url(text: str) -> bool:
    """Whether a text is a URL rather than a path."""
    return _URL.fullmatch(text) is not None


def as_path(url: str, *, keeps_query: bool = False) -> Path:
    """Return the path that stands for a URL while outputs are planned, or a local file's own.

    It keeps folders, name and suffix: `s3://bucket/a/talk.flac` is `s3:/bucket/a/talk.flac`.

    Args:
        url: as in a list.
        keeps_query: of an HTTP address, which is part of what it names, but not of its suffix.
    """
    found = _URL.fullmatch(url)
    assert found, "callers have asked is_url"
    scheme, rest = found[1].lower(), found[2]
    if scheme == "file":
        return Path(unquote(urlsplit(url).path))
    if scheme in _READ_ONLY and not keeps_query:
        rest = rest.partition("#")[0].partition("?")[0]
    return Path(f"{scheme}:/{rest.lstrip('/')}")


def as_url(path: Path) -> str:
    """Return the URL that a path of `as_path` stands for; "" for a local path."""
    found = _PATH.fullmatch(str(path))
    return f"{found[1]}://{found[2]}" if found and not path.is_absolute() else ""


def check_writable(urls: Iterable[str]) -> None:
    """Raise unless outputs can be written to URLs of these kinds.

    Raises:
        MissingPartError: the package of a kind isn't installed.
        OutputError: of web addresses.
    """
    seen = set()
    for url in urls:
        scheme = url.partition(":")[0]
        if scheme in _READ_ONLY:
            raise OutputError(f"{url} can't be written: a web server only reads; add -o FOLDER")
        if scheme not in seen:
            seen.add(scheme)
            file_system(url, OutputError)


def file_system(url: str, kind: type[RtmtassError] = InputError) -> tuple[Any, str]:
    """Return an fsspec file system and the file's name in it.

    Raises:
        MissingPartError: fsspec, or the package of this kind of URL, isn't installed.
        kind: there is no such kind of URL, or its settings are wrong.
    """
    try:
        import fsspec
    except ImportError:
        raise MissingPartError(f"{url} needs fsspec: pip install 'rtmtass[ray]'") from None
    try:
        system, name = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise MissingPartError(f"{url} needs another package on every machine: {error}") from None
    except Exception as error:  # each kind of URL has its own
        raise kind(f"{url} can't be opened: {why(error)}") from None
    return system, name


def download(url: str, path: Path) -> None:
    """Copy a remote file to a local one.

    Raises:
        InputError: it can't be read.
    """
    system, name = file_system(url)
    try:
        system.get_file(name, str(path))
    except FileNotFoundError:
        raise InputError(f"{url} doesn't exist; check the address") from None
    except Exception as error:
        raise InputError(f"{url} can't be read: {why(error)}") from None
    if not path.is_file():
        raise InputError(f"{url} is a folder; list the files in it")


def upload(path: Path, url: str) -> None:
    """Copy a local file to a remote one, which is there whole or not at all.

    Raises:
        OutputError: it can't be written.
    """
    system, name = file_system(url, OutputError)
    is_atomic = url.partition(":")[0] in _ATOMIC
    part = name if is_atomic else f"{name}.part"
    try:
        if not is_atomic:
            system.makedirs(name.rpartition("/")[0], exist_ok=True)
        system.put_file(str(path), part)
        if not is_atomic:
            system.mv(part, name)
    except Exception as error:
        raise OutputError(f"{url} can't be written: {why(error)}") from None


def read(url: str, limit: int) -> bytes:
    """Return up to `limit` bytes of a remote file.

    Raises:
        InputError: it can't be read.
    """
    return _reading(url, lambda system, name: _read_start(system, name, limit))


def ends(url: str) -> bytes:
    """Return what is at either end of a remote file; see `provenance.read_ends`.

    Raises:
        InputError: it can't be read.
    """
    n_bytes = size(url) or 0
    return _reading(url, lambda system, name: _read_ends(system, name, n_bytes))


def exists(url: str) -> bool:
    """Whether a remote file exists.

    Raises:
        InputError: that can't be found out.
    """
    return bool(_reading(url, lambda system, name: system.exists(name)))


def size(url: str) -> int | None:
    """Return the size of a remote file in bytes; None if it isn't known or can't be read."""
    try:
        n_bytes: Any = _reading(url, lambda system, name: system.size(name))
    except RtmtassError:
        return None
    return None if n_bytes is None else int(n_bytes)


def why(error: Exception) -> str:
    """Return an error of a file system in one line."""
    if isinstance(error, FileNotFoundError):
        return "it doesn't exist"
    if isinstance(error, PermissionError):
        return "there is no permission"
    first, *_ = str(error).strip().splitlines() or [""]
    return first or type(error).__name__


def _read_start(system: Any, name: str, limit: int) -> bytes:
    with system.open(name, "rb") as file:
        data: bytes = file.read(limit)
    return data


def _read_ends(system: Any, name: str, n_bytes: int) -> bytes:
    with system.open(name, "rb") as file:
        return read_ends(file, n_bytes)


def _reading(url: str, use: Callable[[Any, str], T]) -> T:
    system, name = file_system(url)
    try:
        return use(system, name)
    except FileNotFoundError:
        raise InputError(f"{url} doesn't exist; check the address") from None
    except Exception as error:
        raise InputError(f"{url} can't be read: {why(error)}") from None
