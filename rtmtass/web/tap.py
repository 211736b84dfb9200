"""Takes what the page needs of a recording while it is separated: overview, and copies to seek in.

The player and the mix read the tracks at any position. Formats that compress with loss can't be
read so to the sample; of them there are copies in 16 bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from rtmtass.errors import OutputError
from rtmtass.io.encodings import Encoding, choose_encoding
from rtmtass.io.file_sink import FileSink
from rtmtass.types import Samples
from rtmtass.web.overview import MIXTURE, Overview

PEAKS, PICTURE = "peaks.bin", "picture.bin"
"""Names of the files of the overview."""


class PageTap:
    """A `Tap` that writes the overview, and copies of some of the tracks.

    Args:
        folder: to write to; exists.
        copied: names of the tracks to copy.

    Attributes:
        copies: paths by track.
    """

    def __init__(self, folder: Path, copied: Iterable[str]) -> None:
        self._folder = folder
        self._copied = tuple(copied)
        self._sinks: dict[str, FileSink] = {}
        self.copies: dict[str, Path] = {}

    def begin(self, stems: Sequence[str], sample_rate: int, channels: int) -> None:
        """See `Tap`."""
        self._tracks = (MIXTURE, *stems)
        self._overview = Overview(stems, sample_rate, channels)
        encoding = _copy_encoding(sample_rate, channels)
        for name in self._copied:
            target = self._folder / f"{name}.{encoding.format}"
            self._sinks[name] = FileSink(target, sample_rate, channels, encoding)
            self.copies[name] = target

    def write(self, stems: Samples) -> None:
        """See `Tap`."""
        tracks = np.concatenate((stems.sum(axis=0, keepdims=True), stems))
        self._overview.add(tracks)
        for name, sink in self._sinks.items():
            sink.write(tracks[self._tracks.index(name)])

    def finish(self) -> None:
        """Complete all files.

        Raises:
            OutputError: one can't be written.
        """
        for sink in self._sinks.values():
            sink.publish()
        try:
            (self._folder / PEAKS).write_bytes(self._overview.peaks())
            (self._folder / PICTURE).write_bytes(self._overview.picture())
        except OSError as error:
            raise OutputError("the overview can't be written") from error


def _copy_encoding(sample_rate: int, channels: int) -> Encoding:
    """Return FLAC in 16 bits, or WAV where FLAC doesn't reach."""
    try:
        return choose_encoding(
            suffix=".flac", subtype="PCM_16", sample_rate=sample_rate, channels=channels
        )
    except OutputError:
        return choose_encoding(
            suffix=".wav", subtype="PCM_16", sample_rate=sample_rate, channels=channels
        )
