"""Presents some byte ranges of a file as one file, so that libsndfile reads those and no others."""

from __future__ import annotations

import bisect
import itertools
import os
from collections.abc import Sequence
from typing import BinaryIO


class ByteRanges:
    """A read-only, seekable file object over ranges of another file.

    Args:
        file: to read from; is closed with this object.
        ranges: (first byte, end) of each, in the order of reading.
        claimed_size: size in bytes to report instead of the true one. A decoder that
            estimates a length from it and stops there reads to the real end.
        tail: the last bytes of a file of the claimed size, 128 at most.
        patches: bytes to return instead of the file's, by their position among the ranges.
    """

    def __init__(
        self,
        file: BinaryIO,
        ranges: Sequence[tuple[int, int]],
        *,
        claimed_size: int | None = None,
        tail: bytes = b"",
        patches: Sequence[tuple[int, bytes]] = (),
    ) -> None:
        self._file = file
        self._ranges = list(ranges)
        lengths = (end - first for first, end in self._ranges)
        self._starts = list(itertools.accumulate(lengths, initial=0))
        self._true_size = self._starts[-1]
        self._size = max(self._true_size, claimed_size or 0)
        self._tail = tail.rjust(128, b"\0")
        self._patches = list(patches)
        self._position = 0

    @property
    def unread(self) -> int:
        """Number of bytes behind the current position."""
        return max(0, self._true_size - self._position)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position; return it in bytes."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._position

    def read(self, n_bytes: int) -> bytes:
        """Read up to `n_bytes`; fewer at the end."""
        first, parts = self._position, []
        while n_bytes > 0 and self._position < self._true_size:
            index = bisect.bisect_right(self._starts, self._position) - 1
            start, end = self._ranges[index]
            offset = start + self._position - self._starts[index]
            self._file.seek(offset)
            data = self._file.read(min(n_bytes, end - offset))
            if not data:
                break  # the file has become shorter
            parts.append(data)
            self._position += len(data)
            n_bytes -= len(data)
        data = b"".join(parts)
        for position, patch in self._patches:
            data = _patched(data, first, position, patch)
        if not data and self._size - 128 <= self._position < self._size:
            # Where the claimed end is, a decoder looks for an ID3v1 tag.
            offset = 128 - (self._size - self._position)
            data = self._tail[offset : offset + n_bytes]
            self._position += len(data)
        return data

    def readinto(self, buffer: memoryview) -> int:
        """Fill the front of `buffer`; return the number of bytes."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def write(self, data: bytes) -> int:
        """Write nothing: the file is only read, but soundfile requires the method."""
        return 0

    def close(self) -> None:
        """Close the file; may be called twice."""
        self._file.close()

    def __del__(self) -> None:
        """Close the file with its last reader, as soundfile closes its own."""
        self.close()


def _patched(data: bytes, first: int, position: int, patch: bytes) -> bytes:
    """Return `data`, which begins at byte `first`, with `patch` put over it at `position`."""
    begin, end = max(first, position), min(first + len(data), position + len(patch))
    if begin >= end:
        return data
    return data[: begin - first] + patch[begin - position : end - position] + data[end - first :]
