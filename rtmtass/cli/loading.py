"""Opens models for commands, in a thread: a signal is obeyed at once while LLVM compiles."""

from __future__ import annotations

import argparse
import functools
import os
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from rtmtass.cli.arguments import model_name

if TYPE_CHECKING:
    from rtmtass.fullband import StreamSeparator

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


def model_opener(arguments: argparse.Namespace) -> Callable[[], StreamSeparator]:
    """Return a function that opens the model of the command line; other processes take it too."""
    return functools.partial(
        _open_model, model_name(arguments), arguments.runtime, arguments.device,
        arguments.precision, arguments.passes, arguments.quiet,
    )  # fmt: skip


def _open_model(
    model: str, runtime: str, device: str, precision: str, passes: int, is_quiet: bool
) -> StreamSeparator:
    import rtmtass

    return rtmtass.load(
        model, runtime=runtime, device=device, precision=precision, passes=passes,
        on_compile=None if is_quiet else print_compiling,
    )  # fmt: skip


def print_compiling() -> None:
    """Print why a first run takes long."""
    print("rtmtass: compiling for this CPU, once (about 20 s) …", file=sys.stderr, flush=True)
