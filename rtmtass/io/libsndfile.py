"""Decodes sound files by libsndfile to their real end, which isn't always where it takes it to be.

libsndfile ends an MP3 after the samples that its Xing header promises or that its size
lets expect, an Ogg file after the first of several links, and a FLAC where its header says.
Here the frames or pages are followed first; where they disagree, libsndfile gets a view of
the file in which they don't.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from rtmtass.errors import InputError
from rtmtass.io.byte_ranges import ByteRanges
from rtmtass.io.containers import read_container
from rtmtass.io.flac_length import find_streams
from rtmtass.io.mpeg_frames import follow_frames
from rtmtass.io.ogg_links import follow_pages
from rtmtass.types import Samples

UNKNOWN_FRAMES = 2**48
"""libsndfile returns a huge length, 2**63 - 1 with rounding, where a FLAC header has none."""
_ENDLESS = 1 << 44  # bytes; claimed for an MP3, so that its size doesn't end it


class ForwardFile(soundfile.SoundFile):  # type: ignore[misc]
    """A sound file that is only read forward.

    soundfile seeks to where it is after each read; an MP3 decoder then loses its bit
    reservoir, which is heard as a click at each block.
    """

    def seekable(self) -> bool:
        """Return False."""
        return False


@dataclasses.dataclass(frozen=True)
class Part:
    """One of the streams that a file consists of.

    Attributes:
        ranges: (first byte, end) of it in the file; None for the whole file as it is.
        patches, claimed_size: see `ByteRanges`.
        drop: samples to leave out at the beginning.
        frames: length after these; None to read to the end.
    """

    ranges: Sequence[tuple[int, int]] | None = None
    patches: Sequence[tuple[int, bytes]] = ()
    claimed_size: int | None = None
    drop: int = 0
    frames: int | None = None


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
        self._bytes: ByteRanges | None = None
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            container = read_container(file, str(path))
        whole = Part()
        if container is not None and container.patches:
            whole = Part([(0, size)], container.patches)
            self._bytes, self._file = self._open(whole)
        else:
            self._file = ForwardFile(str(path))
        if self._file.format == "RAW":  # libsndfile goes by a name such as .au or .gsm
            self._file.close()
            raise soundfile.SoundFileError("no header")
        self.sample_rate = int(self._file.samplerate)
        self.channels = int(self._file.channels)
        self.container = str(self._file.format)
        self.subtype = str(self._file.subtype)
        self.tags: dict[str, str] = dict(self._file.copy_metadata())
        frames = int(self._file.frames)
        self.frames: int | None = frames if frames < UNKNOWN_FRAMES else None
        self.promised = self.frames
        if container is not None and container.promised is not None and self.frames:
            lost = max(0, container.promised - container.present) / max(1, container.present)
            self.promised = self.frames + math.ceil(self.frames * lost)
        self.is_cut = self.is_damaged = False
        self._parts = [dataclasses.replace(whole, frames=self.frames)]
        self._index = 0
        try:
            if self.subtype.startswith("MPEG"):  # also within a WAV
                self._follow_mpeg()
            elif self.container == "OGG":
                self._follow_ogg()
            elif self.container == "FLAC":
                self._follow_flac()
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
        count = self._decode(out) if len(out) else 0
        while self._drop and count:
            dropped = min(self._drop, count)
            self._drop -= dropped
            out[: count - dropped] = out[dropped:count]
            count = count - dropped or self._decode(out)
        if self._left is not None:
            self._left -= count
        return count

    def _decode(self, out: Samples) -> int:
        """Decode up to a full `out`; return the frames that were decoded before an error."""
        out[:] = np.nan  # so that these can be told from the rest
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

    def _open(self, part: Part) -> tuple[ByteRanges, ForwardFile]:
        """Open some bytes of the file as a file of their own."""
        view = ByteRanges(
            self._path.open("rb"),
            part.ranges or (),
            claimed_size=part.claimed_size,
            patches=part.patches,
        )
        try:
            return view, ForwardFile(view)
        except BaseException:
            view.close()
            raise

    def _follow_mpeg(self) -> None:
        with self._path.open("rb") as file:
            found = follow_frames(file, str(self._path))
            size = file.seek(0, os.SEEK_END)
        if found is None:  # a free bit rate: only the decoder finds its frames
            self.frames = self.promised = None
            self._parts = [Part([(0, size)], claimed_size=_ENDLESS)]
            return
        self.promised = found.promised
        if self.frames == found.frames and len(found.ranges) == 1:
            return
        self.frames = found.frames
        self._parts = [
            Part(found.ranges, found.patches, _ENDLESS, found.delay, found.frames),
        ]

    def _follow_ogg(self) -> None:
        with self._path.open("rb") as file:
            found = follow_pages(file)
        self.is_cut = found.is_cut
        if len(found.ranges) > 1:
            self._join([Part([link]) for link in found.ranges])

    def _follow_flac(self) -> None:
        with self._path.open("rb") as file:
            streams = find_streams(file)
        if not streams or (len(streams) == 1 and streams[0].is_confirmed):
            return
        parts = []
        for stream in streams:
            patches = [] if stream.is_confirmed else [stream.patch]
            parts.append(Part([(stream.first, stream.end)], patches))
        self._join(parts)
        totals = [stream.total for stream in streams]
        self.promised = sum(totals) if all(totals) else None

    def _join(self, parts: list[Part]) -> None:
        """Read `parts` one after another, once each is known to match the first."""
        self._parts = []
        lengths: list[int | None] = []
        for part in parts:
            try:
                view, file = self._open(part)
            except soundfile.SoundFileError as error:
                raise InputError(
                    f"{self._path} consists of {len(parts)} streams, and number"
                    f" {len(lengths) + 1} can't be decoded; separate them one by one"
                ) from error
            with contextlib.closing(view), file:
                self._check_match(file, len(lengths) + 1)
                frames = int(file.frames)
            lengths.append(frames if frames < UNKNOWN_FRAMES else None)
            self._parts.append(dataclasses.replace(part, frames=lengths[-1]))
        known = [frames for frames in lengths if frames is not None]
        self.frames = self.promised = sum(known) if len(known) == len(lengths) else None

    def _check_match(self, file: ForwardFile, number: int) -> None:
        """Check the sample rate and channels of stream `number`."""
        if (file.samplerate, file.channels) != (self.sample_rate, self.channels):
            raise InputError(
                f"{self._path} consists of streams that don't match: the first has"
                f" {self.sample_rate} Hz and {self.channels} channel(s), number {number}"
                f" {file.samplerate} Hz and {file.channels}; separate them one by one"
            )
