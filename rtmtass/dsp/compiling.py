"""The one decorator of all compiled code, and the folder its machine code is kept in.

Numba renews a cached function when its own file changes, but not when a file
it calls into does. Here the folder's name is a digest of every kernel's
source: code from another version is never found, let alone run.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast, overload

import numba
from numba import njit

F = TypeVar("F", bound=Callable[..., object])

_PACKAGE = Path(__file__).resolve().parent.parent
STRICT = frozenset({"contract", "nsz"})
"""Fused multiply-adds and the sign of zero: not-a-number and infinity keep their meaning."""
LOOSE = STRICT | {"reassoc", "arcp"}
"""Also sums in any order and reciprocals: a sum runs in vectors, NaN is still NaN."""


def _digest() -> str:
    sources = [*_PACKAGE.glob("dsp/*.py"), *_PACKAGE.glob("runtime/*.py")]
    total = hashlib.sha256()
    for path in sorted(sources):
        total.update(path.read_bytes())
    return total.hexdigest()[:16]


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def _folder() -> Path:
    """Return the cache folder: NUMBA_CACHE_DIR, the package's own, or the user's."""
    if numba.config.CACHE_DIR:
        return Path(numba.config.CACHE_DIR) / f"rtmtass-{_digest()}"
    here = _PACKAGE / "__pycache__"
    if _is_writable(here):
        folder = here / f"machine-{_digest()}"
        if not folder.exists():
            for stale in here.glob("machine-*"):
                shutil.rmtree(stale, ignore_errors=True)
        return folder
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "rtmtass" / f"machine-{_digest()}"


CACHE_FOLDER = _folder()


@overload
def kernel(
    function: F, *, fastmath: frozenset[str] = ..., **options: Any
) -> F: ...
@overload
def kernel(
    *, fastmath: frozenset[str] = ..., **options: Any
) -> Callable[[F], F]: ...
def kernel(
    function: F | None = None, *, fastmath: frozenset[str] = STRICT, **options: Any
) -> F | Callable[[F], F]:
    """Compile `function` when first called, keep the machine code on disk, release the GIL.

    Args:
        function: what to compile; left out when options are given.
        fastmath: liberties the compiler may take, `STRICT` or `LOOSE`.
        options: more for numba.njit.
    """
    if function is None:
        return lambda inner: _compiled(inner, fastmath, options)
    return _compiled(function, fastmath, options)


def _compiled(function: F, fastmath: frozenset[str], options: dict[str, Any]) -> F:
    before = numba.config.CACHE_DIR
    # Numba decides for a folder here, when it decorates, and only through this setting.
    numba.config.CACHE_DIR = str(CACHE_FOLDER) if _is_writable(CACHE_FOLDER) else before
    try:
        compiled = njit(
            nogil=True,
            cache=True,
            boundscheck=False,
            error_model="numpy",
            fastmath=set(fastmath),
            **options,
        )(function)
    finally:
        numba.config.CACHE_DIR = before
    return cast(F, compiled)
