"""The sound library: found, kept quiet, started again, and left behind where it can't go on."""

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
"""Copies of PortAudio whose JACK died: threads of theirs still run, so they stay loaded."""


def portaudio() -> Any:
    """Return the module sounddevice.

    Raises:
        MissingPartError: PortAudio isn't installed.
    """
    try:
        import sounddevice
    except OSError as error:
        raise MissingPartError(
            f"PortAudio, which talks to sound devices, isn't installed. {PORTAUDIO_PACKAGES}"
        ) from error
    _silence_alsa()
    return sounddevice


@functools.cache
def _silence_alsa() -> None:
    """Keep ALSA from writing on the terminal from its own threads, across our display.

    Its handler gets a file, a line and more, and must return; a C function that looks at no
    argument does that without the interpreter.
    """
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):
        do_nothing = ctypes.cast(ctypes.CDLL(None).getppid, ctypes.c_void_p)
        ctypes.CDLL("libasound.so.2").snd_lib_error_set_handler(do_nothing)


def restart_portaudio() -> None:
    """Look for devices anew: PortAudio lists them once. No stream may be open."""
    sd = portaudio()
    with quiet_libraries():
        while sd._initialized:
            sd._terminate()
        sd._initialize()


def close_portaudio() -> None:
    """Let go of the sound system; `restart_portaudio` comes back to it."""
    sd = portaudio()
    with quiet_libraries():
        while sd._initialized:
            sd._terminate()


def abandon_portaudio(memory: object) -> None:
    """Leave this PortAudio to itself and go on with a new one.

    Once its JACK server has died, closing a stream or PortAudio ends in a failed
    assertion (pa_jack.c asserts that jack_deactivate succeeds), and that ends the
    process. One that stands still would be waited for without an end. A copy of the
    library under another name knows nothing of all that.

    Args:
        memory: in use by the callback of a stream that is left open, should it ever run again.
    """
    sd = portaudio()
    sd._initialized = 0  # so that nobody tries to terminate it at exit either
    _ABANDONED.append(memory)
    if not sys.platform.startswith("linux"):
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copy(_library_file(), folder)
        _ABANDONED.append(sd._lib)
        sd._lib = sd._ffi.dlopen(copy)


def end_with_abandoned() -> None:
    """End the process, with 0, if a PortAudio was abandoned; otherwise return.

    Its JACK client may still be called, and Python, taken down in order, would free
    what is called before the thread that calls it is gone.
    """
    if _ABANDONED:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


@functools.cache
def _library_file() -> Path:
    """Return where PortAudio was loaded from; asked first when no copy is loaded yet."""
    return next(
        Path(line.split(maxsplit=5)[5].strip())
        for line in Path("/proc/self/maps").read_text().splitlines()
        if "portaudio" in line
    )


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep ALSA and JACK from telling the terminal what they didn't find."""
    if not sys.platform.startswith("linux"):
        yield
        return
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        ctypes.CDLL(None).fflush(None)
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
