"""The compiler options of all kernels, and the cache folder of their machine code.

Numba recompiles a cached function when its own file changes, but not when a file it calls
into does. So the folder's name is a digest of every kernel's source and of the int8
instruction set: machine code of another version is never found.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast, overload

import numba
from numba import njit, types
from numba.core import cgutils, event
from numba.core.compiler import Compiler, Flags
from numba.extending import intrinsic
from numba.np import arrayobj

from rtmtass.jit.cpu import int8_isa
from rtmtass.types import Floats

F = TypeVar("F", bound=Callable[..., object])

_HINT_S = 0.5
_PACKAGE = Path(__file__).resolve().parent.parent
STRICT = frozenset({"contract", "nsz"})
"""Allows fused multiply-adds and ignores the sign of zero; NaN and Inf keep their meaning."""
LOOSE = STRICT | {"reassoc", "arcp"}
"""Also allows reordered sums, which vectorise, and reciprocals; NaN is still NaN."""


_KERNELS = (
    "jit/*.py",
    "dsp/*.py",
    "net/constants.py",
    "net/gru.py",
    "config.py",
    "runtime/*.py",
    "runtime/compiled/*.py",
    "live/mixer.py",
    "live/full_band.py",
    "live/devices/callback.py",
)
"""Files with compiled functions, or with constants compiled into them."""


def _digest() -> str:
    total = hashlib.sha256(int8_isa().encode())  # kernels are compiled for one instruction set
    for path in kernel_sources():
        total.update(path.read_bytes())
    return total.hexdigest()[:16]


def kernel_sources() -> list[Path]:
    """Return the files that, when changed, make all machine code stale."""
    return sorted(path for pattern in _KERNELS for path in _PACKAGE.glob(pattern))


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def _folder() -> Path:
    """Return the cache folder: in NUMBA_CACHE_DIR, in the package, or the user's.

    If none can be written, nothing is cached. A folder open to all users, such as /tmp,
    would let any of them replace our code.
    """
    if numba.config.CACHE_DIR:
        return Path(numba.config.CACHE_DIR) / f"rtmtass-{_digest()}"
    here = _PACKAGE / "__pycache__"
    if _is_writable(here):
        folder = here / f"machine-{_digest()}"
        if not folder.exists():
            for stale in here.glob("machine-*"):
                shutil.rmtree(stale, ignore_errors=True)
        return folder
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # no home directory, as in some containers
        base = here
    return base / "rtmtass" / f"machine-{_digest()}"


CACHE_FOLDER = _folder()


@overload
def kernel(function: F, *, fastmath: frozenset[str] = ..., **options: Any) -> F: ...
@overload
def kernel(*, fastmath: frozenset[str] = ..., **options: Any) -> Callable[[F], F]: ...
def kernel(
    function: F | None = None, *, fastmath: frozenset[str] = STRICT, **options: Any
) -> F | Callable[[F], F]:
    """Compile `function` when first called, cache the machine code, release the GIL.

    Args:
        function: the function; omitted when options are given.
        fastmath: `STRICT` or `LOOSE`.
        options: further options of numba.njit.
    """
    if function is None:
        return lambda inner: _compiled(inner, fastmath, options)
    return _compiled(function, fastmath, options)


def _compiled(function: F, fastmath: frozenset[str], options: dict[str, Any]) -> F:
    before = numba.config.CACHE_DIR
    is_cached = _is_writable(CACHE_FOLDER)
    # Numba takes the folder from this setting alone, and when it decorates.
    numba.config.CACHE_DIR = str(CACHE_FOLDER) if is_cached else before
    try:
        compiled = njit(
            nogil=True,
            cache=is_cached,
            boundscheck=False,
            error_model="numpy",
            fastmath=set(fastmath),
            **options,
        )(function)
    finally:
        numba.config.CACHE_DIR = before
    return cast(F, compiled)


class _FirstCompilation(event.Listener):
    """Starts a timer when numba first compiles; a function found in its cache isn't compiled."""

    def __init__(self, timer: threading.Timer) -> None:
        self._timer = timer
        self._has_started = False

    def on_start(self, event: Any) -> None:
        """Start the timer, once."""
        if not self._has_started:
            self._has_started = True
            self._timer.start()

    def on_end(self, event: Any) -> None:
        """Do nothing."""


@contextmanager
def compile_hint(on_compile: Callable[[], None] | None) -> Iterator[None]:
    """Call `on_compile` if the `with` block is still running `_HINT_S` after it began to compile.

    A start from cached machine code never calls it, however slow the computer.
    """
    timer = threading.Timer(_HINT_S, on_compile or (lambda: None))
    timer.daemon = True
    with event.install_listener("numba:compile", _FirstCompilation(timer)):
        try:
            yield
        finally:
            timer.cancel()


class _NoaliasCompiler(Compiler):
    """Numba's compiler, with arguments marked as not overlapping (C's `restrict`)."""

    def __init__(self, *args: Any) -> None:
        for value in args:
            if isinstance(value, Flags):
                flags: Any = value
                flags.noalias = True
        super().__init__(*args)


def kernel_noalias(function: F) -> F:
    """As `kernel`, for loops whose array arguments never overlap, so that they vectorise.

    Otherwise each call first compares all addresses, which takes longer than a short loop.
    """
    return kernel(function, pipeline_class=_NoaliasCompiler)


def _borrow(typing_context: Any, array: Any, start: Any, size: Any) -> Any:
    arrays: Any = arrayobj
    pack: Any = cgutils.pack_array
    view_type = types.Array(types.float32, 1, "C")

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source = arrays.make_array(signature.args[0])(context, builder, args[0])
        view = arrays.make_array(view_type)(context, builder)
        arrays.populate_array(
            view,
            data=builder.gep(source.data, [args[1]]),
            shape=pack(builder, [args[2]]),
            strides=pack(builder, [context.get_constant(types.intp, 4)]),
            itemsize=context.get_constant(types.intp, 4),
            meminfo=None,
        )
        return view._getvalue()

    return view_type(array, types.intp, types.intp), build


borrow = cast(Callable[[Floats, int, int], Floats], intrinsic(_borrow))
"""borrow(array, start, size) is array[start:start + size] without reference counting.

For compiled code only. A slice costs two atomic operations; a dozen slices cost more than
a whole FFT. The array must be contiguous float32 and outlive the view.
"""
