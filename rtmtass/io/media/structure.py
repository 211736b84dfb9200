"""Recognises media files by their first bytes, and those that end before their structure does.

FFmpeg ends without a word where such a file is cut short, and calls an MP4 that lost its
index "invalid data".

Source: ISO/IEC 14496-12 (boxes); RFC 9559 (Matroska); Microsoft "AVI RIFF File Reference" and
"Advanced Systems Format Specification".
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot", b"moof", b"styp")
_EBML = bytes.fromhex("1a45dfa3")
_SEGMENT = bytes.fromhex("18538067")
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_MAGIC = (
    _EBML, _ASF, b"FLV\x01", b"\0\0\x01\xba", b"\0\0\x01\xb3", b"MAC ", b"wvpk", b"TTA1",
    b".RMF", b"#!AMR", b"\x0b\x77", b"\x7f\xfe\x80\x01", b".ra\xfd", b"ADIF",
)  # fmt: skip
_MAX_CHUNKS = 100_000
_PACKET, _SYNC = 188, 0x47  # of an MPEG transport stream
_HEAD = 4096


@dataclass(frozen=True)
class Structure:
    """What the outermost parts of a file say.

    Attributes:
        promised: size in bytes at least; None if they don't say.
        present: size in bytes.
        lacks_index: an MP4 without the index that its samples are found by.
        is_fast_start: an MP4 whose index comes before its samples.
    """

    promised: int | None
    present: int
    lacks_index: bool = False
    is_fast_start: bool = False

    @property
    def is_cut(self) -> bool:
        """Whether the file ends too early."""
        return self.promised is not None and self.promised > self.present


def is_media(path: Path) -> bool:
    """Whether a file begins as one that only FFmpeg reads, whatever its name; False if unreadable.

    WAV, FLAC, MP3 and the like don't.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return False
    if head[4:8] in _BOXES or head.startswith(_MAGIC):
        return True
    if head[:4] == b"RIFF":
        return head[8:12] == b"AVI "
    if head[:4] == b"OggS":
        return b"\x80theora" in head or b"Speex   " in head
    is_adts = len(head) > 2 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0
    return is_adts or is_transport_stream(head)


def is_transport_stream(head: bytes) -> bool:
    """Whether the first bytes of a file are those of an MPEG transport stream."""
    for offset, step in ((0, _PACKET), (4, _PACKET + 4)):
        syncs = head[offset::step][:4]
        if len(syncs) == 4 and set(syncs) == {_SYNC}:
            return True
    return False


def read_structure(path: Path) -> Structure:
    """Follow the outermost parts of a file.

    Raises:
        OSError: the file can't be read.
    """
    with path.open("rb") as file:
        head = file.read(64)
        n_bytes = file.seek(0, os.SEEK_END)
        if head[4:8] in _BOXES:
            return _follow_boxes(file, n_bytes)
        if head.startswith(_EBML):
            return Structure(_end_of_segment(file, n_bytes), n_bytes)
        if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            return Structure(_end_of_riff(file, n_bytes), n_bytes)
        if head.startswith(_ASF):
            return Structure(_end_of_asf(file, n_bytes), n_bytes)
    return Structure(None, n_bytes)


def _follow_boxes(file: BinaryIO, n_bytes: int) -> Structure:
    position, found = 0, []
    for _ in range(_MAX_CHUNKS):
        file.seek(position)
        header = file.read(16)
        if len(header) < 8:
            break
        size, kind = struct.unpack_from(">I4s", header)
        if size == 1 and len(header) == 16:
            (size,) = struct.unpack_from(">Q", header, 8)
        found.append(kind)
        if size == 0:  # to the end of the file
            position = n_bytes
        elif size < 8:
            break
        else:
            position += size
        if position >= n_bytes:
            break
    first = next((kind for kind in found if kind in (b"moov", b"mdat")), b"")
    lacks_index = b"mdat" in found and b"moov" not in found
    return Structure(max(position, 8), n_bytes, lacks_index, first == b"moov")


def _end_of_segment(file: BinaryIO, n_bytes: int) -> int | None:
    position = 0
    for _ in range(_MAX_CHUNKS):
        file.seek(position)
        data = file.read(12)
        if len(data) < 12:
            return None
        name_width = 9 - data[0].bit_length()
        width = 9 - data[name_width].bit_length()
        if name_width > 4 or width > 8:
            return None
        raw = int.from_bytes(data[name_width : name_width + width], "big")
        size = raw & ((1 << 7 * width) - 1)
        if size == (1 << 7 * width) - 1:  # unknown, as of a recording that was streamed
            return None
        position += name_width + width + size
        if data[:name_width] == _SEGMENT or position > n_bytes:
            return position
    return None


def _end_of_riff(file: BinaryIO, n_bytes: int) -> int | None:
    position = 0
    for _ in range(_MAX_CHUNKS):
        file.seek(position)
        header = file.read(8)
        if len(header) < 8 or header[:4] != b"RIFF":
            break
        (size,) = struct.unpack_from("<I", header, 4)
        if size in (0, 0xFFFFFFFF):
            return None
        position += 8 + size
    return position


def _end_of_asf(file: BinaryIO, n_bytes: int) -> int | None:
    position = 0
    for _ in range(_MAX_CHUNKS):
        file.seek(position)
        header = file.read(24)
        if len(header) < 24 or position >= n_bytes:
            break
        (size,) = struct.unpack_from("<Q", header, 16)
        if size < 24:
            return None
        position += size
    return position
