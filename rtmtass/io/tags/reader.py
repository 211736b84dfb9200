"""Finds the metadata of a file, whichever its format."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO

from rtmtass.io.tags import id3, riff
from rtmtass.io.tags.model import MAX_BYTES, Metadata
from rtmtass.io.tags.ogg import read_ogg
from rtmtass.io.tags.vorbis import read_flac


def read_metadata(path: Path) -> Metadata:
    """Read a file's metadata; what is damaged or unknown is left out, as sound matters more.

    Memory is bounded: tags, chunks and pictures beyond 16 MB are left out.

    Args:
        path: of a plain file; a pipe has none.
    """
    if not path.is_file():
        return Metadata()
    try:
        with path.open("rb") as file:
            return _read(file)
    except (OSError, ValueError, IndexError, struct.error):
        return Metadata()


def _read(file: BinaryIO) -> Metadata:
    head = file.read(12)
    if head[:4] in (b"RIFF", b"RF64", b"BW64"):
        return riff.read_wav(file)
    if head[:4] == b"FORM":
        return riff.read_aiff(file)
    file.seek(8 if head[:4] == b"caff" else 4)
    if head[:4] == b"caff":
        return riff.read_caf(file)
    if head[:4] == b"fLaC":
        return read_flac(file)
    file.seek(0)
    if head[:4] == b"OggS":
        return read_ogg(file)
    return _read_after_id3(file, head)


def _read_after_id3(file: BinaryIO, head: bytes) -> Metadata:
    """Read an ID3v2 tag and what comes behind: an MP3, or a FLAC with tags of its own."""
    tag = None
    if head[:3] == b"ID3":
        end = 10 + id3.tag_size(head)
        if end <= MAX_BYTES:
            tag = id3.parse(file.read(end))
        file.seek(end)
        if file.read(4) == b"fLaC":
            return read_flac(file)
    if tag is not None:
        return id3.to_metadata(tag)
    is_mpeg = len(head) > 1 and head[0] == 0xFF and head[1] >= 0xE0
    if is_mpeg and file.seek(0, os.SEEK_END) > 128:
        file.seek(-128, os.SEEK_END)
        return id3.parse_v1(file.read(128))
    return Metadata()
