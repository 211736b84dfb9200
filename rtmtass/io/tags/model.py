"""What metadata is, whichever format it is stored in."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Mapping
from dataclasses import dataclass

MAX_BYTES = (1 << 24) - 1
"""Size of the largest chunk, picture or tag that is read; a FLAC block can't be larger."""
MAX_TOTAL = 4 * MAX_BYTES
"""Size of all that is read of one file."""
MAX_FIELDS = 10_000
"""Fields, frames or chunks that are read of one file."""

CHANGED_BY_SEPARATION = ("REPLAYGAIN_", "R128_", "ITUNNORM", "ITUNSMPB", "ENCODER")
"""Starts of names of fields that describe the encoder or the level of the input's samples."""


@dataclass(frozen=True)
class Picture:
    """A cover, or another picture.

    Attributes:
        data: the image file.
        mime: its type, such as "image/png".
        kind: what it shows: 3 is the front cover; the numbers of ID3 and FLAC.
        description: in words.
        size: width and height in pixels, bits per pixel, colours of a palette; 0 if unknown.
    """

    data: bytes
    mime: str
    kind: int = 3
    description: str = ""
    size: tuple[int, int, int, int] = (0, 0, 0, 0)


@dataclass(frozen=True)
class Id3Tag:
    """An ID3v2 tag, without the encodings of its transport.

    Attributes:
        version: 3 or 4, for ID3v2.3 and ID3v2.4.
        frames: (identifier, body), in the file's order.
    """

    version: int
    frames: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True)
class Metadata:
    """The metadata of one recording.

    What the input's own format holds is kept as bytes too, so that an output of the same
    format gets it as it was.

    Attributes:
        comments: (name, text), by the names of Vorbis comments, such as "ALBUMARTIST".
        pictures: covers and others.
        chunks: (identifier, body) of a WAV, such as b"bext"; text fields are in b"LIST".
        id3: of an MP3, or of a WAV's id3 chunk.
        software: that wrote the file; never copied from an input.
        speakers: bits of the speaker positions in the order of channels, WAV's
            dwChannelMask; 0 if the file says that there are none, None if it doesn't say.
    """

    comments: tuple[tuple[str, str], ...] = ()
    pictures: tuple[Picture, ...] = ()
    chunks: tuple[tuple[bytes, bytes], ...] = ()
    id3: Id3Tag | None = None
    speakers: int | None = None
    software: str = ""

    @classmethod
    def from_fields(cls, fields: Mapping[str, str]) -> Metadata:
        """Return text fields, by soundfile's names, as metadata."""
        comments = [(name.upper(), text) for name, text in fields.items() if text]
        kept = tuple(field for field in comments if field[0] != "SOFTWARE")
        return cls(comments=kept, software=fields.get("software", ""))

    def for_channels(self, channels_in: int, channels: int) -> Metadata:
        """Return it for an output of `channels`; speakers apply to as many channels only."""
        if channels == channels_in:
            return self
        kept = tuple((name, body) for name, body in self.chunks if name not in (b"chna", b"axml"))
        return dataclasses.replace(self, speakers=None, chunks=kept)


def is_kept(name: str) -> bool:
    """Whether a field still holds for the stems."""
    return not name.upper().startswith(CHANGED_BY_SEPARATION)


def decode_text(data: bytes) -> str:
    """Decode text of unknown encoding: UTF-8 if it is, else Windows' cp1252, up to a NUL."""
    data = data.split(b"\0", 1)[0]
    try:
        return data.decode("utf-8").strip()
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace").strip()


def reset_loudness(bext: bytes) -> bytes:
    """Return a bext chunk without its loudness, which isn't that of a stem.

    Source: EBU Tech 3285 version 2, where 0x7FFF stands for a value that isn't known.
    """
    if len(bext) < 602 or struct.unpack_from("<H", bext, 346)[0] < 2:
        return bext
    return bext[:412] + struct.pack("<5H", *(0x7FFF,) * 5) + bext[422:]
