"""Ogg pages: reading the comments of a stream, and writing others while it is encoded.

Source: RFC 3533 (Ogg), and RFC 7845 (Opus in Ogg).
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from rtmtass.io.tags.model import MAX_BYTES, Metadata
from rtmtass.io.tags.vorbis import COMMENT, all_fields, pack_comments, parse_comments

_HEADER = struct.Struct("<4sBBQIIIB")
_CONTINUED = 1
_NO_POSITION = 2**64 - 1
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_MAGIC = {b"\x03vorbis": b"\1", b"OpusTags": b""}
"""Start of a packet of comments, and what follows them: Vorbis' framing bit."""


@dataclass(frozen=True)
class Page:
    """One Ogg page; see RFC 3533, section 6."""

    flags: int
    position: int
    serial: int
    number: int
    lacing: bytes
    body: bytes

    def pack(self) -> bytes:
        """Return the page as bytes."""
        fields = (self.flags, self.position, self.serial, self.number, 0, len(self.lacing))
        head = _HEADER.pack(b"OggS", 0, *fields) + self.lacing
        return head[:22] + struct.pack("<I", _crc(head + self.body)) + head[26:] + self.body


def parse_page(data: bytes | bytearray) -> Page | None:
    """Parse the page at the start of `data`; None if it isn't complete.

    Raises:
        ValueError: there is no page.
    """
    if len(data) < 27 or len(data) < 27 + data[26]:
        return None
    magic, _, flags, position, serial, number, _, n = _HEADER.unpack_from(data)
    if magic != b"OggS":
        raise ValueError("not an Ogg page")
    lacing = bytes(data[27 : 27 + n])
    body = bytes(data[27 + n : 27 + n + sum(lacing)])
    if len(body) < sum(lacing):
        return None
    return Page(flags, position, serial, number, lacing, body)


def read_ogg(file: BinaryIO) -> Metadata:
    """Read the comments of Ogg Vorbis, Opus or FLAC from the file's first byte."""
    packet = b"".join(_second_packet(file))
    for magic in _MAGIC:
        if packet.startswith(magic):
            return parse_comments(packet[len(magic) :])
    if packet and packet[0] & 0x7F == COMMENT:  # FLAC in Ogg: the packet is a FLAC's block
        return parse_comments(packet[4:])
    return Metadata()


def _second_packet(file: BinaryIO) -> Iterator[bytes]:
    total, ended = 0, 0
    while total < 2 * MAX_BYTES and len(head := file.read(27)) == 27:
        lacing = file.read(head[26])
        page = parse_page(head + lacing + file.read(sum(lacing)))
        if page is None:
            return
        at = 0
        for size in page.lacing:
            if ended == 1:
                yield page.body[at : at + size]
            at += size
            total += size
            ended += size < 255
            if ended == 2:
                return


class Bytes(Protocol):
    """The file object that an encoder writes to; see `part_file.PartFile`."""

    def write(self, data: bytes) -> int:
        """Write all of `data`; return the bytes written."""

    def read(self, n_bytes: int) -> bytes:
        """Read up to `n_bytes`."""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position; return it."""

    def tell(self) -> int:
        """Return the position."""


class OggComments:
    """The file object of an Ogg encoder, which replaces its comments on the way to the file.

    The header's packets get new pages, and all later pages new numbers and checksums.

    Args:
        file: to write to.
        metadata: of the stream.
    """

    def __init__(self, file: Bytes, metadata: Metadata) -> None:
        self._file = file
        self._comments = pack_comments(all_fields(metadata), metadata.pictures)
        self._unpaged = bytearray()
        self._headers: list[Page] = []
        self._added = 0
        self._is_audio = False
        self._position = 0

    def write(self, data: bytes) -> int:
        """Write the pages that are complete; see `Bytes`."""
        self._unpaged += data
        self._position += len(data)
        while (page := parse_page(self._unpaged)) is not None:
            del self._unpaged[: 27 + len(page.lacing) + len(page.body)]
            if not self._write_page(page):
                return 0
        return len(data)

    def read(self, n_bytes: int) -> bytes:
        """Return nothing: an encoder doesn't read."""
        return b""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Return the position, which is that of the encoder's own pages and can't be set."""
        return self._position

    def tell(self) -> int:
        """As `seek`."""
        return self._position

    def finish(self) -> None:
        """Do nothing: all has been written."""

    def _write_page(self, page: Page) -> bool:
        if self._is_audio:
            page = Page(page.flags, page.position, page.serial, page.number + self._added,
                        page.lacing, page.body)  # fmt: skip
            return self._send(page.pack())
        if page.flags & 2:  # the first: identification
            return self._send(page.pack())
        self._headers.append(page)
        packets = self._packets()
        if packets is None:
            return True
        self._is_audio = True
        pages = _paginate(packets, page.serial)
        self._added = len(pages) - len(self._headers)
        return self._send(b"".join(new.pack() for new in pages))

    def _packets(self) -> list[bytes] | None:
        """Return the header's packets after the first, with our comments; None if some lack."""
        packets, unfinished = [], b""
        for page in self._headers:
            at = 0
            for size in page.lacing:
                unfinished += page.body[at : at + size]
                at += size
                if size < 255:
                    packets.append(unfinished)
                    unfinished = b""
        magic = next((m for m in _MAGIC if packets and packets[0].startswith(m)), b"")
        if unfinished or len(packets) < (2 if magic == b"\x03vorbis" else 1):
            return None
        packets[0] = magic + self._comments + _MAGIC[magic]
        return packets

    def _send(self, data: bytes) -> bool:
        return self._file.write(data) == len(data)


def _paginate(packets: list[bytes], serial: int) -> list[Page]:
    """Return pages 1 and on of a stream that hold the packets of its header."""
    segments: list[bytes] = []
    for packet in packets:
        parts = [packet[at : at + 255] for at in range(0, len(packet) + 1, 255)]
        segments += parts  # the last is shorter than 255 bytes, which ends the packet
    pages: list[Page] = []
    is_continued = False
    for at in range(0, len(segments), 255):
        part = segments[at : at + 255]
        lacing = bytes(len(segment) for segment in part)
        ends = min(lacing) < 255
        position = 0 if ends else _NO_POSITION
        flags = _CONTINUED if is_continued else 0
        pages.append(Page(flags, position, serial, 1 + len(pages), lacing, b"".join(part)))
        is_continued = lacing[-1] == 255
    return pages


def _crc(data: bytes) -> int:
    """Return Ogg's checksum, which is zlib's with the order of bits reversed and no inversion."""
    reflected = zlib.crc32(data.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{reflected:032b}"[::-1], 2)
