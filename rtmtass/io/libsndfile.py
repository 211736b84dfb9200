"""Decodes sound files by libsndfile, to their real end; see `layout`."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from pathlib import Path

import numpy as np
import soundfile

from rtmtass.errors import InputError
from rtmtass.io.byte_ranges import ByteRanges
from rtmtass.io.layout import Part, find_layout, find_mpeg_layout
from rtmtass.io.paths import library_path
from rtmtass.types import Samples

UNKNOWN_FRAMES = 2**48
"""libsndfile returns a huge length, 2**63 - 1 with rounding, where a FLAC header has none."""


class ForwardFile(soundfile.SoundFile):  # type: ignore[misc]
    """A sound file that is only read forward.

    soundfile seeks to where it is after each read; an MP3 decoder then loses its bit
    reservoir, which makes a click at each block.
    """

    def seekable(self) -> bool:
        """Return False."""
        return False


class Decoder:
    """The samples of a file from its first to its last, of all its parts.

    Args:
        path: of any file that libsndfile can read.

    Attributes:
        sample_rate: in Hz.
        channels: number of channels.
        container, subtype: soundfile's names for the file's format.
        tags: all that soundfile finds.
        frames: true length; None if it is known only at the end.
        promised: length that the header promises, and the file may not hold; None if it
            promises none.
        is_cut: the file ends within a block of the samples that it begins.
        is_damaged: decoding ended with an error before the end of the file.

    Raises:
        soundfile.SoundFileError: the file isn't audio that libsndfile can read.
        InputError: parts that don't match in sample rate or channels.
        OSError: the file can't be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        layout = find_layout(path)
        self._bytes, self._file = self._open(layout.parts[0])
        try:
            if self._file.format == "RAW":  # libsndfile goes by a name such as .au or .gsm
                raise soundfile.SoundFileError("it has no header")
            if self._file.subtype.startswith("MPEG") and layout.parts[0].ranges is None:
                with path.open("rb") as file:
                    layout = find_mpeg_layout(file, str(path))
            self.sample_rate = int(self._file.samplerate)
            self.channels = int(self._file.channels)
            self.container = str(self._file.format)
            self.subtype = str(self._file.subtype)
            self.tags: dict[str, str] = dict(self._file.copy_metadata())
            self.is_cut, self.is_damaged = layout.is_cut, False
            self._parts = self._measured(layout.parts)
            lengths = [part.frames for part in self._parts]
            self.frames = None if None in lengths else sum(n or 0 for n in lengths)
            self.promised = layout.promised or self.frames
            if layout.lost and self.frames:
                self.promised = self.frames + math.ceil(self.frames * layout.lost)
            self._index = 0
            self._start(self._parts[0])
        except BaseException:
            self.close()
            raise

    def read(self, out: Samples) -> int:
        """Fill the front of `out`, (n, channels); return the number of frames, 0 at the end."""
        while self._index < len(self._parts):
            count = self._read_part(out)
            if count or self.is_damaged:
                return count
            self._index += 1
            if self._index < len(self._parts):
                self._start(self._parts[self._index])
        return 0

    def close(self) -> None:
        """Close the file; may be called twice."""
        self._file.close()
        if self._bytes is not None:
            self._bytes.close()

    def _read_part(self, out: Samples) -> int:
        """Read from the current part; 0 at its end."""
        if self._left is not None:
            out = out[: self._left]
        while self._drop:  # apart, so that the first block is as long as the others
            dropped = self._decode(np.empty((min(self._drop, 4096), self.channels), np.float32))
            if not dropped:
                return 0
            self._drop -= dropped
        count = self._decode(out) if len(out) else 0
        if self._left is not None:
            self._left -= count
        return count

    def _decode(self, out: Samples) -> int:
        """Decode up to a full `out`; return the frames that were decoded before an error."""
        out[:] = np.nan  # marks what isn't written
        try:
            return len(self._file.read(len(out), dtype="float32", always_2d=True, out=out))
        except soundfile.SoundFileError:
            # In a stream of unknown length its end is an error, as are tags behind it.
            self.is_damaged = self._bytes is None or self._bytes.unread > 0
            return int(np.argmax(np.append(np.isnan(out).all(axis=1), True)))

    def _start(self, part: Part) -> None:
        """Begin to read a part."""
        self._drop, self._left = part.drop, part.frames
        if part.ranges is not None:
            self.close()
            self._bytes, self._file = self._open(part)

    def _open(self, part: Part) -> tuple[ByteRanges | None, ForwardFile]:
        """Open a part; some bytes of the file are opened as a file of their own."""
        if part.ranges is None:
            if self._path.suffix.lower() == ".raw":  # soundfile goes by the name, too
                raise soundfile.SoundFileError("it has no header")
            return None, ForwardFile(library_path(self._path))
        view = ByteRanges(
            self._path.open("rb"),
            part.ranges,
            claimed_size=part.claimed_size,
            patches=part.patches,
            tail=part.tail,
        )
        try:
            return view, ForwardFile(view)
        except BaseException:
            view.close()
            raise

    def _measured(self, parts: list[Part]) -> list[Part]:
        """Return the parts with their lengths, once each is known to match the first.

        Raises:
            InputError: one can't be decoded, or has another sample rate or number of channels.
        """
        if len(parts) == 1:
            return [self._with_length(parts[0], self._file)]
        measured = []
        for number, part in enumerate(parts, 1):
            try:
                view, file = self._open(part)
            except soundfile.SoundFileError as error:
                raise InputError(
                    f"{self._path} consists of {len(parts)} streams, and number {number} can't be"
                    " decoded; separate them one by one"
                ) from error
            assert view is not None, "several parts are ranges"
            with contextlib.closing(view), file:
                if (file.samplerate, file.channels) != (self.sample_rate, self.channels):
                    raise InputError(
                        f"{self._path} consists of streams that don't match: the first has"
                        f" {self.sample_rate} Hz and {self.channels} channel(s), number {number}"
                        f" {file.samplerate} Hz and {file.channels}; separate them one by one"
                    )
                measured.append(self._with_length(part, file))
        return measured

    def _with_length(self, part: Part, file: ForwardFile) -> Part:
        """Return a part with libsndfile's length, unless it is known better, or unknown."""
        frames = int(file.frames)
        if part.claimed_size is not None or frames >= UNKNOWN_FRAMES:
            return part
        known = frames if part.frames is None else part.frames
        return dataclasses.replace(part, frames=min(frames, known))
