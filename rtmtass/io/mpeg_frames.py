"""Counts the frames of an MPEG audio file, whose header may hold no length or a wrong one.

libsndfile takes the length from the file's Xing header, or estimates it from the size and
the first bit rates, and ends there: of joined files and of those with a variable bit rate
sound is lost. The frame headers are cheap to follow, and give the true length.

Source: ISO/IEC 11172-3 and 13818-3, section 2.4.2.3 (header); the Xing and LAME tags as in
G. Bouvigne, "MP3 Info Tag revision 1 specification".
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from rtmtass.errors import InputError

DECODER_DELAY = 529
"""Samples by which an MP3 decoder's output is late; LAME's tag leaves them out."""

_KBPS = {  # by (is MPEG 1, layer): the bit rate of each index from 1 on, in kbit/s
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = (44100, 48000, 32000)
_SYNC = re.compile(rb"\xff[\xe2-\xe7\xf2-\xff][\x10-\xef]")
_MAX_FALSE = 100_000  # syncs that are none, after which a file is taken to have no more frames
_CHUNK = 1 << 16
_RUN = 3  # frames in a row, after which a header is believed


@dataclass(frozen=True)
class FrameHeader:
    """One frame's header.

    Attributes:
        version: 1, 2, or 2.5 as 25.
        layer: 1 to 3.
        sample_rate: in Hz.
        channels: 1 or 2.
        n_bytes: length of the frame.
        samples: of each channel.
    """

    version: int
    layer: int
    sample_rate: int
    channels: int
    n_bytes: int
    samples: int

    @property
    def kind(self) -> tuple[int, int, int, int]:
        """What doesn't change within one recording."""
        return self.version, self.layer, self.sample_rate, self.channels


@dataclass(frozen=True)
class MpegAudio:
    """What was found by following the frames.

    Attributes:
        ranges: (first byte, end) of the frames, without tags and damage. The first may be a
            Xing header; the frames behind it may need its bytes as their bit reservoir.
        patches: (position within the ranges, bytes) that make that header a silent frame.
        samples: in these frames, of each channel.
        delay: samples to drop at the beginning, from the LAME tag.
        padding: samples to drop at the end.
        promised: samples according to the Xing header, without delay and padding; None if
            there is none.
    """

    ranges: list[tuple[int, int]]
    patches: list[tuple[int, bytes]]
    samples: int
    delay: int
    padding: int
    promised: int | None

    @property
    def frames(self) -> int:
        """True length in samples."""
        return max(0, self.samples - self.delay - self.padding)


@dataclass(frozen=True)
class _XingTag:
    """A frame without sound that holds the number of the frames behind it.

    Attributes:
        position: of its magic word, from the frame's first byte.
        frames: the number; None if it isn't there.
        delay, padding: samples to drop at the beginning and the end.
    """

    position: int
    frames: int | None
    delay: int
    padding: int


def parse_frame_header(data: bytes) -> FrameHeader | None:
    """Parse the 4 bytes of a frame header; None if they are none, or of a free bit rate."""
    if len(data) < 4 or data[0] != 0xFF or data[1] & 0xE0 != 0xE0:
        return None
    version = {0: 25, 2: 2, 3: 1}.get(data[1] >> 3 & 3)
    layer = 4 - (data[1] >> 1 & 3)
    bit_rate, rate = data[2] >> 4, data[2] >> 2 & 3
    if version is None or layer == 4 or bit_rate in (0, 15) or rate == 3:
        return None
    sample_rate = _RATES[rate] // {1: 1, 2: 2, 25: 4}[version]
    bits_per_s = 1000 * _KBPS[version == 1, layer][bit_rate - 1]
    is_padded = data[2] >> 1 & 1
    samples = 384 if layer == 1 else 1152 if layer == 2 or version == 1 else 576
    if layer == 1:
        n_bytes = 4 * (12 * bits_per_s // sample_rate + is_padded)
    else:
        n_bytes = samples // 8 * bits_per_s // sample_rate + is_padded
    channels = 1 if data[3] >> 6 == 3 else 2
    return FrameHeader(version, layer, sample_rate, channels, n_bytes, samples)


def begins_with_frames(file: BinaryIO) -> bool:
    """Whether a file begins with MPEG audio, behind its tags."""
    return _is_run(file, _skip_tags(file, 0), file.seek(0, os.SEEK_END))


def follow_frames(file: BinaryIO, name: str) -> MpegAudio | None:
    """Follow the frames of a file to its end.

    Tags and damage between the frames are left out, and so are the Xing headers of joined
    files, which hold no sound.

    Returns:
        What was found; None if no frame was.

    Raises:
        InputError: the sample rate or the number of channels changes.
    """
    ranges: list[tuple[int, int]] = []
    first_tag: _XingTag | None = None
    samples, kind = 0, None
    for position, header in _frames(file):
        if kind is None:
            kind = header.kind
        if header.kind != kind:
            raise InputError(_why_changed(name, kind, header, samples))
        tag = _xing_tag(file, position, header)
        if tag is not None:
            if samples:
                continue
            first_tag = tag
        samples += header.samples
        end = position + header.n_bytes
        if ranges and ranges[-1][1] == position:
            ranges[-1] = (ranges[-1][0], end)
        else:
            ranges.append((position, end))
    if kind is None:
        return None
    if first_tag is None:
        return MpegAudio(ranges, [], samples, 0, 0, None)
    return _with_tag(ranges, samples, first_tag, 1152 if kind[0] == 1 else 576)


def _with_tag(
    ranges: list[tuple[int, int]], samples: int, tag: _XingTag, frame_samples: int
) -> MpegAudio:
    """Apply the delay of a Xing header, and its padding where the file ends as it says."""
    patches = [(tag.position, bytes(4))]
    delay = frame_samples + tag.delay
    if tag.frames is None:
        return MpegAudio(ranges, patches, samples, delay, 0, None)
    total = tag.frames * frame_samples
    promised = max(0, total - tag.delay - tag.padding)
    padding = tag.padding if samples == frame_samples + total else 0
    return MpegAudio(ranges, patches, samples, delay, padding, promised)


def _frames(file: BinaryIO) -> Iterator[tuple[int, FrameHeader]]:
    """Yield position and header of each whole frame."""
    n_bytes = file.seek(0, os.SEEK_END)
    position, kind = _skip_tags(file, 0), None
    while position < n_bytes:
        file.seek(position)
        header = parse_frame_header(file.read(4))
        if header is None or (header.kind != kind and not _is_run(file, position, n_bytes)):
            after = _skip_tags(file, position)
            position = after if after > position else _next_frame(file, position + 1, n_bytes)
            continue
        if position + header.n_bytes > n_bytes:
            return  # cut within its last frame
        kind = header.kind
        yield position, header
        position += header.n_bytes


def _is_run(file: BinaryIO, position: int, n_bytes: int) -> bool:
    """Whether several frames of one kind begin here, or fewer that end with the file."""
    first = None
    for _ in range(_RUN):
        file.seek(position)
        header = parse_frame_header(file.read(4))
        if header is None or (first and header.kind != first.kind):
            return False
        first = first or header
        position += header.n_bytes
        if position == n_bytes:
            return True
    return True


def _next_frame(file: BinaryIO, position: int, n_bytes: int) -> int:
    """Return where the next run of frames begins, at or after `position`."""
    false = 0
    while position < n_bytes:
        file.seek(position)
        data = file.read(_CHUNK)
        for match in _SYNC.finditer(data):
            candidate = position + match.start()
            if _is_run(file, candidate, n_bytes):
                return candidate
            false += 1
            if false > _MAX_FALSE:
                return n_bytes
        position += len(data) - 2 if len(data) == _CHUNK else len(data) or 1
    return n_bytes


def _skip_tags(file: BinaryIO, position: int) -> int:
    """Return the position behind the ID3, APE and Lyrics tags that begin here."""
    while True:
        file.seek(position)
        data = file.read(32)
        if data[:3] == b"ID3" and len(data) >= 10 and not any(b & 0x80 for b in data[6:10]):
            size = data[6] << 21 | data[7] << 14 | data[8] << 7 | data[9]
            position += 10 + size + (10 if data[5] & 0x10 else 0)
        elif data[:3] == b"TAG":
            position += 128
        elif data[:8] == b"APETAGEX" and len(data) == 32:
            size, flags = struct.unpack_from("<I4xI", data, 12)
            is_header = bool(flags & 1 << 29)
            position += 32 + size if is_header else 32
        else:
            return position


def _xing_tag(file: BinaryIO, position: int, header: FrameHeader) -> _XingTag | None:
    """Return the Xing, Info or VBRI header in this frame, or None."""
    if header.layer != 3:
        return None
    file.seek(position)
    data = file.read(min(header.n_bytes, 192))
    if data[36:40] == b"VBRI" and len(data) >= 54:
        return _XingTag(36, struct.unpack_from(">I", data, 50)[0] or None, 0, 0)
    side = {(True, 2): 32, (True, 1): 17, (False, 2): 17, (False, 1): 9}
    start = 4 + side[header.version == 1, header.channels]
    if data[start : start + 4] not in (b"Xing", b"Info") or len(data) < start + 8:
        return None
    (flags,) = struct.unpack_from(">I", data, start + 4)
    frames, at = None, start + 8
    if flags & 1 and len(data) >= at + 4:
        frames = struct.unpack_from(">I", data, at)[0] or None
    at += 4 * bool(flags & 1) + 4 * bool(flags & 2) + 100 * bool(flags & 4) + 4 * bool(flags & 8)
    lame = data[at : at + 24]
    if len(lame) < 24 or not lame[:4].isalnum():
        return _XingTag(start, frames, 0, 0)
    delay, padding = lame[21] << 4 | lame[22] >> 4, (lame[22] & 15) << 8 | lame[23]
    return _XingTag(start, frames, delay + DECODER_DELAY, max(0, padding - DECODER_DELAY))


def _why_changed(
    name: str, kind: tuple[int, int, int, int], header: FrameHeader, samples: int
) -> str:
    _, _, sample_rate, channels = kind
    return (
        f"{name} changes from {sample_rate} Hz, {channels} channel(s), to {header.sample_rate} Hz,"
        f" {header.channels} channel(s), after {samples / sample_rate:.2f} s: files were joined"
        " that don't match; separate them one by one, before they are joined"
    )
