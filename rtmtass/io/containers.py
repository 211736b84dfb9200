"""Reads headers of AIFF, AU, CAF, W64, NIST and VOC that libsndfile trusts or misreads.

libsndfile ends without a word where such a file is cut short, reads float, A-law and µ-law
of a W64 with an extensible format chunk as integers (1.2.2), and takes the headers of a
VOC's further blocks for sound.

Source: Apple "Audio Interchange File Format AIFF-C" and "Core Audio Format Specification";
Sonic Foundry "Wave64 file format"; Creative Labs "VOC file format"; NIST
"SPHERE" manual.
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from rtmtass.errors import InputError

_W64_SUFFIX = bytes.fromhex("f3acd3118cd100c04f8edb8a")
_EXTENSIBLE = 0xFFFE
_VOC_MAGIC = b"Creative Voice File\x1a"
_VOC_SOUND = (1, 2, 9)  # block types: with a header, continued, with a long header
_NIST_FIELD = re.compile(rb"(\w+) -i (\d{1,18})\s")
_NIST_SIZES = (b"sample_count", b"channel_count", b"sample_n_bytes")
_MAX_CHUNKS = 10_000  # before the sound; a file with more is no recording


@dataclass(frozen=True)
class Container:
    """What a header says that libsndfile doesn't.

    Attributes:
        promised: bytes of sound; None if they are unknown.
        present: bytes of it that the file can hold.
        patches: (position, bytes) that libsndfile has to read in place of the file's.
    """

    promised: int | None
    present: int
    patches: tuple[tuple[int, bytes], ...] = ()


def read_container(file: BinaryIO, name: str) -> Container | None:
    """Read the header of a file; None if it is of another type.

    Raises:
        InputError: a VOC of several blocks.
    """
    n_bytes = file.seek(0, os.SEEK_END)
    file.seek(0)
    magic = file.read(32)
    if magic[:4] == b"FORM" and magic[8:12] in (b"AIFF", b"AIFC"):
        return _sound_chunk(_chunks(file, ">4sI", 12, n_bytes), b"SSND", n_bytes, (0, 0xFFFFFFFF))
    if magic[:4] == b"caff":
        return _sound_chunk(_chunks(file, ">4sq", 8, n_bytes), b"data", n_bytes, (-1,))
    if magic[:4] == b"riff" and magic[4:16] == bytes.fromhex("2e91cf11a5d628db04c10000"):
        return _read_w64(file, n_bytes)
    if magic[:4] in (b".snd", b"dns."):
        offset, size = struct.unpack_from(">II" if magic[0] == 46 else "<II", magic.ljust(12), 4)
        present = max(0, n_bytes - offset)
        return Container(None if size in (0, 0xFFFFFFFF) else size, present)
    if magic[:8] == b"NIST_1A\n":
        return _read_nist(file, magic, n_bytes)
    if magic.startswith(_VOC_MAGIC):
        _check_voc(file, magic, n_bytes, name)
    return None


def _chunks(
    file: BinaryIO, layout: str, position: int, n_bytes: int
) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name of each chunk, the position of its content, and its size."""
    width = struct.calcsize(layout)
    for _ in range(_MAX_CHUNKS):
        file.seek(position)
        header = file.read(width)
        if len(header) < width:
            return
        chunk, size = struct.unpack(layout, header)
        yield chunk, position + width, size
        padding = size % 2 if layout == ">4sI" else 0
        position += width + max(0, size) + padding
        if position > n_bytes:
            return


def _sound_chunk(
    chunks: Iterator[tuple[bytes, int, int]], name: bytes, n_bytes: int, unknown: tuple[int, ...]
) -> Container | None:
    """Find the chunk with the sound; sizes in `unknown` stand for an unknown one."""
    for chunk, position, size in chunks:
        if chunk == name:
            return Container(None if size in unknown else size, max(0, n_bytes - position))
    return None


def _read_w64(file: BinaryIO, n_bytes: int) -> Container | None:
    position, patches = 40, []
    for _ in range(_MAX_CHUNKS):
        if position > n_bytes:
            return None
        file.seek(position)
        header = file.read(24 + 26)
        if len(header) < 24 or header[4:16] != _W64_SUFFIX:
            return None
        (size,) = struct.unpack_from("<Q", header, 16)
        if header[:4] == b"fmt " and len(header) == 50:
            tag, true_tag = struct.unpack_from("<H22xH", header, 24)
            if tag == _EXTENSIBLE and true_tag != 1:
                patches.append((position + 24, struct.pack("<H", true_tag)))
        if header[:4] == b"data":
            is_unknown = size <= 24 or size >= 1 << 62
            return Container(
                None if is_unknown else size - 24, n_bytes - position - 24, tuple(patches)
            )
        position += (max(size, 24) + 7) & ~7
    return None


def _read_nist(file: BinaryIO, magic: bytes, n_bytes: int) -> Container | None:
    try:
        size = min(int(magic[8:16]), 1 << 16)
    except ValueError:
        return None
    file.seek(0)
    fields = dict(_NIST_FIELD.findall(file.read(size)))
    try:
        numbers = [int(fields[name]) for name in _NIST_SIZES]
    except KeyError:
        return None
    return Container(math.prod(numbers), max(0, n_bytes - size))


def _check_voc(file: BinaryIO, magic: bytes, n_bytes: int, name: str) -> None:
    """Raise for a VOC with more than one block of sound."""
    (position,) = struct.unpack_from("<H", magic, 20)
    sounds = 0
    for _ in range(_MAX_CHUNKS):
        file.seek(position)
        header = file.read(4)
        if len(header) < 4 or header[0] == 0:
            return
        sounds += header[0] in _VOC_SOUND
        if sounds > 1:
            raise InputError(
                f"{name} is a VOC of several blocks, which libsndfile misreads; convert it"
                " to WAV first, with ffmpeg or Audacity"
            )
        position += 4 + int.from_bytes(header[1:4], "little")
        if position >= n_bytes:
            return
