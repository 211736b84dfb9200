"""The interface of what decodes an audio track, and the choice of a program for it."""

from __future__ import annotations

import functools
import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from rtmtass.errors import MissingPartError
from rtmtass.io.media.contents import Contents
from rtmtass.io.media.timeline import Timeline
from rtmtass.types import Samples

HOW_TO_INSTALL = 'pip install "rtmtass[video]", or install ffmpeg'

OnDamage = Callable[[str], None]
"""Called with a reason where decoding fails; what it raises ends the decoding."""


class TrackDecoder(Protocol):
    """Decodes an audio track from its first sample to its last, at its own rate.

    Attributes:
        sample_rate: in Hz.
        channels: number of channels.
        layout: FFmpeg's name of the speakers, such as "stereo".
        timeline: of the samples that `read` has returned, at least.
    """

    sample_rate: int
    channels: int
    layout: str
    timeline: Timeline

    def read(self, out: Samples) -> int:
        """Fill the front of `out`, (n, channels); return the number of frames, 0 at the end."""

    def close(self) -> None:
        """End decoding; may be called twice."""


class Backend(Protocol):
    """A way to read media files.

    Attributes:
        name: for messages.
    """

    name: str

    def examine(self, path: Path) -> Contents:
        """Return what a file holds.

        Raises:
            InputError: it isn't a media file, or is damaged.
        """

    def open_track(self, path: Path, index: int, on_damage: OnDamage) -> TrackDecoder:
        """Open the stream with that index.

        Raises:
            InputError: it can't be decoded.
        """


def has_backend() -> bool:
    """Whether media files can be read."""
    return has_pyav() or has_ffmpeg()


@functools.cache
def has_pyav() -> bool:
    """Whether PyAV is installed."""
    return importlib.util.find_spec("av") is not None


def has_ffmpeg() -> bool:
    """Whether ffmpeg and ffprobe are on the path."""
    return shutil.which("ffmpeg") is not None and shutil.which("ffprobe") is not None


def choose_backend(name: str) -> Backend:
    """Return PyAV if it is installed, else the ffmpeg on the path.

    Args:
        name: of the file to be read, for the error.

    Raises:
        MissingPartError: there is neither.
    """
    if has_pyav():
        from rtmtass.io.media.pyav import PyavBackend

        return PyavBackend()
    if has_ffmpeg():
        from rtmtass.io.media.ffmpeg import FfmpegBackend

        return FfmpegBackend()
    lacks = "ffmpeg is installed without ffprobe" if shutil.which("ffmpeg") else ""
    raise MissingPartError(
        f"{name} needs PyAV or ffmpeg to be read{f', and {lacks}' * bool(lacks)}: {HOW_TO_INSTALL}"
    )


def changed(path: Path, decoder: TrackDecoder, sample_rate: int, channels: int) -> str:
    """Return the message for a track whose rate or channels change."""
    return (
        f"{path} changes from {decoder.sample_rate} Hz and {decoder.channels} channel(s) to"
        f" {sample_rate} Hz and {channels} after"
        f" {decoder.timeline.position / decoder.sample_rate:.2f} s; cut it there, and separate the"
        " parts one by one"
    )
