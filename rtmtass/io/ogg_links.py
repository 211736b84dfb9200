"""Finds the links of a chained Ogg file, of which libsndfile reads only the first.

Internet radio and joined files are such chains: complete Ogg streams one after another.

Source: RFC 3533, sections 4 and 6.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import BinaryIO

_HEADER = 27  # bytes before the segment table
_FIRST = 2  # flag of the first page of a stream
_CHUNK = 1 << 16


@dataclass(frozen=True)
class OggLinks:
    """What was found by following the pages.

    Attributes:
        ranges: (first byte, end) of each link.
        is_cut: the file ends within a page.
    """

    ranges: list[tuple[int, int]]
    is_cut: bool


def follow_pages(file: BinaryIO) -> OggLinks:
    """Follow the pages of a file to its end; bytes between them are skipped."""
    n_bytes = file.seek(0, os.SEEK_END)
    starts: list[int] = []
    position, was_first, is_cut = 0, False, False
    while position < n_bytes:
        file.seek(position)
        header = file.read(_HEADER)
        if header[:4] != b"OggS":
            position = _next_page(file, position + 1, n_bytes)
            continue
        sizes = file.read(header[26]) if len(header) == _HEADER else b""
        end = position + len(header) + len(sizes) + sum(sizes)
        if len(header) < _HEADER or len(sizes) < header[26] or end > n_bytes:
            is_cut = True
            break
        is_first = bool(header[5] & _FIRST)
        if is_first and not was_first:  # several in a row are the streams of one link
            starts.append(position)
        was_first = is_first
        position = end
    ends = [*starts[1:], n_bytes]
    return OggLinks(list(zip(starts, ends, strict=False)), is_cut)


def _next_page(file: BinaryIO, position: int, n_bytes: int) -> int:
    """Return where the next page begins, at or after `position`."""
    while position < n_bytes:
        file.seek(position)
        data = file.read(_CHUNK)
        found = data.find(b"OggS")
        if found >= 0:
            return position + found
        position += max(1, len(data) - 3)
    return n_bytes
