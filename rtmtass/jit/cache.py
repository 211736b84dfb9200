"""The files of cached machine code: checked before use, and compiled again if they aren't whole.

Numba's cache files are pickles with machine code in them: whoever can write them can run
code, and a flipped bit can crash. So a file is used only if it belongs to a trusted user,
no other can write it, and it has the checksum that it was written with.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import numba
from numba.core import ccallback, dispatcher
from numba.core.caching import (
    CompileResultCacheImpl,
    FunctionCache,
    IndexDataCacheFile,
    UserProvidedCacheLocator,
)

from rtmtass.jit.trust import is_safe_file, make_folder
from rtmtass.jit.turns import Turn

LOG = logging.getLogger("rtmtass")
"""Shows warnings on stderr unless the program that imports us says otherwise."""

_HEADER = f"rtmtass machine code, numba {numba.__version__}\n".encode()
_DIGEST = 32


class Store:
    """The folders of machine code: some to read, and at most one to write.

    Args:
        readable: searched in this order.
        writable: where what had to be compiled is kept; also searched. None keeps nothing.
        users: who may own the files.
        reason: why nothing is kept.

    Attributes:
        turn: the right to compile what isn't in the folders.
    """

    def __init__(
        self,
        readable: Sequence[Path],
        writable: Path | None,
        users: frozenset[int],
        reason: str = "",
    ) -> None:
        self.readable, self.writable, self.users = list(readable), writable, users
        self.turn = Turn(writable)
        self._reason, self._was_told = reason, False

    def tell_unkept(self, reason: str = "") -> None:
        """Warn, once, that each start will compile."""
        if not self._was_told:
            self._was_told = True
            LOG.warning(
                "rtmtass: machine code can't be kept, so every start compiles it again: %s; free"
                " some space or make the folder writable, or set NUMBA_CACHE_DIR to a folder of"
                " your own",
                reason or self._reason,
            )


class _CheckedFile(IndexDataCacheFile):  # type: ignore[misc]
    """The index and data files of one function in one folder."""

    def __init__(self, path: str, base: str, stamp: object, users: frozenset[int]) -> None:
        super().__init__(path, base, stamp)
        self._users = users

    def load(self, key: Any) -> Any:
        """Return an entry; None if it isn't there, or isn't sound."""
        try:
            entry = super().load(key)
        except Exception:  # a pickle of other packages' versions may raise anything
            return None
        # Two processes that compile at once may each give a data file the same number.
        return entry[1] if entry is not None and entry[0] == key else None

    def save(self, key: Any, data: Any) -> None:
        """Save an entry."""
        make_folder(Path(self._cache_path))
        super().save(key, (key, data))

    def _load_index(self) -> dict[Any, str]:
        data = self._read(self._index_path)
        if data is None:
            return {}
        stamp, overloads = pickle.loads(data)
        return overloads if stamp == self._source_stamp else {}

    def _save_index(self, overloads: dict[Any, str]) -> None:
        self._write(self._index_path, self._dump((self._source_stamp, overloads)))

    def _load_data(self, name: str) -> Any:
        data = self._read(self._data_path(name))
        return None if data is None else pickle.loads(data)

    def _save_data(self, name: str, data: Any) -> None:
        self._write(self._data_path(name), self._dump(data))

    def _read(self, path: str) -> bytes | None:
        """Return what `_write` wrote; None if it isn't there, whole, and trusted."""
        try:
            with open(path, "rb") as file:
                if not is_safe_file(file.fileno(), self._users):
                    return None
                data = file.read()
        except FileNotFoundError:
            return None
        start = len(_HEADER) + _DIGEST
        payload = data[start:]
        is_whole = data[:start] == _HEADER + hashlib.blake2b(payload, digest_size=_DIGEST).digest()
        return payload if is_whole else None

    def _write(self, path: str, payload: bytes) -> None:
        """Write a file in one step, for this user alone to write."""
        part = f"{path}.tmp.{uuid4().hex[:16]}"
        try:
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            with os.fdopen(descriptor, "wb") as file:
                if hasattr(os, "fchmod"):  # the umask may let a group write
                    os.fchmod(descriptor, os.fstat(descriptor).st_mode & 0o755)
                file.write(_HEADER + hashlib.blake2b(payload, digest_size=_DIGEST).digest())
                file.write(payload)
            os.replace(part, path)
        except BaseException:
            Path(part).unlink(missing_ok=True)
            raise


class _Files:
    """A function's files in all folders of a store, behind numba's interface of one file."""

    def __init__(self, store: Store, subfolder: str, base: str, stamp: object) -> None:
        self._store = store
        folders = [*([store.writable] if store.writable else []), *store.readable]
        self._files = [
            _CheckedFile(str(folder / subfolder), base, stamp, store.users) for folder in folders
        ]

    def load(self, key: Any) -> Any:
        """Return an entry; None if it isn't anywhere, and it is this process's turn to compile."""
        data = self._find(key)
        if data is None and self._store.turn.take():
            data = self._find(key)
            if data is not None:
                self._store.turn.give_back()
        return data

    def _find(self, key: Any) -> Any:
        for file in self._files:
            data = file.load(key)
            if data is not None:
                return data
        return None

    def save(self, key: Any, data: Any) -> None:
        if self._store.writable is None:
            self._store.tell_unkept()
            return
        try:
            self._files[0].save(key, data)
        except OSError as error:
            self._store.tell_unkept(f"{self._store.writable}: {error.strerror}")

    def flush(self) -> None:
        if self._store.writable is not None:
            self._files[0].flush()


class _Locator(UserProvidedCacheLocator):  # type: ignore[misc]
    """Leaves it to `_CheckedFile` to make the folder, which may be read-only."""

    def ensure_cache_path(self) -> None:
        """Do nothing."""


class _Impl(CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = [_Locator]  # noqa: RUF012


@contextmanager
def kept_in(store: Store) -> Iterator[None]:
    """Within this context, functions compiled with numba's `cache=True` are kept in a store."""

    class StoreCache(FunctionCache):  # type: ignore[misc]
        _impl_class = _Impl

        def __init__(self, function: Any) -> None:
            super().__init__(function)
            name = Path(self._cache_path).name
            stamp = self._impl.locator.get_source_stamp()
            self._cache_file = _Files(store, name, self._impl.filename_base, stamp)

    before = numba.config.CACHE_DIR, getattr(numba.config, "CACHE_LOCATOR_CLASSES", None)
    modules: tuple[Any, Any] = (dispatcher, ccallback)
    original = modules[0].FunctionCache
    # Numba takes all of these from its modules, and when it decorates.
    folders = [*([store.writable] if store.writable else []), *store.readable]
    numba.config.CACHE_DIR = str(folders[0]) if folders else "/"
    numba.config.CACHE_LOCATOR_CLASSES = ""
    for module in modules:
        module.FunctionCache = StoreCache
    try:
        yield
    finally:
        numba.config.CACHE_DIR = before[0]
        numba.config.CACHE_LOCATOR_CLASSES = before[1] or ""
        for module in modules:
            module.FunctionCache = original
