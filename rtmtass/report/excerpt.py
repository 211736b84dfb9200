"""The beginning of a recording's tracks, encoded for a page while they are separated."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from rtmtass.dsp.resample import Resampler
from rtmtass.io.decode import OPUS
from rtmtass.io.file_sink import FileSink
from rtmtass.types import Samples

EXCERPT_S = 120.0
"""Longest excerpt; a browser decodes one in stereo to 180 MB."""
_RATE_HZ = 48_000  # Opus; browsers decode to it anyway


class Excerpt:
    """Encodes tracks as Opus until they are long or large enough.

    Files of the temporary folder are removed by `close`.

    Args:
        sample_rate: of the tracks, in Hz.
        channels: of the tracks; more than two are mixed down to one.
        names: of the tracks.
        max_bytes: of all tracks together, about; at least one block is kept.

    Attributes:
        seconds: length so far.
        is_cut: whether the recording went on after it.

    Raises:
        OutputError: from any method: the temporary folder is full.
    """

    def __init__(
        self, sample_rate: int, channels: int, names: Iterable[str], max_bytes: int
    ) -> None:
        self._sample_rate, self._max_bytes = sample_rate, max_bytes
        self._n_left = round(EXCERPT_S * sample_rate)
        self._n_done = 0
        self._size = self._largest_step = 0
        self._mixes_down = channels > 2
        self._channels = 1 if self._mixes_down else channels
        self._folder = tempfile.TemporaryDirectory(prefix="rtmtass-")
        self._tracks: dict[str, tuple[FileSink, Resampler | None]] = {}
        try:
            for name in names:
                self._tracks[name] = self._open(Path(self._folder.name) / f"{name}.opus")
        except BaseException:
            self.close()
            raise
        self.is_cut = False

    @property
    def seconds(self) -> float:
        """Length so far."""
        return self._n_done / self._sample_rate

    def write(self, tracks: dict[str, Samples]) -> None:
        """Append (n, channels) to each track, by name."""
        n = min(self._n_left, *map(len, tracks.values()))
        self.is_cut |= any(len(track) > n for track in tracks.values())
        if not n:
            return
        for name, track in tracks.items():
            block = track[:n]
            if self._mixes_down:
                block = block.mean(axis=1, dtype=np.float32, keepdims=True)
            sink, resampler = self._tracks[name]
            sink.write(resampler.process(block) if resampler else block)
        self._n_done += n
        self._n_left -= n
        size = sum(sink.part.stat().st_size for sink, _ in self._tracks.values())
        self._largest_step = max(self._largest_step, size - self._size)
        self._size = size
        if size + self._largest_step > self._max_bytes:
            self._n_left = 0

    def finish(self) -> dict[str, bytes]:
        """Return the encoded tracks, by name."""
        encoded = {}
        for name, (sink, resampler) in self._tracks.items():
            if resampler:
                sink.write(resampler.flush())
            sink.publish()
            encoded[name] = sink.target.read_bytes()
        return encoded

    def close(self) -> None:
        """Remove the temporary files; may be called twice."""
        for sink, _ in self._tracks.values():
            sink.abandon()
        with contextlib.suppress(OSError):
            self._folder.cleanup()

    def _open(self, path: Path) -> tuple[FileSink, Resampler | None]:
        resampler = None
        if self._sample_rate != _RATE_HZ:
            resampler = Resampler(self._sample_rate, _RATE_HZ, self._channels)
        return FileSink(path, _RATE_HZ, self._channels, OPUS), resampler
