"""Checks the length that a FLAC's header promises against its last frame, and finds joined FLACs.

libsndfile ends where the header says: sound behind it would be lost.

Source: RFC 9639, sections 8.2 (STREAMINFO) and 9.1 (frame header).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import BinaryIO

_TAIL = 1 << 18  # bytes to look for the last frame in; those of 8 channels may be large
_CHUNK = 1 << 22
_MARKER = b"fLaC"
_STREAMINFO = b"\x00\x00\x00\x22"
_SYNC = re.compile(rb"\xff[\xf8\xf9]")
_BLOCK_SIZES = {1: 192, **{k: 576 << (k - 2) for k in range(2, 6)}, **{
    k: 256 << (k - 8) for k in range(8, 16)
}}  # fmt: skip


@dataclass(frozen=True)
class FlacStream:
    """One FLAC stream of a file.

    Attributes:
        first, end: its bytes in the file.
        total: samples according to its header; 0 if unknown.
        is_confirmed: the last frame ends at `total`.
        patch: position within the stream and bytes that make the length unknown.
    """

    first: int
    end: int
    total: int
    is_confirmed: bool
    patch: tuple[int, bytes]


def find_streams(file: BinaryIO) -> list[FlacStream]:
    """Return the FLAC streams of a file, usually one; none if it isn't FLAC."""
    n_bytes = file.seek(0, os.SEEK_END)
    starts = _find_markers(file, n_bytes)
    return [
        _describe(file, first, end)
        for first, end in zip(starts, [*starts[1:], n_bytes], strict=False)
    ]


def _find_markers(file: BinaryIO, n_bytes: int) -> list[int]:
    """Return where "fLaC" is followed by a STREAMINFO block."""
    marker = re.compile(re.escape(_MARKER) + rb"[\x00\x80]" + re.escape(_STREAMINFO[1:]))
    starts, position, overlap = [], 0, 7
    while position < n_bytes:
        file.seek(position)
        data = file.read(_CHUNK + overlap)
        starts += [position + m.start() for m in marker.finditer(data) if m.start() < _CHUNK]
        position += _CHUNK
    return starts


def _describe(file: BinaryIO, first: int, end: int) -> FlacStream:
    file.seek(first)
    info = file.read(42)
    info += bytes(42 - len(info))
    total = int.from_bytes(info[21:26], "big") & 0xFFFFFFFFF
    begin = max(first, end - _TAIL)
    file.seek(begin)
    tail = file.read(end - begin)
    largest = int.from_bytes(info[10:12], "big")
    is_confirmed = total > 0 and any(
        _ends_at(tail[m.start() : m.start() + 16], total, largest) for m in _SYNC.finditer(tail)
    )
    return FlacStream(first, end, total, is_confirmed, (21, bytes([info[21] & 0xF0]) + bytes(4)))


def _ends_at(data: bytes, total: int, block_size: int) -> bool:
    """Whether the header of a frame that ends with sample `total` begins here.

    Args:
        data: the header, and bytes behind it.
        total: number of samples of the stream.
        block_size: of all frames but the last, where it is fixed.
    """
    number, used = _coded_number(data[4:])
    code = data[2] >> 4 if len(data) > 2 else 0
    at = 4 + used
    if not used:
        return False
    if code in (6, 7):
        width = code - 5
        size = int.from_bytes(data[at : at + width], "big") + 1
        at += width
    else:
        size = _BLOCK_SIZES.get(code, 0)
    rate = data[2] & 15
    at += {12: 1, 13: 2, 14: 2}.get(rate, 0)
    is_variable = data[1] & 1
    begin = number if is_variable else number * block_size
    return size > 0 and begin + size == total and at < len(data) and _crc8(data[:at]) == data[at]


def _coded_number(data: bytes) -> tuple[int, int]:
    """Return the frame's or sample's number, coded as in UTF-8, and its bytes; 0 bytes if none."""
    if not data:
        return 0, 0
    ones = 8 - (data[0] ^ 0xFF).bit_length()
    if ones == 0:
        return data[0], 1
    if ones in (1, 8) or len(data) < ones:
        return 0, 0
    number = data[0] & (0x7F >> ones)
    for byte in data[1:ones]:
        if byte & 0xC0 != 0x80:
            return 0, 0
        number = number << 6 | byte & 0x3F
    return number, ones


def _crc8(data: bytes) -> int:
    """Return the checksum with the polynomial x^8 + x^2 + x + 1."""
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ 0x07 if crc & 0x80 else crc << 1) & 0xFF
    return crc
