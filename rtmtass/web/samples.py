"""Reads the tracks of a separated recording from disk: for the player, and for the mix."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rtmtass.errors import UsageError
from rtmtass.io.spans import SpanReader
from rtmtass.types import Samples

LARGEST = 4_000_000
"""Samples of all tracks in one answer: 16 MB."""


class Tracks:
    """The mixture and the stems of a recording, by position; used from any thread.

    Args:
        paths: of the files by track, all of one rate, length and number of channels; opened at
            the first read.
        channels: of each.
    """

    def __init__(self, paths: Mapping[str, Path], channels: int) -> None:
        self._paths, self._channels = dict(paths), channels
        self._lock = threading.Lock()
        self._readers: list[SpanReader] = []
        self._is_closed = False

    @property
    def most_frames(self) -> int:
        """How many frames one call of `read` returns at most."""
        return LARGEST // (len(self._paths) * self._channels)

    def read(self, start: int, frames: int) -> Samples:
        """Return (K, n, channels) from frame `start` on; n is less than `frames` at the end only.

        Raises:
            UsageError: more than `most_frames`, or the recording has been closed.
            InputError: a file can't be read.
        """
        if frames > self.most_frames:
            raise UsageError(f"{frames} frames were asked for; ask for {self.most_frames} at most")
        with self._lock:
            if self._is_closed:
                raise UsageError("this recording has been removed; drop the file again")
            if not self._readers:
                self._readers = [SpanReader(path) for path in self._paths.values()]
            return np.stack([reader.read(start, frames) for reader in self._readers])

    def close(self) -> None:
        """Close the files; may be called twice."""
        with self._lock, contextlib.ExitStack() as stack:
            self._is_closed = True
            for reader in self._readers:
                stack.callback(reader.close)
            self._readers = []
