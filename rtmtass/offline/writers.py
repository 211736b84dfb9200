"""Writes the stems of one recording, and their remix, to files or a pipe."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rtmtass.errors import OutputError
from rtmtass.io.file_sink import FileSink
from rtmtass.io.media.sink import MediaSink
from rtmtass.offline.limiter import Limiter
from rtmtass.signals import defer_signals
from rtmtass.types import Samples

MIX = "mix"
"""Name of the remix, beside the names of the stems."""
REST = "rest"
"""Name of the sum of all stems but speech."""
SPEECH = "speech"

_QUEUED_BLOCKS = 4
_SIGNALS_S = 0.1  # longest time that a signal is deferred by a full queue


class BlockWriter(Protocol):
    """One output; see `files.FileSink` and `pipes.StreamSink`.

    Attributes:
        frames: written so far.
        clipped: samples beyond full scale, where the encoding clips them.
    """

    frames: int
    clipped: int

    @property
    def part(self) -> Path | None:
        """The temporary path, or None."""

    def write(self, block: Samples) -> None:
        """Append (n, channels)."""

    def finalise(self) -> None:
        """Complete the output under its temporary name."""

    def publish(self) -> None:
        """Rename the output to its final name."""

    def abandon(self) -> None:
        """Remove the output."""


def linear_gain(gain_db: float) -> float:
    """Convert a gain from dB to a linear factor; -inf dB is 0."""
    return float(10.0 ** (gain_db / 20.0))


class StemWriters:
    """A `Sink` that distributes the stems to their writers, and mixes the remix.

    Args:
        stems: names of the stems, in the separator's order.
        gains_db: of each stem in the remix; 0 dB if missing.
        limiter: of the remix; None to let it clip.

    Attributes:
        writers: by stem, or by `REST` or `MIX`; stems without a writer are dropped.
        limiter: of the remix.
        stopped: set to end a write that waits for the reader of a pipe.
    """

    def __init__(
        self,
        stems: Sequence[str],
        gains_db: Mapping[str, float],
        limiter: Limiter | None = None,
    ) -> None:
        self.writers: dict[str, BlockWriter] = {}
        self.limiter = limiter
        self.stopped = threading.Event()
        self._stems = tuple(stems)
        self._is_complete = False
        gains = [linear_gain(gains_db.get(stem, 0.0)) for stem in stems]
        self._gains = np.array(gains, np.float32)

    def write(self, stems: Samples) -> None:
        """Write (S, n, channels).

        Raises:
            OutputError: an output can't be written.
        """
        for name, writer in self.writers.items():
            if name == MIX:
                mix = np.einsum("s,snc->nc", self._gains, stems)
                self._write_some(writer, self.limiter.process(mix) if self.limiter else mix)
            elif name == REST:
                writer.write(sum_of_rest(self._stems, stems))
            else:
                writer.write(stems[self._stems.index(name)])

    @property
    def remix(self) -> dict[str, Any] | None:
        """What a remix that FFmpeg has written consists of; None if there is none."""
        writer = self.writers.get(MIX)
        return writer.about if isinstance(writer, MediaSink) else None

    def complete(self) -> None:
        """Write all that is left, such as a video's remaining pictures; may be called twice.

        It may take long; `stopped` ends it.

        Raises:
            OutputError: an output can't be written.
        """
        if self._is_complete:
            return
        self._is_complete = True
        self._flush()
        for writer in self.writers.values():
            if isinstance(writer, MediaSink):
                writer.complete()

    def close(self) -> None:
        """Finalise all outputs, then publish all.

        Raises:
            OutputError: an output can't be finalised, in which case none is renamed.
        """
        self.complete()
        for writer in self.writers.values():
            writer.finalise()
        for writer in self.writers.values():
            writer.publish()

    def abandon(self) -> None:
        """Remove all unpublished outputs; never raises."""
        for writer in self.writers.values():
            writer.abandon()

    def leave_parts(self) -> list[Path]:
        """Finalise all outputs under their temporary names; return those that have samples.

        A video is removed.
        """
        parts = []
        if not self._is_complete:
            with contextlib.suppress(OutputError, BrokenPipeError):
                self._flush()
        for writer in self.writers.values():
            if isinstance(writer, MediaSink):  # half of a video's pictures are of no use
                writer.abandon()
                continue
            try:
                writer.finalise()
            except OutputError:
                writer.abandon()
                continue
            if not writer.frames:
                writer.abandon()
            elif isinstance(writer, FileSink) and writer.part.exists():
                writer.leave()
                parts.append(writer.part)
        return parts

    def _flush(self) -> None:
        """Write what the limiter holds."""
        if self.limiter and MIX in self.writers:
            self._write_some(self.writers[MIX], self.limiter.flush())

    @staticmethod
    def _write_some(writer: BlockWriter, block: Samples) -> None:
        if len(block):
            writer.write(block)


def sum_of_rest(names: Sequence[str], stems: Samples) -> Samples:
    """Return (n, channels): the sum of all stems but speech, of (S, n, channels)."""
    rest: Samples = stems[[name != SPEECH for name in names]].sum(axis=0)
    return rest


class WriterThread:
    """A `Sink` that encodes and writes in a thread, in parallel with the separation.

    An encoder can cost more than the separation (MP3, Ogg), and it releases the GIL.
    Signals are raised in the main thread only, so none interrupts the encoder's C code.
    The queue is short, which bounds memory.
    """

    def __init__(self, sink: StemWriters) -> None:
        self._sink = sink
        self._blocks: queue.Queue[Samples | None] = queue.Queue(_QUEUED_BLOCKS)
        self._error: Exception | None = None
        # Not `Thread.join`: interrupted by a signal, it takes the thread for ended (bpo-45274).
        self._has_ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rtmtass-writer", daemon=True)
        self._thread.start()

    def write(self, stems: Samples) -> None:
        """Queue (S, n, channels), which must not be modified afterwards.

        Raises:
            OutputError: an earlier block couldn't be written.
        """
        self._raise_error()
        self._put(stems)

    def close(self) -> None:
        """Wait until all blocks are written; the inner sink stays open. May be called twice.

        Raises:
            OutputError: a block couldn't be written.
        """
        self.stop()
        self._raise_error()

    def stop(self) -> None:
        """As `close`, without raising."""
        if not self._has_ended.is_set():
            self._put(None)
            self._has_ended.wait()

    def _put(self, stems: Samples | None) -> None:
        """Queue a block; signals are raised between attempts, as within they could deadlock."""
        is_queued = False
        while not (is_queued or self._has_ended.is_set()):
            with defer_signals(), contextlib.suppress(queue.Full):
                self._blocks.put(stems, timeout=_SIGNALS_S)
                is_queued = True

    def _run(self) -> None:
        try:
            while (stems := self._blocks.get()) is not None:
                if self._error is None:
                    try:
                        self._sink.write(stems)
                    except Exception as error:  # raised by the next `write` or `close`
                        self._error = error
            if self._error is None and not self._sink.stopped.is_set():
                try:
                    self._sink.complete()
                except Exception as error:
                    self._error = error
        finally:
            self._has_ended.set()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error
