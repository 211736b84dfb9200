"""ID3 tags, as in MP3 and in the id3 chunk of a WAV or AIFF.

Source: M. Nilsson, "ID3 tag version 2.3.0" and "version 2.4.0", id3.org.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice

from rtmtass.io.tags.model import (
    MAX_BYTES,
    MAX_FIELDS,
    MAX_TOTAL,
    Id3Tag,
    Metadata,
    Picture,
    decode_text,
    is_kept,
)

_TEXT_FRAMES = {
    "TIT2": "TITLE", "TPE1": "ARTIST", "TALB": "ALBUM", "TPE2": "ALBUMARTIST", "TDRC": "DATE",
    "TCON": "GENRE", "TCOP": "COPYRIGHT", "TSRC": "ISRC", "TCOM": "COMPOSER", "TEXT": "LYRICIST",
    "TPE3": "CONDUCTOR", "TPE4": "REMIXER", "TPUB": "ORGANIZATION", "TBPM": "BPM",
    "TLAN": "LANGUAGE", "TIT1": "GROUPING", "TIT3": "SUBTITLE", "TSOP": "ARTISTSORT",
    "TSOA": "ALBUMSORT", "TSOT": "TITLESORT", "TSO2": "ALBUMARTISTSORT", "TENC": "ENCODED-BY",
    "TMED": "MEDIA", "TSST": "DISCSUBTITLE", "TCMP": "COMPILATION", "TMOO": "MOOD",
    "TDOR": "ORIGINALDATE", "TKEY": "INITIALKEY", "TDES": "PODCASTDESC", "WCOP": "LICENSE",
    "WOAF": "WEBSITE",
}  # fmt: skip
"""Frames of one text, and the Vorbis comments of the same meaning."""
_NUMBERS = {"TRCK": ("TRACKNUMBER", "TRACKTOTAL"), "TPOS": ("DISCNUMBER", "DISCTOTAL")}
"""Frames of a number and a total, as in 3/12."""
_FRAME_OF = {name: frame for frame, name in _TEXT_FRAMES.items()}
_SYNONYMS = {
    "ALBUM ARTIST": "ALBUMARTIST", "ALBUM_ARTIST": "ALBUMARTIST", "TRACK": "TRACKNUMBER",
    "TOTALTRACKS": "TRACKTOTAL", "DISC": "DISCNUMBER", "TOTALDISCS": "DISCTOTAL",
    "YEAR": "DATE", "PUBLISHER": "ORGANIZATION", "ENCODED_BY": "ENCODED-BY",
    "ENCODEDBY": "ENCODED-BY", "UNSYNCEDLYRICS": "LYRICS",
}  # fmt: skip
_KNOWN = {*_FRAME_OF, "COMMENT", "LYRICS", *(name for pair in _NUMBERS.values() for name in pair)}
_FRAMES_OF_V22 = {
    "TT2": "TIT2", "TP1": "TPE1", "TAL": "TALB", "TP2": "TPE2", "TYE": "TYER", "TCO": "TCON",
    "TCR": "TCOP", "TRC": "TSRC", "TCM": "TCOM", "TXT": "TEXT", "TP3": "TPE3", "TP4": "TPE4",
    "TPB": "TPUB", "TBP": "TBPM", "TLA": "TLAN", "TT1": "TIT1", "TT3": "TIT3", "TEN": "TENC",
    "TRK": "TRCK", "TPA": "TPOS", "COM": "COMM", "ULT": "USLT", "TXX": "TXXX", "WXX": "WXXX",
    "PIC": "APIC", "TCP": "TCMP",
}  # fmt: skip
_DROPPED = frozenset(
    ("TSSE", "TLEN", "TSIZ", "TDLY", "MLLT", "ASPI", "SEEK", "RVA2", "RVAD", "XRVA", "EQUA",
     "EQU2", "RGAD", "ENCR", "GRID", "SIGN", "AENC", "RBUF", "LINK", "POSS", "ETCO")
)  # fmt: skip
"""Frames that describe the encoder, the level or byte positions of the input."""
_ENCODINGS = ("cp1252", "utf-16", "utf-16-be", "utf-8")
_V1_FIELDS = (("TITLE", 3, 30), ("ARTIST", 33, 30), ("ALBUM", 63, 30), ("DATE", 93, 4),
              ("COMMENT", 97, 30))  # fmt: skip


def parse(data: bytes) -> Id3Tag | None:
    """Parse an ID3v2 tag at the start of `data`; None if there is none."""
    if len(data) < 10 or data[:3] != b"ID3" or data[3] not in (2, 3, 4):
        return None
    version, flags = data[3], data[5]
    body = data[10 : 10 + tag_size(data)]
    if flags & 0x80 and version < 4:
        body = body.replace(b"\xff\x00", b"\xff")
    if flags & 0x40 and version > 2 and len(body) >= 4:  # an extended header
        body = body[_syncsafe(body) if version == 4 else 4 + int.from_bytes(body[:4], "big") :]
    frames = _frames_v22(body) if version == 2 else _frames(body, version)
    kept, total = [], 0
    for name, frame in islice(frames, MAX_FIELDS):
        total += len(frame)  # of compressed frames too, of which a small file can hold much
        if total > MAX_TOTAL:
            break
        if name not in _DROPPED and _is_kept(name, frame):
            kept.append((name, frame))
    return Id3Tag(max(version, 3), tuple(kept))


def tag_size(head: bytes) -> int:
    """Return the size of an ID3v2 tag in bytes, without its ten bytes of header."""
    return _syncsafe(head[6:10])


def pack(tag: Id3Tag) -> bytes:
    """Return a tag as bytes."""
    parts = []
    for name, frame in tag.frames:
        size = len(frame).to_bytes(4, "big") if tag.version == 3 else _to_syncsafe(len(frame))
        parts.append(name.encode("latin-1") + size + b"\0\0" + frame)
    body = b"".join(parts)
    return b"ID3" + bytes([tag.version, 0, 0]) + _to_syncsafe(len(body)) + body


def to_metadata(tag: Id3Tag) -> Metadata:
    """Return a tag's fields and pictures by common names, and the tag itself."""
    comments: list[tuple[str, str]] = []
    pictures = []
    for name, body in tag.frames:
        if name == "APIC":
            pictures += _parse_picture(body)
        elif name in ("COMM", "USLT", "TXXX", "WXXX"):
            comments += _described(name, body)
        elif name in _NUMBERS:
            parts = _texts(body)[0].split("/") if _texts(body) else []
            comments += [p for p in zip(_NUMBERS[name], parts, strict=False) if p[1]]
        elif name in ("TYER", "TDRC"):
            comments += [("DATE", text) for text in _texts(body)[:1] if text]
        elif name == "TCON":
            comments += [("GENRE", _genre(text)) for text in _texts(body) if text]
        elif name in _TEXT_FRAMES:
            texts = [decode_text(body)] if name[0] == "W" else _texts(body)
            comments += [(_TEXT_FRAMES[name], text) for text in texts if text]
    return Metadata(tuple(dict.fromkeys(comments)), tuple(pictures), id3=tag)


def from_metadata(metadata: Metadata) -> Id3Tag:
    """Return the tag of an MP3 or WAV: the input's own, or one of its fields and pictures."""
    software = [("TSSE", b"\0" + metadata.software.encode("latin-1", "replace"))]
    software *= bool(metadata.software)
    if metadata.id3 is not None:
        return Id3Tag(metadata.id3.version, (*software, *metadata.id3.frames))
    by_name: dict[str, list[str]] = {}
    for name, text in with_usual_names(metadata.comments):
        by_name.setdefault(name, []).append(text)
    frames = [*software, *_number_frames(by_name)]
    for name, texts in by_name.items():
        text = "\0".join(texts)
        frame = _FRAME_OF.get(name)
        if frame is not None and frame[0] == "W":
            frames.append((frame, texts[0].encode("latin-1", "replace")))
        elif frame is not None:
            frames.append((frame, b"\3" + text.encode()))
        elif name in ("COMMENT", "LYRICS"):
            key = "COMM" if name == "COMMENT" else "USLT"
            frames += [(key, b"\3und\0" + each.encode()) for each in texts]
        else:
            frames.append(("TXXX", b"\3" + f"{name}\0{text}".encode()))
    frames += [("APIC", _pack_picture(picture)) for picture in metadata.pictures]
    return Id3Tag(4, tuple(frames))


def with_usual_names(comments: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return Vorbis comments with the names of this module where they mean the same."""
    has_comment = any(name.upper() == "COMMENT" for name, _ in comments)
    usual = []
    for name, text in comments:
        known = _SYNONYMS.get(name.upper(), name.upper())
        if known == "DESCRIPTION" and not has_comment:
            known = "COMMENT"
        usual.append((known if known in _KNOWN else name, text))
    return usual


def parse_v1(tail: bytes) -> Metadata:
    """Parse the 128 bytes at the end of an MP3; empty if they are no ID3v1 tag."""
    if len(tail) != 128 or tail[:3] != b"TAG":
        return Metadata()
    fields = [(name, decode_text(tail[at : at + n])) for name, at, n in _V1_FIELDS]
    if tail[125] == 0 and tail[126]:
        fields.append(("TRACKNUMBER", str(tail[126])))
    return Metadata(comments=tuple((name, text) for name, text in fields if text))


def _frames(body: bytes, version: int) -> Iterator[tuple[str, bytes]]:
    at = 0
    while re.match(rb"[A-Z0-9]{4}", body[at : at + 4]) and at + 10 <= len(body):
        name = body[at : at + 4].decode("latin-1")
        size = _frame_size(body, at, version)
        (flags,) = struct.unpack_from(">H", body, at + 8)
        frame = _decoded(body[at + 10 : at + 10 + size], flags, version)
        at += 10 + size
        if frame:
            yield name, frame


def _frame_size(body: bytes, at: int, version: int) -> int:
    """Return a frame's size; iTunes wrote those of 2.4 as those of 2.3."""
    plain = int.from_bytes(body[at + 4 : at + 8], "big")
    if version == 3 or plain < 0x80:
        return plain
    size = _syncsafe(body[at + 4 : at + 8])
    ends = [at + 10 + n for n in (size, plain)]
    fits = [n == len(body) or body[n : n + 4].strip(b"\0") == b"" or body[n : n + 4].isalnum()
            for n in ends]  # fmt: skip
    return plain if fits[1] and not fits[0] else size


def _decoded(frame: bytes, flags: int, version: int) -> bytes:
    """Undo unsynchronisation and compression; b"" for an encrypted frame."""
    grouped, packed, sealed, stuffed, sized = (
        (0x20, 0x80, 0x40, 0, 0x80) if version == 3 else (0x40, 0x08, 0x04, 0x02, 0x01)
    )
    if flags & sealed:
        return b""
    if flags & grouped and version == 4:
        frame = frame[1:]
    if flags & sized:
        frame = frame[4:]
    if flags & grouped and version == 3:
        frame = frame[1:]
    if flags & stuffed:
        frame = frame.replace(b"\xff\x00", b"\xff")
    if flags & packed:
        try:
            frame = zlib.decompressobj().decompress(frame, MAX_BYTES)
        except zlib.error:
            return b""
    return frame


def _frames_v22(body: bytes) -> Iterator[tuple[str, bytes]]:
    at = 0
    while re.match(rb"[A-Z0-9]{3}", body[at : at + 3]) and at + 6 <= len(body):
        name, size = body[at : at + 3].decode(), int.from_bytes(body[at + 3 : at + 6], "big")
        frame = body[at + 6 : at + 6 + size]
        at += 6 + size
        if name == "PIC":  # which has the type as three letters
            frame = frame[:1] + b"image/" + frame[1:4].lower() + b"\0" + frame[4:]
        if name in _FRAMES_OF_V22 and frame:
            yield _FRAMES_OF_V22[name], frame


def _is_kept(name: str, body: bytes) -> bool:
    if name not in ("TXXX", "COMM"):
        return True
    return is_kept(_split(_without_language(name, body))[0])


def _texts(body: bytes) -> list[str]:
    """Return the texts of a frame that starts with its encoding; several are split by NUL."""
    encoding = _ENCODINGS[body[0]] if body[:1] and body[0] < 4 else "cp1252"
    data = body[1:]
    if encoding == "utf-16" and data[:2] not in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16-le"
    text = data[: len(data) // 2 * 2 if "16" in encoding else None].decode(encoding, "replace")
    return [part.lstrip("\ufeff") for part in text.rstrip("\0").split("\0")]


def _described(name: str, body: bytes) -> list[tuple[str, str]]:
    """Return the fields of a frame that has a description, a language, or both."""
    description, rest = _split(_without_language(name, body))
    texts = [decode_text(rest)] if name == "WXXX" else _texts(body[:1] + rest)
    field = {"COMM": "COMMENT", "USLT": "LYRICS"}.get(name) or description or "URL"
    return [(field, text) for text in texts if text]


def _without_language(name: str, body: bytes) -> bytes:
    return body[:1] + body[4:] if name in ("COMM", "USLT") else body


def _split(body: bytes) -> tuple[str, bytes]:
    """Return a frame's description and the bytes behind it; the encoding comes first."""
    end = b"\0\0" if body[:1] in (b"\1", b"\2") else b"\0"
    at = body.find(end, 1)
    while at >= 0 and (at - 1) % len(end):  # half of one character and half of the next
        at = body.find(end, at + 1)
    at = at if at >= 0 else len(body)
    return _texts(body[:at])[0], body[at + len(end) :]


def _genre(text: str) -> str:
    """Return a genre without the number that ID3v2.3 may put before its name."""
    return re.sub(r"^\(\d+\)(?=.)", "", text)


def _parse_picture(body: bytes) -> list[Picture]:
    """Return the picture of a frame; none if it is cut off."""
    mime, _, rest = body[1:].partition(b"\0")
    description, data = _split(body[:1] + rest[1:])
    return [Picture(data, mime.decode("latin-1"), rest[0], description)] if data else []


def _pack_picture(picture: Picture) -> bytes:
    head = b"\3" + picture.mime.encode("latin-1", "replace") + b"\0" + bytes([picture.kind & 0xFF])
    return head + picture.description.encode() + b"\0" + picture.data


def _number_frames(by_name: dict[str, list[str]]) -> Sequence[tuple[str, bytes]]:
    frames = []
    for frame, (number, total) in _NUMBERS.items():
        values = [by_name.pop(name, [""])[0] for name in (number, total)]
        if any(values):
            text = "/".join(values) if values[1] else values[0]
            frames.append((frame, b"\3" + text.encode()))
    return frames


def _syncsafe(data: bytes) -> int:
    return sum((byte & 0x7F) << 7 * i for i, byte in enumerate(reversed(data[:4])))


def _to_syncsafe(n: int) -> bytes:
    return bytes(n >> shift & 0x7F for shift in (21, 14, 7, 0))
