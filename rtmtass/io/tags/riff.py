"""Chunks of WAV (RIFF, RF64, BW64) and AIFF files that hold metadata.

Source: Microsoft/IBM "Multimedia Programming Interface and Data Specifications 1.0"
(RIFF, with INFO, cue and adtl), EBU Tech 3285 (bext), and Apple "Audio Interchange File
Format 1.3".
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from rtmtass.io.tags import id3
from rtmtass.io.tags.model import (
    MAX_BYTES,
    MAX_FIELDS,
    MAX_TOTAL,
    Metadata,
    decode_text,
    reset_loudness,
)

COPIED = frozenset(
    (b"bext", b"iXML", b"axml", b"chna", b"cue ", b"plst", b"smpl", b"inst", b"acid", b"cart",
     b"_PMX", b"DISP", b"LIST", b"ubxt")
)  # fmt: skip
"""Chunks that a WAV output gets as they were; others describe the samples or their encoding."""
INFO = {
    b"INAM": "TITLE", b"IART": "ARTIST", b"IPRD": "ALBUM", b"ICRD": "DATE", b"IGNR": "GENRE",
    b"ITRK": "TRACKNUMBER", b"ICMT": "COMMENT", b"ICOP": "COPYRIGHT", b"IENG": "ENGINEER",
    b"ILNG": "LANGUAGE", b"IMUS": "COMPOSER", b"IKEY": "KEYWORDS", b"ISBJ": "SUBJECT",
    b"ITCH": "ENCODED-BY", b"IPRT": "TRACKNUMBER", b"ISRF": "SOURCE", b"ISRC": "SOURCE",
}  # fmt: skip
"""Text fields of a LIST INFO chunk, and the Vorbis comments of the same meaning."""
_INFO_OF = {name: field for field, name in reversed(INFO.items())}
_BEXT = (("DESCRIPTION", 0, 256), ("ORIGINATOR", 256, 32), ("ORIGINATOR_REFERENCE", 288, 32),
         ("ORIGINATION_DATE", 320, 10), ("ORIGINATION_TIME", 330, 8))  # fmt: skip
_AIFF_TEXTS = {b"NAME": "TITLE", b"AUTH": "ARTIST", b"(c) ": "COPYRIGHT", b"ANNO": "COMMENT"}
_EXTENSIBLE = 0xFFFE


def read_wav(file: BinaryIO) -> Metadata:
    """Read a WAV's metadata; its first 12 bytes have been read."""
    chunks: list[tuple[bytes, bytes]] = []
    tag, speakers = None, None
    for name, body in _chunks(file, "<", {*COPIED, b"fmt ", b"id3 ", b"ID3 "}):
        if name == b"fmt ":
            is_extensible = len(body) >= 40 and body[:2] == struct.pack("<H", _EXTENSIBLE)
            speakers = struct.unpack_from("<I", body, 20)[0] if is_extensible else None
        elif name.lower() == b"id3 ":
            tag = id3.parse(body)
        elif _is_info(name, body):
            kept = b"".join(pack_chunk(*entry) for entry in _entries(body) if entry[0] != b"ISFT")
            chunks += [(name, b"INFO" + kept)] if kept else []
        else:
            chunks.append((name, reset_loudness(body) if name == b"bext" else body))
    shared = id3.to_metadata(tag) if tag else Metadata()
    names = {name.upper() for name, _ in shared.comments}
    texts = [field for field in _texts(chunks) if field[0] not in names]
    return Metadata((*shared.comments, *texts), shared.pictures, tuple(chunks), tag, speakers)


def _texts(chunks: Sequence[tuple[bytes, bytes]]) -> Iterator[tuple[str, str]]:
    """Yield the fields of INFO and bext."""
    for name, body in chunks:
        if _is_info(name, body):
            pairs = [(INFO.get(field), decode_text(data)) for field, data in _entries(body)]
            yield from dict.fromkeys((field, text) for field, text in pairs if field and text)
        elif name == b"bext" and len(body) >= 602:
            pairs = [(field, decode_text(body[at : at + n])) for field, at, n in _BEXT]
            pairs.append(("TIME_REFERENCE", str(struct.unpack_from("<Q", body, 338)[0])))
            pairs.append(("CODING_HISTORY", decode_text(body[602:])))
            yield from ((field, text) for field, text in pairs if field and text)


def read_aiff(file: BinaryIO) -> Metadata:
    """Read an AIFF's metadata; its first 12 bytes have been read."""
    comments, tag = [], None
    for name, body in _chunks(file, ">", {*_AIFF_TEXTS, b"ID3 "}):
        if name == b"ID3 ":
            tag = id3.parse(body)
        elif decode_text(body):
            comments.append((_AIFF_TEXTS[name], decode_text(body)))
    shared = id3.to_metadata(tag) if tag else Metadata()
    names = {name.upper() for name, _ in shared.comments}
    texts = [field for field in comments if field[0] not in names]
    return Metadata((*shared.comments, *texts), shared.pictures, id3=tag)


def read_caf(file: BinaryIO) -> Metadata:
    """Read a CAF's text fields; its first 8 bytes have been read."""
    for _ in range(MAX_FIELDS):
        head = file.read(12)
        if len(head) < 12:
            break
        size = struct.unpack(">q", head[4:])[0]
        if head[:4] == b"info":
            parts = file.read(min(max(size, 0), MAX_BYTES))[4:].split(b"\0")
            pairs = zip(parts[::2], parts[1::2], strict=False)
            fields = {decode_text(k).replace(" ", ""): decode_text(v) for k, v in pairs}
            return Metadata.from_fields({k: v for k, v in fields.items() if k != "encoder"})
        if size < 0:  # the samples, to the end of the file
            break
        file.seek(size, os.SEEK_CUR)
    return Metadata()


def pack_wav(metadata: Metadata) -> bytes:
    """Return the chunks of a WAV's metadata, to go before its samples."""
    info = b"".join(body[4:] for name, body in metadata.chunks if _is_info(name, body))
    if not info:
        info = _pack_info(metadata)
    if metadata.software:
        info += pack_chunk(b"ISFT", metadata.software.encode() + b"\0")
    chunks = [(b"LIST", b"INFO" + info)] if info else []
    chunks += [chunk for chunk in metadata.chunks if not _is_info(*chunk)]
    names = [name.upper() for name, _ in metadata.comments]
    is_more = len(set(names)) < len(names) or not set(names) <= set(_INFO_OF)
    if metadata.id3 or metadata.pictures or (is_more and not metadata.chunks):
        chunks.append((b"id3 ", id3.pack(id3.from_metadata(metadata))))
    return b"".join(pack_chunk(name, body) for name, body in chunks)


def _is_info(name: bytes, body: bytes) -> bool:
    return name == b"LIST" and body[:4] == b"INFO"


def _pack_info(metadata: Metadata) -> bytes:
    """Return the entries of INFO for an input that isn't a WAV, in UTF-8."""
    fields: dict[bytes, list[str]] = {}
    comments = id3.with_usual_names(metadata.comments)
    total = dict(comments).get("TRACKTOTAL")
    for name, text in comments:
        if name == "TRACKNUMBER" and total and "/" not in text:
            text = f"{text}/{total}"
        if name.upper() in _INFO_OF:
            fields.setdefault(_INFO_OF[name.upper()], []).append(text)
    entries = [pack_chunk(k, "; ".join(v).encode() + b"\0") for k, v in fields.items()]
    return b"".join(entries)


def pack_chunk(name: bytes, body: bytes) -> bytes:
    """Return a chunk, or an entry of a list, padded to an even length."""
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def list_entries(body: bytes) -> list[tuple[bytes, bytes]]:
    """Return the entries of a LIST chunk, without its type."""
    return list(_entries(body))


def _entries(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 4
    for _ in range(MAX_FIELDS):
        if at + 8 > len(body):
            return
        name, size = struct.unpack_from("<4sI", body, at)
        yield name, body[at + 8 : at + 8 + size]
        at += 8 + size + size % 2


def _chunks(file: BinaryIO, order: str, wanted: set[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the wanted chunks of bounded size; nothing is read of the others."""
    long_size, total = 0, 0
    for _ in range(MAX_FIELDS):
        head = file.read(8)
        if len(head) < 8 or total > MAX_TOTAL:
            return
        name, size = struct.unpack(f"{order}4sI", head)
        if name == b"ds64":
            start = file.read(min(size, 16))
            file.seek(size - len(start) + size % 2, os.SEEK_CUR)
            long_size = struct.unpack_from("<Q", start, 8)[0]
            continue
        if name == b"data" and size == 0xFFFFFFFF:
            if not long_size:  # a stream's placeholder: the samples go on to the end
                return
            size = long_size
        if name in wanted and size <= MAX_BYTES:
            total += size
            yield name, file.read(size)
            file.seek(size % 2, os.SEEK_CUR)
        else:
            file.seek(size + size % 2, os.SEEK_CUR)
