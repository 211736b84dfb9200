"""A WAV file that can be read at any moment while it grows, and syncs that hold up no writer."""

from __future__ import annotations

import contextlib
import os
import queue
import struct
import threading
from collections.abc import Sequence
from pathlib import Path

from rtmtass.io.part_file import WAV_LIMIT
from rtmtass.types import Floats

_FLOAT, _WIDTH = 3, 4
_UNKNOWN = 0xFFFFFFFF
"""Sizes in an RF64 header, which has the true ones in its ds64 chunk."""


class GrowingWav:
    """A float32 WAV file that holds `frames` samples per channel after every `update_header`.

    Until the next update its header says less than the file holds, never more. Above `limit`
    bytes the header becomes that of an RF64, for which room is kept; no sample moves.

    Args:
        path: a new file; an existing one, or a link, is not written to.
        sample_rate: in Hz.
        channels: 1 or more.
        limit: size in bytes from which the file is an RF64.

    Attributes:
        frames: samples per channel so far.
        is_rf64: whether the header last made is one of RF64.

    Raises:
        OSError: any method, such as on a full disk.
    """

    def __init__(
        self, path: Path, sample_rate: int, channels: int, *, limit: int = WAV_LIMIT
    ) -> None:
        self._sample_rate, self._align, self._limit = sample_rate, _WIDTH * channels, limit
        self.frames = 0
        self._file = path.open("xb", buffering=0)  # O_EXCL: follows no link
        self._header_size = len(self._header())
        try:
            self._write(self._header())
        except OSError:
            self._file.close()
            path.unlink()
            raise

    def _header(self) -> bytes:
        """Return the header for `frames`; its size never changes."""
        n_bytes, align = self.frames * self._align, self._align
        fmt = struct.pack(
            "<4sIHHIIHHH", b"fmt ", 18, _FLOAT, align // _WIDTH, self._sample_rate,
            self._sample_rate * align, align, 8 * _WIDTH, 0,
        )  # fmt: skip
        n_before = 12 + 36 + len(fmt) + 12 + 8
        total = n_before + n_bytes - 8
        is_long = self.is_rf64 = n_before + n_bytes > self._limit
        if is_long:
            long_sizes = struct.pack("<4sIQQQI", b"ds64", 28, total, n_bytes, self.frames, 0)
        else:
            long_sizes = struct.pack("<4sI", b"JUNK", 28) + bytes(28)
        return b"".join((
            struct.pack("<4sI4s", b"RF64" if is_long else b"RIFF",
                        _UNKNOWN if is_long else total, b"WAVE"),
            long_sizes,
            fmt,
            struct.pack("<4sII", b"fact", 4, min(self.frames, _UNKNOWN)),
            struct.pack("<4sI", b"data", _UNKNOWN if is_long else n_bytes),
        ))  # fmt: skip

    def append(self, block: Floats) -> None:
        """Append (n, channels)."""
        self._write(block.astype("<f4", copy=False).tobytes())
        self.frames += len(block)

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) or 0 :]

    def update_header(self) -> None:
        """Write the present length into the header."""
        self._file.seek(0)
        self._write(self._header())
        self._file.seek(0, os.SEEK_END)

    def cut(self, frames: int) -> None:
        """Truncate to `frames` and update the header; works on a full disk."""
        self.frames = min(frames, self.frames)
        self._file.truncate(self._header_size + self._align * self.frames)
        self.update_header()

    def descriptor(self) -> int:
        """Return a duplicate of the file's descriptor, which the caller closes."""
        return os.dup(self._file.fileno())

    def close(self) -> None:
        """Close; may be called twice."""
        self._file.close()


class Syncer:
    """Writes files through to the disk in a thread of its own: an fsync can take seconds.

    Attributes:
        error: the first error of an fsync, or None; writes were lost then.
    """

    def __init__(self) -> None:
        self.error: OSError | None = None
        self._requests: queue.SimpleQueue[tuple[int, ...] | None] = queue.SimpleQueue()
        self._is_idle = threading.Event()
        self._is_idle.set()
        self._thread = threading.Thread(target=self._run, name="rtmtass-sync", daemon=True)
        self._thread.start()

    @property
    def is_idle(self) -> bool:
        """Whether all that was requested is done."""
        return self._is_idle.is_set()

    def request(self, files: Sequence[GrowingWav]) -> None:
        """Sync the files soon; they may be closed meanwhile."""
        self._is_idle.clear()
        self._requests.put(tuple(file.descriptor() for file in files))

    def close(self, timeout_s: float) -> None:
        """End, after what was requested, or leave it to the system after `timeout_s`."""
        self._requests.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (descriptors := self._requests.get()) is not None:
            for descriptor in descriptors:
                try:
                    os.fsync(descriptor)
                except OSError as error:
                    self.error = self.error or error
                with contextlib.suppress(OSError):
                    os.close(descriptor)
            if self._requests.empty():
                self._is_idle.set()
