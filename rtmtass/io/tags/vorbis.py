"""Vorbis comments, as in FLAC, Ogg Vorbis and Opus, and FLAC's blocks of metadata.

Source: Xiph.Org "Ogg Vorbis I format specification: comment field and header
specification", and RFC 9639 (FLAC), section 8.
"""

from __future__ import annotations

import base64
import contextlib
import struct
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from rtmtass.io.tags.model import MAX_BYTES, MAX_FIELDS, MAX_TOTAL, Metadata, Picture, is_kept

PADDING, COMMENT, PICTURE = 1, 4, 6
"""Types of FLAC's metadata blocks."""
STREAMINFO_END = 42
"""Position after a FLAC's first block, where others may be inserted."""
_PICTURE_FIELD = "METADATA_BLOCK_PICTURE"
_MASK_FIELD = "WAVEFORMATEXTENSIBLE_CHANNEL_MASK"
_DEFAULT_SPEAKERS = (4, 3, 7, 0x33, 0x607, 0x60F, 0x70F, 0x63F)
"""Of FLACs of 1 to 8 channels, as flac and ffmpeg have them; the RFC leaves "back or side" open."""
_VENDOR = b"rtmtass"


def parse_comments(packet: bytes) -> Metadata:
    """Parse a comment header, without the identifier before and the framing bit behind it."""
    at = 4 + struct.unpack_from("<I", packet)[0]
    (count,) = struct.unpack_from("<I", packet, at)
    at += 4
    comments, pictures, speakers = [], [], None
    for _ in range(min(count, MAX_FIELDS)):
        if at + 4 > len(packet):
            break
        (size,) = struct.unpack_from("<I", packet, at)
        field = packet[at + 4 : at + 4 + size]
        at += 4 + size
        name, _, text = field.decode("utf-8", "replace").partition("=")
        if name.upper() == _PICTURE_FIELD:
            pictures += _picture_in(text)
        elif name.upper() == _MASK_FIELD:
            speakers = _parse_mask(text)
        elif text and is_kept(name):
            comments.append((name, text))
    return Metadata(tuple(comments), tuple(pictures), speakers=speakers)


def _picture_in(text: str) -> list[Picture]:
    """Return the picture of a field; none if it is damaged."""
    try:
        return [parse_picture(base64.b64decode(text))]
    except (ValueError, struct.error):
        return []


def _parse_mask(text: str) -> int | None:
    """Return the speakers' bits of a field; None if it isn't a number of 32 bits."""
    try:
        mask = int(text, 0)
    except ValueError:
        return None
    return mask if 0 <= mask < 2**32 else None


def pack_comments(comments: Sequence[tuple[str, str]], pictures: Sequence[Picture] = ()) -> bytes:
    """Return a comment header; pictures as fields, which is how an Ogg holds them."""
    images = [(_PICTURE_FIELD, base64.b64encode(pack_picture(p)).decode()) for p in pictures]
    packed = [f"{field_name(name)}={text}".encode() for name, text in (*comments, *images)]
    head = struct.pack("<I", len(_VENDOR)) + _VENDOR + struct.pack("<I", len(packed))
    return head + b"".join(struct.pack("<I", len(field)) + field for field in packed)


def all_fields(metadata: Metadata) -> list[tuple[str, str]]:
    """Return the fields of a file, among them that of the software."""
    return [("ENCODER", metadata.software)] * bool(metadata.software) + [*metadata.comments]


def field_name(name: str) -> str:
    """Return a name within the characters that Vorbis comments allow: ASCII but "=" and "~"."""
    return "".join(c if " " <= c <= "}" and c != "=" else "_" for c in name)


def parse_picture(block: bytes) -> Picture:
    """Parse the body of a FLAC picture block.

    Raises:
        struct.error: it is cut off.
    """
    kind, n = struct.unpack_from(">2I", block)
    mime, at = block[8 : 8 + n].decode("latin-1"), 8 + n
    (n,) = struct.unpack_from(">I", block, at)
    description, at = block[at + 4 : at + 4 + n].decode("utf-8", "replace"), at + 4 + n
    width, height, depth, colours, n = struct.unpack_from(">5I", block, at)
    data = block[at + 20 : at + 20 + n]
    return Picture(data, mime, kind, description, (width, height, depth, colours))


def pack_picture(picture: Picture) -> bytes:
    """Return the body of a FLAC picture block."""
    mime, description = picture.mime.encode("latin-1", "replace"), picture.description.encode()
    return (
        struct.pack(">2I", picture.kind, len(mime)) + mime
        + struct.pack(">I", len(description)) + description
        + struct.pack(">5I", *picture.size, len(picture.data)) + picture.data
    )  # fmt: skip


def read_flac(file: BinaryIO) -> Metadata:
    """Read a FLAC's metadata, from its first byte; `fLaC` has been read."""
    metadata, pictures, channels = Metadata(), [], 0
    for kind, body in _blocks(file):
        if kind == 0:
            channels = (body[12] >> 1 & 7) + 1
        elif kind == COMMENT:
            metadata = parse_comments(body)
        elif kind == PICTURE:
            with contextlib.suppress(struct.error):
                pictures.append(parse_picture(body))
    speakers = metadata.speakers
    if speakers is None and channels > 2:
        speakers = _DEFAULT_SPEAKERS[channels - 1]
    return Metadata(metadata.comments, (*pictures, *metadata.pictures), speakers=speakers)


def _blocks(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    is_last, total = False, 0
    while not is_last and total < MAX_TOTAL:
        head = file.read(4)
        if len(head) < 4:
            return
        is_last = head[0] >= 0x80
        body = file.read(int.from_bytes(head[1:], "big"))
        total += len(body)
        yield head[0] & 0x7F, body


def pack_flac(metadata: Metadata, channels: int) -> bytes:
    """Return the blocks of a FLAC's metadata, none of which is marked as the last."""
    comments = all_fields(metadata)
    default = _DEFAULT_SPEAKERS[channels - 1] if channels <= len(_DEFAULT_SPEAKERS) else 0
    if metadata.speakers is not None and channels > 2 and metadata.speakers != default:
        comments.append((_MASK_FIELD, f"0x{metadata.speakers:04X}"))
    blocks = [(COMMENT, pack_comments(comments))]
    blocks += [(PICTURE, pack_picture(picture)) for picture in metadata.pictures]
    return b"".join(
        bytes([kind]) + len(body).to_bytes(3, "big") + body
        for kind, body in blocks
        if len(body) <= MAX_BYTES
    )
