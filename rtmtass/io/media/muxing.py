"""What a remix is made of, and the interface of what writes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Protocol

from rtmtass.io.media.contents import Stream
from rtmtass.io.media.targets import Encoder, Target
from rtmtass.types import Samples


class MuxingError(Exception):
    """FFmpeg can't write a file; the message is its reason.

    Attributes:
        errno: of the operating system, or None.
    """

    def __init__(self, reason: str, errno: int | None = None) -> None:
        super().__init__(reason)
        self.errno = errno


class StoppedError(Exception):
    """Writing was stopped by its user."""


@dataclass(frozen=True)
class Remix:
    """A file to be written: the streams of another one, with the sound of one of them replaced.

    Attributes:
        path: to write to.
        target: the container.
        options: of the muxer.
        source: file with the streams to copy; None for none.
        streams: of it, in the output's order; the one with `track.index` is replaced.
        track: that is replaced; None without a source.
        encoder: of the sound.
        sample_rate: in Hz.
        channels: number of channels.
        bits_per_s: of the encoder; 0 for its own choice.
        start: time of the first sample in the output, in seconds.
        shift: subtracted from the times of the streams, in seconds.
        tags: of the whole file, by FFmpeg's names.
    """

    path: Path
    target: Target
    options: Mapping[str, str]
    source: Path | None
    streams: Sequence[Stream]
    track: Stream | None
    encoder: Encoder
    sample_rate: int
    channels: int
    bits_per_s: int
    start: Fraction
    shift: Fraction
    tags: Mapping[str, str]


class Muxer(Protocol):
    """Writes a `Remix`; copied streams are interleaved with its sound as that arrives.

    All methods raise a `MuxingError` if that fails.
    """

    def write(self, block: Samples) -> None:
        """Append (n, channels) of sound."""

    def finish(self, is_stopped: Callable[[], bool]) -> None:
        """Copy what is left of the streams, and complete the file.

        Raises:
            StoppedError: `is_stopped` has returned True.
        """

    def abandon(self) -> None:
        """Close an unfinished file; never raises; may be called twice, and after `finish`."""
