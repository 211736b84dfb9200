"""Finds the streams of a sound file, and its true length where libsndfile would trust a wrong one.

libsndfile ends an MP3 after the samples that its Xing header promises or that its size
lets expect, an Ogg file after the first of several links, and a FLAC where its header says.
Here the frames or pages are followed first, so that it can be given a view of the file in
which they don't.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from rtmtass.io.containers import read_container
from rtmtass.io.flac_length import find_streams
from rtmtass.io.mpeg_frames import MpegAudio, begins_with_frames, follow_frames
from rtmtass.io.ogg_links import follow_pages
from rtmtass.io.wav_header import read_header

_ENDLESS = 1 << 44  # bytes; claimed for an MP3, so that its size doesn't end it
_ID3_FOOTER = 0x10  # flag of an ID3v2.4 tag
_MPEG_SUFFIXES = (".mp3", ".mp2", ".mpga")
_GSM, _GSM_BYTES, _GSM_SAMPLES = 0x31, 65, 320  # format tag of a WAV; size of a block
_MPEG_TAGS = (0x50, 0x55)  # of a WAV that contains MPEG audio


@dataclasses.dataclass(frozen=True)
class Part:
    """One of the streams that a file consists of.

    Attributes:
        ranges: (first byte, end) of it in the file; None for the whole file as it is.
        patches, claimed_size, tail: see `ByteRanges`.
        drop: samples to leave out at the beginning.
        frames: length after these; None to read to the end.
    """

    ranges: Sequence[tuple[int, int]] | None = None
    patches: Sequence[tuple[int, bytes]] = ()
    claimed_size: int | None = None
    tail: bytes = b""
    drop: int = 0
    frames: int | None = None


@dataclasses.dataclass(frozen=True)
class Layout:
    """The streams of a file.

    Attributes:
        parts: to be decoded one after another.
        promised: length according to the header, in samples; None if it is as libsndfile
            says, or unknown.
        lost: part of the sound that the header promises and the file doesn't hold, relative to
            what it holds.
        is_cut: the file ends within a block of the samples that it begins.
    """

    parts: list[Part]
    promised: int | None = None
    lost: float = 0.0
    is_cut: bool = False


def find_layout(path: Path) -> Layout:
    """Find the streams of a file.

    Raises:
        InputError: streams that can't be decoded as one, or a VOC of several blocks.
        OSError: the file can't be read.
    """
    with path.open("rb") as file:
        magic = file.read(24)
        if magic[:4] == b"OggS":
            pages = follow_pages(file)
            several = len(pages.ranges) > 1
            return Layout(
                [Part([link]) for link in pages.ranges] if several else [Part()],
                is_cut=pages.is_cut,
            )
        is_mpeg_wav = magic[:4] == b"RIFF" and int.from_bytes(magic[20:22], "little") in _MPEG_TAGS
        if is_mpeg_wav or path.suffix.lower() in _MPEG_SUFFIXES or begins_with_frames(file):
            return find_mpeg_layout(file, str(path))
        if magic[:4] == b"fLaC" or magic[:3] == b"ID3":
            return _flac_layout(file)
        if magic[:4] == b"RIFF" and int.from_bytes(magic[20:22], "little") == _GSM:
            return _gsm_layout(file, str(path))
        container = read_container(file, str(path))
        if container is None:
            return Layout([Part()])
        size = file.seek(0, os.SEEK_END)
        part = Part([(0, size)], container.patches) if container.patches else Part()
        if container.promised is None:
            return Layout([part])
        missing = max(0, container.promised - container.present)
        return Layout([part], lost=missing / max(1, container.present))


def find_mpeg_layout(file: BinaryIO, name: str) -> Layout:
    """As `find_layout`, of MPEG audio; the frames of a free bit rate are left to the decoder."""
    found = follow_frames(file, name)
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 128))
    tail = file.read(128)
    tail = tail if tail[:3] == b"TAG" else b""
    if found is None:
        return Layout([Part([(0, size)], claimed_size=_ENDLESS, tail=tail)])
    ranges, shift, patches = _with_id3(file, found)
    patches += [(position + shift, patch) for position, patch in found.patches]
    part = Part(ranges, patches, _ENDLESS, tail, found.delay, found.frames)
    return Layout([part], found.frames if found.promised is None else found.promised)


def _with_id3(
    file: BinaryIO, found: MpegAudio
) -> tuple[list[tuple[int, int]], int, list[tuple[int, bytes]]]:
    """Return the ranges of the frames and of the ID3 tag before them, the tag's size, and patches.

    The tag's footer is left out, and its flag cleared: libsndfile takes it for the first frame.
    """
    file.seek(0)
    tag = file.read(10)
    if tag[:3] != b"ID3" or len(tag) < 10:
        return found.ranges, 0, []
    size = 10 + (tag[6] << 21 | tag[7] << 14 | tag[8] << 7 | tag[9])
    size = min(size, found.ranges[0][0])
    return [(0, size), *found.ranges], size, [(5, bytes([tag[5] & ~_ID3_FOOTER]))]


def _gsm_layout(file: BinaryIO, name: str) -> Layout:
    """Count the blocks of a WAV in GSM 6.10: libsndfile takes a padding byte for one more."""
    file.seek(0)
    header = read_header(file.read, name, lambda n: file.seek(n, os.SEEK_CUR))
    if header.data_bytes is None:
        return Layout([Part()])
    present = min(header.data_bytes, file.seek(0, os.SEEK_END) - header.data_offset)
    promised, frames = (n // _GSM_BYTES * _GSM_SAMPLES for n in (header.data_bytes, present))
    return Layout([Part(frames=frames)], promised)


def _flac_layout(file: BinaryIO) -> Layout:
    streams = find_streams(file)
    if not streams or (len(streams) == 1 and streams[0].is_confirmed):
        return Layout([Part()])
    totals = [stream.total for stream in streams]
    parts = [
        Part([(stream.first, stream.end)], [] if stream.is_confirmed else [stream.patch])
        for stream in streams
    ]
    return Layout(parts, sum(totals) if all(totals) else None)
