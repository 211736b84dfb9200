"""Adds metadata to a file while libsndfile encodes it."""

from __future__ import annotations

import os
import struct

from rtmtass.io.encodings import Encoding
from rtmtass.io.tags import id3, riff, vorbis
from rtmtass.io.tags.model import Metadata
from rtmtass.io.tags.ogg import Bytes, OggComments

_FORMAT_CHUNK = {"WAV": (12, 24), "WAVEX": (12, 48), "RF64": (48, 48)}
"""Position and size of the format chunk as libsndfile writes it; an RF64's sizes come before."""


def container_for(encoding: Encoding, metadata: Metadata) -> str:
    """Return soundfile's name for the container: WAVEX, if there are speaker positions."""
    if encoding.container == "WAV" and metadata.speakers is not None:
        return "WAVEX"
    return encoding.container


def with_metadata(
    file: Bytes, container: str, channels: int, metadata: Metadata
) -> Inserted | OggComments:
    """Return the file object for libsndfile to write to.

    Args:
        file: to write to, at its start.
        container: soundfile's name.
        channels: of the file.
        metadata: what the container can't hold is left out.
    """
    if container in _FORMAT_CHUNK:
        return InsertedInWav(file, container, riff.pack_wav(metadata), metadata.speakers)
    if container == "FLAC":
        has_any = metadata != Metadata()
        blocks = vorbis.pack_flac(metadata, channels) if has_any else b""
        return InsertedInFlac(file, vorbis.STREAMINFO_END, blocks)
    if container == "OGG" and (metadata.comments or metadata.pictures or metadata.software):
        return OggComments(file, metadata)
    tag = id3.from_metadata(metadata) if container == "MP3" else None
    return Inserted(file, 0, id3.pack(tag) if tag and tag.frames else b"")


class Inserted:
    """A file object with bytes in it that its user doesn't see.

    Args:
        file: to write to.
        start: position of the bytes.
        inserted: the bytes, written as soon as the position is reached.
    """

    def __init__(self, file: Bytes, start: int, inserted: bytes) -> None:
        self._file = file
        self._start = start
        self._inserted = inserted
        self._position = 0
        self._is_there = not inserted
        if not start:
            self._insert()

    def write(self, data: bytes) -> int:
        """Write `data`, around the inserted bytes; see `ogg.Bytes`."""
        before = max(0, min(len(data), self._start - self._position))
        written = 0
        for part in (data[:before], data[before:]):
            if part and (self._is_there or self._position < self._start or self._insert()):
                self.seek(self._position)
                done = self._file.write(part)
                self._position += done
                written += done
                if done < len(part):
                    break
        return written

    def read(self, n_bytes: int) -> bytes:
        """Read up to `n_bytes`, and not across the inserted bytes."""
        if self._position < self._start:
            n_bytes = min(n_bytes, self._start - self._position)
        self.seek(self._position)
        data = self._file.read(n_bytes)
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position, of the bytes that the user sees; return it."""
        if whence == os.SEEK_CUR:
            offset += self._position
        elif whence == os.SEEK_END:
            offset += self._file.seek(0, os.SEEK_END)
            offset -= len(self._inserted) if self._is_there else 0
        is_behind = offset >= self._start and self._is_there
        self._file.seek(offset + len(self._inserted) * is_behind)
        self._position = offset
        return offset

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def finish(self) -> None:
        """Correct what the inserted bytes change in the finished file.

        Raises:
            OSError: the file can't be read.
        """

    def _insert(self) -> bool:
        self._file.seek(self._start)
        if self._inserted and self._file.write(self._inserted) < len(self._inserted):
            return False
        self._is_there = True
        return True

    @property
    def _end(self) -> int:
        """Position in the file behind the inserted bytes."""
        return self._start + len(self._inserted)

    def _overwrite(self, position: int, data: bytes) -> None:
        self._file.seek(position)
        self._file.write(data)


class InsertedInWav(Inserted):
    """Chunks in a WAV, behind its format; `speakers` are those of an extensible format."""

    def __init__(self, file: Bytes, container: str, inserted: bytes, speakers: int | None) -> None:
        self._format_at, size = _FORMAT_CHUNK[container]
        super().__init__(file, self._format_at + size, inserted)
        self._speakers = speakers

    def finish(self) -> None:
        """See `Inserted`: sets the size of the whole, and the speakers."""
        n_bytes = self._file.seek(0, os.SEEK_END)
        if n_bytes < self._end:  # the file can't be read, or is nothing yet
            return
        self._file.seek(0)
        if self._file.read(4) == b"RF64":
            self._overwrite(20, struct.pack("<Q", n_bytes - 8))
        else:
            self._overwrite(4, struct.pack("<I", n_bytes - 8))
        self._file.seek(self._format_at)
        head = self._file.read(10)
        if self._speakers is not None and head[:4] + head[8:] == b"fmt \xfe\xff":
            self._overwrite(self._format_at + 8 + 20, struct.pack("<I", self._speakers))


class InsertedInFlac(Inserted):
    """Blocks in a FLAC, among them comments, of which it can have one block only."""

    def finish(self) -> None:
        """See `Inserted`: turns libFLAC's own comments, a block behind ours, into padding."""
        self._file.seek(self._end)
        head = self._file.read(4)
        if self._inserted and head and head[0] & 0x7F == vorbis.COMMENT:
            blank = bytes(int.from_bytes(head[1:], "big"))
            self._overwrite(self._end, bytes([head[0] & 0x80 | vorbis.PADDING]) + head[1:] + blank)
