"""Separates a part of a recording: what is read before it, and what is written of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rtmtass.errors import InputError
from rtmtass.io.protocols import Sink, Source
from rtmtass.types import Samples

RUN_IN_S = 30.0
"""Seconds before a part that are separated too, and not written, for the model's state."""
_GRID_S = 2  # whole hops of the model and whole periods of the resamplers, at any sample rate


@dataclass(frozen=True)
class TimeRange:
    """A part of a recording.

    Attributes:
        start_s, end_s: in seconds; an end of None is the recording's.
        run_in_s: what is separated before it, in seconds, or from the beginning if there is
            less. Then the part equals that slice of the whole separation; otherwise it is
            close to it, as a little of the model's state lasts longer.
    """

    start_s: float = 0.0
    end_s: float | None = None
    run_in_s: float = RUN_IN_S


class Excerpt:
    """A part of one recording, in frames.

    Separation starts with the run-in, at a time that is a multiple of 2 s, so that hops and
    resampled samples fall where they would in the whole recording. It ends `delay` after the
    part, on which its last samples depend.

    Args:
        part: in seconds.
        name: of the recording, for errors.
        sample_rate: of the recording, in Hz.
        length: of the recording in frames; None if unknown.
        delay: of the separator, in frames.

    Attributes:
        start: of the part.
        frames: of the part; None if it ends with a recording of unknown length.
        first: frame to be separated.
        to_read: frames to be separated; None to the recording's end.

    Raises:
        InputError: the recording ends before the part.
    """

    def __init__(
        self, part: TimeRange, name: str, sample_rate: int, length: int | None, delay: int
    ) -> None:
        self._name = name
        self._rate = sample_rate
        self.start = round(part.start_s * sample_rate)
        end = length if part.end_s is None else round(part.end_s * sample_rate)
        if length is not None and end is not None:
            end = min(end, length)
            self.check_start(length)
        grid = _GRID_S * sample_rate
        self.first = int(max(0.0, self.start - part.run_in_s * sample_rate) // grid) * grid
        self.frames = None if end is None else end - self.start
        last = None if end is None else end + delay
        if last is not None and length is not None:
            last = min(last, length)
        self.to_read = None if last is None else last - self.first

    def check_start(self, length: int) -> None:
        """Raise an `InputError` if a recording of `length` frames ends before the part."""
        if length <= self.start:
            raise InputError(
                f"{self._name} is {length / self._rate:.2f} s long, and --from"
                f" {self.start / self._rate:.2f} lies behind its end; give an earlier time"
            )


class ExcerptSource:
    """A `Source` of the frames of an excerpt that are to be separated.

    Args:
        source: at its start.
        excerpt: of it.
    """

    def __init__(self, source: Source, excerpt: Excerpt) -> None:
        self.sample_rate = source.sample_rate
        self.channels = source.channels
        self._source = source
        self._excerpt = excerpt
        self._position = 0
        self._left = excerpt.to_read

    def read(self, out: Samples) -> int:
        """See `Source`.

        Raises:
            InputError: the recording ends before the part.
        """
        while self._position < self._excerpt.first:  # decoded, as no format seeks as exactly
            skipped = self._source.read(out[: self._excerpt.first - self._position])
            self._position += skipped
            if not skipped:
                self._excerpt.check_start(self._position)
        if self._left == 0:
            return 0
        count = self._source.read(out[: self._left] if self._left is not None else out)
        self._position += count
        if self._left is not None:
            self._left -= count
        if not count:
            self._excerpt.check_start(self._position)
        return count

    def close(self) -> None:
        """See `Source`."""
        self._source.close()


class ExcerptSink:
    """A `Sink` that passes the part on, without what was separated before and behind it.

    Args:
        sink: of the part.
        excerpt: to pass on.

    Attributes:
        frames: passed on so far.
    """

    def __init__(self, sink: Sink, excerpt: Excerpt) -> None:
        self.frames = 0
        self._sink = sink
        self._excerpt = excerpt
        self._to_skip = excerpt.start - excerpt.first

    def write(self, stems: Samples) -> None:
        """See `Sink`."""
        skipped = min(self._to_skip, stems.shape[1])
        self._to_skip -= skipped
        total = self._excerpt.frames
        end = None if total is None else skipped + total - self.frames
        part = stems[:, skipped:end]
        if part.shape[1]:
            self._sink.write(np.ascontiguousarray(part))
            self.frames += part.shape[1]

    def close(self) -> None:
        """See `Sink`."""
        self._sink.close()
