"""One process compiles at a time: those that start together find its machine code, not the work."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from numba.core import event

from rtmtass.jit.trust import make_folder

try:
    import fcntl
except ImportError:  # Windows: each process compiles for itself
    fcntl = None  # type: ignore[assignment]

WAIT_EVENT = "rtmtass:turn"
"""Kind of the numba event that lasts while another process is compiling."""
_NAME = "compiling.lock"
_PATIENCE_S = 180.0
"""How long to wait for a process that may have been stopped; then compile beside it."""
_POLL_S = 0.02


class Turn:
    """The right to compile, held by one process at a time and lost when it ends.

    Args:
        folder: of the machine code. None, or one that can't be written or locked, gives
            everyone the right.
    """

    def __init__(self, folder: Path | None) -> None:
        self._path = folder and folder / _NAME
        self._depth = 0
        self._descriptor: int | None = None
        self._mutex = threading.Lock()

    @contextlib.contextmanager
    def offered(self) -> Iterator[None]:
        """Within this context, `take` waits for the right; at its end the right is given back."""
        with self._mutex:
            self._depth += 1
        try:
            yield
        finally:
            with self._mutex:
                self._depth -= 1
                is_last = not self._depth
            if is_last:
                self.give_back()

    def take(self) -> bool:
        """Wait for the right to compile; return whether it was taken now.

        If so, what was to be compiled may be there by now.
        """
        if not self._depth or self._descriptor is not None:
            return False
        descriptor = self._open()
        if descriptor is None:
            return False
        try:
            _lock_patiently(descriptor)
        except BaseException as error:  # a signal; or a network drive without locks
            os.close(descriptor)
            if isinstance(error, OSError):
                return False
            raise
        self._descriptor = descriptor
        return True

    def give_back(self) -> None:
        """Let another process compile; nothing if the right isn't held."""
        with self._mutex:
            descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _open(self) -> int | None:
        """Open the lock file; None where nothing can be locked."""
        if fcntl is None or self._path is None:
            return None
        try:
            make_folder(self._path.parent)
            return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except OSError:
            return None


def _lock_patiently(descriptor: int) -> None:
    """Lock a file, or wait for `_PATIENCE_S`.

    Raises:
        OSError: the file can't be locked at all.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    except BlockingIOError:
        pass
    ends_s = time.monotonic() + _PATIENCE_S
    with event.trigger_event(WAIT_EVENT):
        while time.monotonic() < ends_s:
            time.sleep(_POLL_S)
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
