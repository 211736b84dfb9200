"""From the stems of one recording to the files, or the pipe, that they end in."""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rtmtass.errors import OutputError

Samples = npt.NDArray[np.float32]

MIX = "mix"
"""What the remix is called where the stems are called by name."""

_QUEUED_BLOCKS = 4


class BlockWriter(Protocol):
    """One output: see `audio.FileSink` and `pipes.StreamSink`."""

    frames: int
    clipped: int

    @property
    def part(self) -> Path | None:
        """The temporary name, None where there is none."""

    def write(self, block: Samples) -> None:
        """Append (n, channels)."""

    def finalise(self) -> None:
        """Make it complete."""

    def publish(self) -> None:
        """Give it its final name."""

    def abandon(self) -> None:
        """Remove it."""


def linear_gain(gain_db: float) -> float:
    """Turn decibels into a factor; -inf becomes 0."""
    return float(10.0 ** (gain_db / 20.0))


class StemWriters:
    """A Sink that deals the stems out to their writers, and mixes a remix of them.

    Args:
        stems: the separator's, in its order.
        gains_db: of each stem in the remix; 0 where not named.

    Attributes:
        writers: by stem, or by MIX; stems without a writer are dropped.
    """

    def __init__(self, stems: Sequence[str], gains_db: Mapping[str, float]) -> None:
        self.writers: dict[str, BlockWriter] = {}
        self._stems = tuple(stems)
        gains = [linear_gain(gains_db.get(stem, 0.0)) for stem in stems]
        self._gains = np.array(gains, np.float32)

    def write(self, stems: Samples) -> None:
        """Take (S, n, channels).

        Raises:
            OutputError: a writer couldn't.
        """
        for name, writer in self.writers.items():
            if name == MIX:
                writer.write(np.einsum("s,snc->nc", self._gains, stems))
            else:
                writer.write(stems[self._stems.index(name)])

    def close(self) -> None:
        """Finish every file and only then give them their final names.

        Raises:
            OutputError: a file couldn't be finished; none is renamed.
        """
        for writer in self.writers.values():
            writer.finalise()
        for writer in self.writers.values():
            writer.publish()

    def abandon(self) -> None:
        """Remove everything that isn't final; never raises."""
        for writer in self.writers.values():
            writer.abandon()

    def leave_parts(self) -> list[Path]:
        """Finish what is open under its temporary name and return those names."""
        parts = []
        for writer in self.writers.values():
            try:
                writer.finalise()
            except OutputError:
                writer.abandon()
                continue
            if not writer.frames:
                writer.abandon()
            elif writer.part and writer.part.exists():
                parts.append(writer.part)
        return parts


class WriterThread:
    """A Sink before another one: encodes and writes beside the separation of the next block.

    An encoder can cost more than the separation (MP3, Ogg) and leaves the interpreter
    free meanwhile. And signals reach the main thread only: none can interrupt the
    encoder's C code half-way. A few blocks wait at most, so memory stays flat.
    """

    def __init__(self, sink: StemWriters) -> None:
        self._sink = sink
        self._blocks: queue.Queue[Samples | None] = queue.Queue(_QUEUED_BLOCKS)
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="rtmtass-writer", daemon=True)
        self._thread.start()

    def write(self, stems: Samples) -> None:
        """Queue (S, n, channels), which must not change any more.

        Raises:
            OutputError: an earlier block couldn't be written.
        """
        self._raise_error()
        self._blocks.put(stems)

    def close(self) -> None:
        """Wait until all is written; the sink itself stays open. May be called twice.

        Raises:
            OutputError: a block couldn't be written.
        """
        self.stop()
        self._raise_error()

    def stop(self) -> None:
        """Like `close`, but errors are kept to itself."""
        if self._thread.is_alive():
            self._blocks.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (stems := self._blocks.get()) is not None:
            if self._error is None:
                try:
                    self._sink.write(stems)
                except Exception as error:  # handed to whoever writes or closes next
                    self._error = error

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error
