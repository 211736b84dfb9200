"""Separates the sound of a WAV whose header lacks its length from the chunks behind it.

Such a file may still have tags behind its samples; taken for sound they are a click at the end.
"""

from __future__ import annotations

import re
from typing import BinaryIO

import numpy as np

CHUNKS = (
    b"LIST", b"id3 ", b"ID3 ", b"bext", b"iXML", b"axml", b"aXML", b"_PMX", b"cue ", b"plst",
    b"smpl", b"inst", b"fact", b"PEAK", b"DISP", b"cart", b"chna", b"acid", b"strc", b"umid",
    b"minf", b"regn", b"levl", b"link", b"MD5 ", b"afsp", b"JUNK", b"junk", b"PAD ", b"FLLR",
    b"labl", b"note", b"adtl", b"r64m", b"logS", b"LGWV", b"SAUR", b"SyLp", b"elm1", b"slnt",
)  # fmt: skip
"""Chunks that known programs write behind the samples."""

_LARGEST = 1 << 24
"""Bytes of one such chunk at most: a cover in print quality."""
_SEARCHED = 1 << 24  # bytes from the end of a file that are searched for chunks
_BLOCK = 1 << 22
_KNOWN = re.compile(b"|".join(re.escape(chunk) for chunk in CHUNKS))
_ID = re.compile(rb"[A-Za-z0-9_][A-Za-z0-9_ ]{3}")
_TAG = re.compile(rb"TAG|ID3|APETAGEX|\0{8}")
_STARTS = frozenset(chunk[:n] for chunk in CHUNKS for n in (1, 2, 3))


def is_chunk(data: bytes, room: int | None = None) -> bool:
    """Whether a chunk begins here.

    Args:
        data: at least 8 bytes, its name and size.
        room: bytes that follow these 8, if that is known.
    """
    size = int.from_bytes(data[4:8], "little")
    return len(data) >= 8 and bool(_ID.match(data)) and (room is None or size <= room)


def is_sound(data: bytes, room: int | None = None) -> bool:
    """Whether the bytes behind a data chunk are neither chunks, tags nor padding.

    They are then taken for sound whose size has wrapped past 4 GiB.

    Args:
        data: the first of these bytes, 8 or more.
        room: their number, less 8, if that is known.
    """
    return len(data) >= 8 and not is_chunk(data, room) and not _TAG.match(data)


class TailGuard:
    """Holds back what may be chunks behind the sound, until more of the stream decides.

    Only the names in `CHUNKS` are held back, so that sound seldom is. No more than a few
    bytes are while nothing looks like a chunk.
    """

    def __init__(self) -> None:
        self._held = bytearray()
        self._position = 0  # of the first held byte: chunks begin at even ones
        self._end = 0  # of the chunks so far among the held bytes; 0 if none begins there
        self._last = 0  # beginning of the last of them

    def feed(self, data: bytes) -> bytes:
        """Take the stream's next bytes; return those that are sound."""
        self._held += data
        sound = b""
        while True:
            if not self._end:
                start = self._find()
                sound += self._release(start)
                if not self._end:
                    return sound
            if self._follow():
                return sound
            sound += self._release_chunks()

    def finish(self) -> bytes:
        """Return the held bytes that are sound, once the stream has ended."""
        sound = bytearray()
        while self._held:
            if self._end and len(self._held) in (self._end, self._end - 1):
                break  # the last chunk reaches the end; it may lack its padding
            sound += self._release_chunks()
            sound += self.feed(b"")
            if not self._end:
                sound += self._release(len(self._held))
        self._held.clear()
        return bytes(sound)

    def _release_chunks(self) -> bytes:
        """Release the chunks so far, all but the last, which may contain a true one."""
        self._end = 0
        return self._release(max(2, self._last))

    def _release(self, n_bytes: int) -> bytes:
        released = bytes(self._held[:n_bytes])
        del self._held[:n_bytes]
        self._position += len(released)
        return released

    def _find(self) -> int:
        """Return where a chunk begins, or how many bytes can't be of one."""
        for match in _KNOWN.finditer(self._held):
            if (self._position + match.start()) % 2 == 0:
                self._end, self._last = 1, 0  # something begins there; `_follow` measures it
                return match.start()
        n_bytes = len(self._held)
        for n in (3, 2, 1):
            if bytes(self._held[-n:]) in _STARTS and n <= n_bytes:
                return n_bytes - n
        return n_bytes

    def _follow(self) -> bool:
        """Follow the held chunks; return whether they still may be some."""
        position = 0 if self._end == 1 else self._end
        while len(self._held) >= position + 8:
            header = bytes(self._held[position : position + 8])
            size = int.from_bytes(header[4:], "little")
            self._last = position
            if not is_chunk(header) or position + size > _LARGEST:
                return False
            position += 8 + size + size % 2
            self._end = position
        return True


def end_of_sound(file: BinaryIO, start: int, end: int) -> int:
    """Return where the sound of a file ends: before the chunks or the ID3v1 tag at its end.

    Args:
        file: to search.
        start: of the sound, in bytes.
        end: of the file.
    """
    file.seek(max(start, end - 128))
    if file.read(3) == b"TAG":
        end -= 128
    begins: dict[int, int] = {}  # the first chunk that ends at a position
    first = start + max(0, end - start - _SEARCHED) // 2 * 2
    for position in range(first, end, _BLOCK):
        file.seek(position)
        data = file.read(_BLOCK + 6)
        words = np.frombuffer(data[: len(data) // 2 * 2], "<u2").astype(np.int64)
        if len(words) < 4:
            break
        sizes = words[2:-1] | words[3:] << 16
        offsets = position + 2 * np.arange(len(sizes))
        fits = offsets + 8 + sizes <= end
        for index in np.flatnonzero(fits & _are_ids(words[:-3], words[1:-2])):
            after = int(offsets[index] + 8 + sizes[index])
            for stop in {after, min(end, after + int(sizes[index]) % 2)}:
                begins[stop] = min(begins.get(stop, end), int(offsets[index]))
    while end in begins and begins[end] < end:
        end = begins[end]
    return end


def _are_ids(
    first: np.ndarray[tuple[int], np.dtype[np.int64]],
    second: np.ndarray[tuple[int], np.dtype[np.int64]],
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Whether four characters, two in each number, may be the name of a chunk."""
    allowed = np.zeros(256, bool)
    allowed[list(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_ ")] = True
    pairs: np.ndarray[tuple[int], np.dtype[np.bool_]] = (
        allowed[first & 255] & allowed[first >> 8] & allowed[second & 255] & allowed[second >> 8]
    )
    return pairs
