"""Reads any part of a sound file whose samples libsndfile seeks to exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from rtmtass.errors import InputError
from rtmtass.io.layout import Part, find_layout
from rtmtass.io.part_file import why_unreadable
from rtmtass.io.paths import library_path
from rtmtass.types import Samples

_CONTAINERS = ("WAV", "WAVEX", "RF64", "FLAC", "AIFF")
_SUBTYPES = ("PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")


class SpanReader:
    """The samples of a file by their position; memory use doesn't depend on its length.

    Args:
        path: of a file that `is_seekable`.

    Attributes:
        sample_rate: in Hz.
        channels: number of channels.
        frames: length.

    Raises:
        InputError: the file can't be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = soundfile.SoundFile(library_path(path))
        except soundfile.SoundFileError as error:
            raise InputError(f"{path} can't be read: {error}; write it again") from error
        self.sample_rate = int(self._file.samplerate)
        self.channels = int(self._file.channels)
        self.frames = int(self._file.frames)

    def read(self, start: int, count: int) -> Samples:
        """Return (n, channels) from frame `start` on; n is less than `count` at the end only.

        Raises:
            InputError: the file is damaged there.
        """
        count = max(0, min(count, self.frames - start))
        if not count:
            return np.zeros((0, self.channels), np.float32)
        try:
            self._file.seek(start)
            block: Samples = self._file.read(count, dtype="float32", always_2d=True)
        except soundfile.SoundFileError as error:
            at = start / self.sample_rate
            raise InputError(f"{self._path} is damaged near {at:.2f} s: {error}") from error
        return block

    def close(self) -> None:
        """Close the file; may be called twice."""
        self._file.close()


def is_seekable(path: Path) -> bool:
    """Whether `SpanReader` returns the samples that `FileSource` does.

    It doesn't where libsndfile decodes with loss, as seeking then changes the samples, nor
    where it would take a wrong length or the first of several streams.

    Raises:
        InputError: the file can't be read.
    """
    try:
        if find_layout(path).parts != [Part()]:
            return False
        about = soundfile.info(library_path(path))
    except OSError as error:
        raise InputError(why_unreadable(path, error)) from error
    except (InputError, soundfile.SoundFileError):
        return False  # what opens it to separate it names the reason
    return about.format in _CONTAINERS and about.subtype in _SUBTYPES
