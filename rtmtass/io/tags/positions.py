"""Moves the positions in metadata when only a part of a recording is written."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Sequence
from dataclasses import replace

from rtmtass.io.tags.model import Id3Tag, Metadata
from rtmtass.io.tags.riff import list_entries, pack_chunk

_TIME_REFERENCE = 338  # bytes from the start of a bext chunk, 8 of them
_CHAPTER = re.compile(r"CHAPTER(\d{3})(\w*)", re.IGNORECASE)
_IXML_TIMES = (
    (b"TIMESTAMP_SAMPLES_SINCE_MIDNIGHT_HI", b"TIMESTAMP_SAMPLES_SINCE_MIDNIGHT_LO"),
    (b"BWF_TIME_REFERENCE_HIGH", b"BWF_TIME_REFERENCE_LOW"),
)
_AT_POSITIONS = (b"plst", b"acid")
"""Chunks about the whole recording's timing, which no part has."""


def excerpt(metadata: Metadata, start: int, frames: int | None, sample_rate: int) -> Metadata:
    """Return the metadata of a part of a recording: positions are moved with the samples.

    Markers and chapters outside the part are dropped.

    Args:
        metadata: of the whole recording.
        start: first frame of the part.
        frames: length of the part; None if unknown.
        sample_rate: in Hz.
    """
    return replace(
        metadata,
        comments=_move_comments(metadata.comments, start, frames, sample_rate),
        chunks=_move_chunks(metadata.chunks, start, frames),
        id3=metadata.id3 and _move_chapters(metadata.id3, start, frames, sample_rate),
    )


def _move_chunks(
    chunks: Sequence[tuple[bytes, bytes]], start: int, frames: int | None
) -> tuple[tuple[bytes, bytes], ...]:
    """Return a WAV's chunks for a part from `start`, of `frames` or to the end."""
    markers = [_cues(body, start, frames) for name, body in chunks if name == b"cue "]
    kept = {marker[:4] for cues in markers for marker in cues}
    moved = []
    for name, body in chunks:
        if name == b"bext" and len(body) >= 346:
            (time,) = struct.unpack_from("<Q", body, _TIME_REFERENCE)
            body = body[:338] + struct.pack("<Q", (time + start) % 2**64) + body[346:]
        elif name == b"iXML":
            for high, low in _IXML_TIMES:
                body = _move_ixml(body, high, low, start)
        elif name == b"cue ":
            cues = _cues(body, start, frames)
            body = struct.pack("<I", len(cues)) + b"".join(cues)
        elif name == b"LIST" and body[:4] == b"adtl":
            labels = [entry for entry in list_entries(body) if entry[1][:4] in kept]
            body = b"adtl" + b"".join(pack_chunk(*label) for label in labels)
        elif name == b"smpl":
            body = _move_loops(body, start, frames)
        if name not in _AT_POSITIONS and not (name == b"cue " and body == bytes(4)):
            moved.append((name, body))
    return tuple(moved)


def _cues(body: bytes, start: int, frames: int | None) -> list[bytes]:
    """Return the cue points within the part, moved."""
    count = min(struct.unpack_from("<I", body)[0], (len(body) - 4) // 24) if len(body) > 4 else 0
    cues = []
    for i in range(count):
        name, order, chunk, at, block, offset = struct.unpack_from("<4sI4s3I", body, 4 + 24 * i)
        if offset >= start and (frames is None or offset - start < frames):
            moved = (name, max(0, order - start), chunk, at, block, offset - start)
            cues.append(struct.pack("<4sI4s3I", *moved))
    return cues


def _move_loops(body: bytes, start: int, frames: int | None) -> bytes:
    """Return a smpl chunk with the loops that lie within the part, moved."""
    if len(body) < 36:
        return body
    count = min(struct.unpack_from("<I", body, 28)[0], (len(body) - 36) // 24)
    loops = [struct.unpack_from("<6I", body, 36 + 24 * i) for i in range(count)]
    kept = [
        struct.pack("<6I", a, b, first - start, last - start, c, d)
        for a, b, first, last, c, d in loops
        if first >= start and (frames is None or last - start < frames)
    ]
    rest = body[36 + 24 * count :]
    return body[:28] + struct.pack("<I", len(kept)) + body[32:36] + b"".join(kept) + rest


def _move_ixml(body: bytes, high: bytes, low: bytes, start: int) -> bytes:
    """Return an iXML chunk with one of its times, two elements of 32 bits, moved."""
    patterns = [
        re.compile(rb"(<%s>\s*)(\d{1,20})(\s*</%s>)" % (name, name)) for name in (high, low)
    ]
    found = [pattern.search(body) for pattern in patterns]
    if found[0] is None or found[1] is None:
        return body
    time = (int(found[0][2]) << 32) + int(found[1][2]) + start
    for pattern, value in zip(patterns, (time >> 32, time & 0xFFFFFFFF), strict=True):
        body = pattern.sub(rb"\g<1>%d\g<3>" % value, body, count=1)
    return body


def _move_comments(
    comments: Sequence[tuple[str, str]], start: int, frames: int | None, sample_rate: int
) -> tuple[tuple[str, str], ...]:
    """Return Vorbis comments with chapters (CHAPTER001=00:01:00.000) and bext's time moved."""
    inside = set()
    moved = []
    for name, text in comments:
        chapter = _CHAPTER.fullmatch(name)
        if name == "TIME_REFERENCE" and text.isdecimal() and len(text) <= 20:
            text = str(int(text) + start)
        elif chapter and not chapter[2]:
            seconds = _parse_time(text) - start / sample_rate  # NaN for what is no time
            if not seconds >= 0 or (frames is not None and seconds >= frames / sample_rate):
                continue
            inside.add(chapter[1])
            text = _format_time(seconds)
        moved.append((name, text))
    return tuple(pair for pair in moved if _applies(pair[0], inside))


def _applies(name: str, chapters: set[str]) -> bool:
    chapter = _CHAPTER.fullmatch(name)
    return chapter is None or chapter[1] in chapters


def _parse_time(text: str) -> float:
    """Return h:mm:ss.mmm in seconds; NaN for anything else."""
    match = re.fullmatch(r"(\d{1,4}):(\d\d):(\d\d(?:\.\d*)?)", text)
    return 3600 * int(match[1]) + 60 * int(match[2]) + float(match[3]) if match else math.nan


def _format_time(seconds: float) -> str:
    ms = round(1000 * seconds)
    return f"{ms // 3600000:02}:{ms // 60000 % 60:02}:{ms // 1000 % 60:02}.{ms % 1000:03}"


def _move_chapters(tag: Id3Tag, start: int, frames: int | None, sample_rate: int) -> Id3Tag:
    """Return an ID3 tag with its chapters moved, and cut at the ends of the part."""
    first_ms = round(1000 * start / sample_rate)
    end_ms = None if frames is None else round(1000 * frames / sample_rate)
    kept, dropped = [], []
    for name, body in tag.frames:
        label, _, rest = body.partition(b"\0")
        if name == "CHAP" and len(rest) >= 16:
            begin, end = (t - first_ms for t in struct.unpack_from(">2I", rest))
            if end <= 0 or (end_ms is not None and begin >= end_ms):
                dropped.append(label)
                continue
            end = end if end_ms is None else min(end, end_ms)
            # Positions in bytes, which only an encoder has: 0xFFFFFFFF is unknown.
            body = label + b"\0" + struct.pack(">4I", max(0, begin), end, *(0xFFFFFFFF,) * 2)
            body += rest[16:]
        if name not in ("SYLT", "SYTC"):
            kept.append((name, body))
    return replace(tag, frames=tuple((n, _without(b, dropped) if n == "CTOC" else b)
                                     for n, b in kept))  # fmt: skip


def _without(contents: bytes, dropped: Sequence[bytes]) -> bytes:
    """Return a CTOC frame without the entries of dropped chapters."""
    name, _, rest = contents.partition(b"\0")
    *labels, more = rest[2:].split(b"\0", rest[1] if len(rest) > 1 else 0)
    kept = [label for label in labels if label not in dropped]
    return name + b"\0" + rest[:1] + bytes([len(kept)]) + b"".join(k + b"\0" for k in kept) + more
