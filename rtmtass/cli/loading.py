"""Opens models in a thread, so that a signal is obeyed at once while LLVM compiles."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
_abandoned: list[threading.Thread] = []


def run_interruptibly(work: Callable[[], T]) -> T:
    """Return what `work` returns, or raise what it raises; a signal ends the wait for it.

    Python raises the exception of a signal between two instructions of the main thread. LLVM's
    take seconds, and callbacks from C drop exceptions. Here the main thread only waits.
    """
    results: list[T] = []
    errors: list[BaseException] = []
    has_ended = threading.Event()

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)
        finally:
            has_ended.set()

    thread = threading.Thread(target=run, name="rtmtass-load", daemon=True)
    thread.start()
    try:
        has_ended.wait()
    except KeyboardInterrupt:
        _abandoned.append(thread)
        raise
    if errors:
        raise errors[0]
    return results[0]


def end_after_signal(code: int) -> int:
    """Return an exit code; end the process here if a thread still compiles.

    Python's own end would unload the libraries under it.
    """
    if any(thread.is_alive() for thread in _abandoned):
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
    return code
