"""The compiler options of all kernels, and the cache folder of their machine code.

Numba recompiles a cached function when its own file changes, but not when a file it calls
into does. So the folder's name is a digest of every kernel's source and of the int8
instruction set: machine code of another version is never found.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba import cfunc, njit, types
from numba.core import event
from numba.core.compiler import Compiler, Flags
from numba.extending import intrinsic
from numba.np import arrayobj

from rtmtass.jit.addresses import contiguous
from rtmtass.jit.cache import LOG, Store, kept_in
from rtmtass.jit.cpu import int8_isa
from rtmtass.jit.stops import install
from rtmtass.jit.trust import Unsafe, trusted_users, why_unsafe
from rtmtass.jit.turns import WAIT_EVENT
from rtmtass.types import Floats

F = TypeVar("F", bound=Callable[..., object])

_HINT_S = 0.5
_PACKAGE = Path(__file__).resolve().parent.parent
_KERNELS = (
    "jit/*.py",
    "dsp/*.py",
    "matmul/*.py",
    "net/constants.py",
    "net/band_kernels.py",
    "net/gru_kernels.py",
    "net/mask_kernels.py",
    "training/loss_kernels.py",
    "config.py",
    "runtime/*.py",
    "runtime/compiled/*.py",
    "live/meters.py",
    "live/mix_kernels.py",
    "live/controls.py",
    "live/full_band.py",
    "live/devices/callback.py",
    "native/arena_check.py",
    "native/layout.py",
    "native/model_check.py",
    "native/model_words.py",
    "native/program_check.py",
    "native/stream.py",
    "native/stream_words.py",
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
    """Return whether a folder can be written, or could if it were made."""
    existing = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    return os.path.isdir(existing) and os.access(existing, os.W_OK | os.X_OK)


def _refuse(folder: Path, unsafe: Unsafe, rest: str) -> None:
    """Say that a folder isn't used; worker processes needn't repeat it."""
    if multiprocessing.parent_process() is None:
        LOG.warning(
            "rtmtass: machine code isn't run from or kept in %s, because %s; %s%s",
            folder, unsafe.reason, unsafe.advice, rest,
        )  # fmt: skip


def _store() -> Store:
    """Choose the folders of machine code: NUMBA_CACHE_DIR, the package's, or the user's.

    The first that can be written is written. Earlier ones that can only be read are read,
    as those of an installation by root. None is used that others could write: they could
    replace our code.
    """
    digest, everywhere = _digest(), trusted_users(_PACKAGE)
    readable: list[Path] = []
    reason = ""
    for folder, named in _candidates(digest):
        in_package = folder.is_relative_to(_PACKAGE)
        users = everywhere if in_package else trusted_users()
        unsafe = (why_unsafe(named, users) if named else None) or why_unsafe(folder, users)
        if unsafe:
            if not in_package or os.path.exists(folder):
                _refuse(named or folder, unsafe, ", or unset NUMBA_CACHE_DIR" if named else "")
            reason = unsafe.reason
        elif _is_writable(folder):
            if in_package and not os.path.exists(folder):
                for stale in folder.parent.glob("machine-*"):
                    shutil.rmtree(stale, ignore_errors=True)
            return Store(readable, folder, everywhere)
        else:
            reason = f"{folder} can't be written"
            if os.path.isdir(folder):
                readable.append(folder)
    return Store(readable, None, everywhere, reason)


def _candidates(digest: str) -> Iterator[tuple[Path, Path | None]]:
    """Yield the possible folders, each with the one above it if the user named that."""
    if numba.config.CACHE_DIR:
        named = Path(numba.config.CACHE_DIR).absolute()
        yield named / f"rtmtass-{digest}", named
    yield _PACKAGE / "__pycache__" / f"machine-{digest}", None
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute()
    except RuntimeError:  # no home directory, as in some containers
        return
    yield base / "rtmtass" / f"machine-{digest}", None


STORE = _store()
CACHE_FOLDER = STORE.writable or next(iter(STORE.readable), _PACKAGE / "__pycache__" / "machine")
"""Where machine code is kept or, if nothing can be, the first folder it is read from."""
install()


def kernel(function: F, **options: Any) -> F:
    """Compile `function` when first called, cache the machine code, release the GIL.

    Arithmetic is done as it is written, so that every processor and every way to compile
    gives the same bits: nothing is fused, reordered or turned into a reciprocal. Where that
    is wanted for speed it is written out, with `jit.simd`.

    Args:
        function: the function.
        options: further options of numba.njit.
    """
    with kept_in(STORE):
        compiled = njit(
            nogil=True, cache=True, boundscheck=False, error_model="numpy", fastmath=False,
            **options,
        )(function)  # fmt: skip
    return cast(F, compiled)


def kept_cfunc(signature: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile a C callback of a signature at once, and keep its machine code."""

    def compiled(function: Callable[..., Any]) -> Any:
        with kept_in(STORE):
            return cfunc(signature, nopython=True, cache=True)(function)

    return compiled


class _FirstCompilation(event.Listener):
    """Starts a timer when numba first compiles, or waits until another process has.

    A function found in its cache isn't compiled.
    """

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
def compile_once(on_compile: Callable[[], None] | None) -> Iterator[None]:
    """As `compile_hint`; of the processes that do so at once, one compiles and the others wait.

    Within it a process mustn't wait for another.
    """
    with compile_hint(on_compile), STORE.turn.offered():
        yield


@contextmanager
def compile_hint(on_compile: Callable[[], None] | None) -> Iterator[None]:
    """Call `on_compile` if the `with` block is still running `_HINT_S` after it began to compile.

    A start from cached machine code never calls it, however slow the computer.
    """
    timer = threading.Timer(_HINT_S, on_compile or (lambda: None))
    timer.daemon = True
    listener = _FirstCompilation(timer)
    with ExitStack() as stack:
        stack.enter_context(event.install_listener("numba:compile", listener))
        if multiprocessing.parent_process() is None:  # of workers, the one that compiles says so
            stack.enter_context(event.install_listener(WAIT_EVENT, listener))
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


def _view(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    """Emit a view of the array args[0] from element args[1] on, of shape args[2:]."""
    arrays: Any = arrayobj
    source = arrays.make_array(signature.args[0])(context, builder, args[0])
    data = builder.gep(source.data, [args[1]])
    return contiguous(context, builder, signature.return_type, data, args[2:])


def _borrow(typing_context: Any, array: Any, start: Any, size: Any) -> Any:
    return types.Array(types.float32, 1, "C")(array, types.intp, types.intp), _view


def _borrow_rows(typing_context: Any, array: Any, start: Any, rows: Any, width: Any) -> Any:
    return types.Array(types.float32, 2, "C")(array, *[types.intp] * 3), _view


borrow = cast(Callable[[Floats, int, int], Floats], intrinsic(_borrow))
"""borrow(array, start, size) is array[start:start + size] without reference counting.

For compiled code only. A slice costs two atomic operations; a dozen slices cost more than
a whole FFT. The array must be contiguous float32 and outlive the view.
"""
borrow_rows = cast(Callable[[Floats, int, int, int], Floats], intrinsic(_borrow_rows))
"""borrow_rows(array, start, rows, width) is the same memory as (rows, width).

As `borrow`; a reshape, besides, calls a function that only numba's runtime has.
"""
