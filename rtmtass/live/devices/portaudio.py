"""PortAudio: imported, silenced, restarted, and replaced by a copy after its JACK server died."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rtmtass.errors import MissingPartError

PORTAUDIO_PACKAGES = (
    "Debian and Ubuntu: apt install libportaudio2 · Fedora: dnf install portaudio · macOS and"
    " Windows: it comes with pip install sounddevice"
)
_ABANDONED: list[Any] = []
"""Copies of PortAudio whose JACK server died: their threads still run, so they stay loaded."""


def portaudio() -> Any:
    """Return the module sounddevice.

    Raises:
        MissingPartError: PortAudio isn't installed.
    """
    try:
        import sounddevice
    except OSError as error:
        raise MissingPartError(
            f"PortAudio, the library for sound devices, isn't installed. {PORTAUDIO_PACKAGES}"
        ) from error
    _silence_alsa()
    return sounddevice


@functools.cache
def _silence_alsa() -> None:
    """Keep ALSA's threads from writing to the terminal, across the live display.

    The error handler must be a C function, since it may run without the GIL; one that ignores
    its arguments will do.
    """
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):
        no_op = ctypes.cast(ctypes.CDLL(None).getppid, ctypes.c_void_p)
        ctypes.CDLL("libasound.so.2").snd_lib_error_set_handler(no_op)


def restart_portaudio() -> None:
    """Rescan the devices, which PortAudio does only at its start. No stream may be open."""
    sd = portaudio()
    with quiet_libraries():
        while sd._initialized:
            sd._terminate()
        sd._initialize()


def close_portaudio() -> None:
    """Terminate PortAudio; `restart_portaudio` initialises it again."""
    sd = portaudio()
    with quiet_libraries():
        while sd._initialized:
            sd._terminate()


def abandon_portaudio(memory: object) -> None:
    """Abandon this PortAudio without terminating it, and continue with a fresh copy.

    After its JACK server has died, closing a stream or PortAudio aborts the process (pa_jack.c
    asserts that jack_deactivate succeeds); with a stopped server it blocks without limit. A
    copy of the library loaded under another name has neither problem.

    Args:
        memory: buffers of the callback of a stream left open; kept alive in case it runs again.
    """
    sd = portaudio()
    sd._initialized = 0  # so that sounddevice doesn't terminate it at exit
    _ABANDONED.append(memory)
    if not sys.platform.startswith("linux"):
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copy(_library_file(), folder)
        _ABANDONED.append(sd._lib)
        sd._lib = sd._ffi.dlopen(copy)


def end_with_abandoned(code: int = 0) -> None:
    """Exit the process at once with `code` if a PortAudio was abandoned; otherwise return.

    Its JACK client may still call back, and a regular exit would free the callback's memory
    before that thread ends.
    """
    if _ABANDONED:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@functools.cache
def _library_file() -> Path:
    """Return the file PortAudio was loaded from; first called before any copy is loaded."""
    return next(
        Path(line.split(maxsplit=5)[5].strip())
        for line in Path("/proc/self/maps").read_text().splitlines()
        if "portaudio" in line
    )


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Discard what ALSA and JACK print to stderr within this context."""
    if not sys.platform.startswith("linux"):
        yield
        return
    sys.stderr.flush()
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        ctypes.CDLL(None).fflush(None)
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)
