"""Separates recordings one after another, block by block, in constant memory."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from rtmtass.errors import (
    InputError,
    MissingPartError,
    OutputError,
    RtmtassError,
    UsageError,
)
from rtmtass.fullband import BLOCK_S, FullBandSeparator, StreamSeparator
from rtmtass.io.media.source import MediaSource
from rtmtass.io.opening import Recording, expected_frames, open_recording
from rtmtass.io.pipes import open_stdin
from rtmtass.io.protocols import Sink, Source
from rtmtass.io.special_files import is_special, open_special
from rtmtass.offline.excerpt import Excerpt, ExcerptSink, ExcerptSource
from rtmtass.offline.limiter import Limiter
from rtmtass.offline.outputs import open_writers
from rtmtass.offline.plan import STREAM, Job, Result, SeparateOptions
from rtmtass.offline.provenance import outputs_to_write
from rtmtass.offline.writers import MIX, StemWriters, WriterThread
from rtmtass.signals import Interrupted, defer_signals
from rtmtass.types import Samples

Load = Callable[[], StreamSeparator]
"""Returns the separator; opens the model on its first call."""


class ProgressListener(Protocol):
    """Callbacks on the progress of a series of recordings."""

    def started(self, path: Path, frames: int | None, sample_rate: int) -> None:
        """Called when a recording has been opened; `frames` is None if its length is unknown."""

    def advanced(self, frames: int) -> None:
        """Called when `frames` more frames have been separated."""

    def finished(self, result: Result) -> None:
        """Called when a recording is done, skipped or failed."""


class Tap(Protocol):
    """Receives the stems of each recording besides its files; `SeparationReport` is one."""

    def begin(self, stems: Sequence[str], sample_rate: int, channels: int) -> None:
        """Called when a recording has been opened."""

    def write(self, stems: Samples) -> None:
        """Receive (S, n, channels), aligned with the input."""


class _Tee:
    """A `Sink` that passes the stems on to another and to a tap."""

    def __init__(self, sink: Sink, tap: Tap) -> None:
        self._sink, self._tap = sink, tap

    def write(self, stems: Samples) -> None:
        self._sink.write(stems)
        self._tap.write(stems)

    def close(self) -> None:
        self._sink.close()


class NullProgress:
    """A `ProgressListener` that does nothing."""

    def started(self, path: Path, frames: int | None, sample_rate: int) -> None:
        """See `ProgressListener`."""

    def advanced(self, frames: int) -> None:
        """See `ProgressListener`."""

    def finished(self, result: Result) -> None:
        """See `ProgressListener`."""


def separate_files(
    jobs: Sequence[Job],
    options: SeparateOptions,
    load: Load,
    progress: ProgressListener,
    tap: Tap | None = None,
) -> Iterator[Result]:
    """Run jobs one after another; a file that fails doesn't end the series.

    With a tap, a recording whose outputs all exist is separated again, for the tap alone.

    Yields:
        the result of each job.

    Raises:
        RtmtassError: an error that isn't specific to one file, such as a `ModelError`.
        Interrupted: by Ctrl-C or SIGTERM.
    """
    opening = _Opening(load)
    for job in jobs:
        try:
            result = separate_file(job, options, opening, progress, tap)
        except (InputError, OutputError) as error:
            result = Result(job.path, "failed", error=str(error))
        except UsageError as error:
            if len(jobs) == 1:
                raise
            result = Result(job.path, "failed", error=f"{job.path}: {error}")
        except MissingPartError as error:
            if opening.has_failed or len(jobs) == 1:
                raise
            result = Result(job.path, "failed", error=str(error))
        except (RtmtassError, BrokenPipeError):
            raise  # of the model, or of stdout
        except Exception as error:
            if opening.has_failed:
                raise
            result = _unexpected(job.path, error)
        progress.finished(result)
        yield result


class _Opening:
    """A `Load`, and whether it has failed, which all files have in common.

    Attributes:
        has_failed: by an exception.
    """

    def __init__(self, load: Load) -> None:
        self._load = load
        self.has_failed = False

    def __call__(self) -> StreamSeparator:
        """See `Load`."""
        try:
            return self._load()
        except Exception:
            self.has_failed = True
            raise


def _unexpected(path: Path, error: Exception) -> Result:
    """Return the result of a file that failed by lack of memory, or by a bug in rtmtass."""
    if isinstance(error, MemoryError):
        return Result(path, "failed", error=f"{path} needs more memory than there is; split it")
    lines = "".join(traceback.format_exception(error))
    why = f"{path} failed by a bug in rtmtass ({type(error).__name__}: {error}); please report it"
    return Result(path, "failed", error=why, traceback=lines)


def separate_file(
    job: Job,
    options: SeparateOptions,
    load: Load,
    progress: ProgressListener,
    tap: Tap | None = None,
) -> Result:
    """Separate one file into those of its targets that don't exist yet.

    Raises:
        RtmtassError: the job failed; its partial outputs have been removed.
        Interrupted: the open outputs have been completed under their .part names.
    """
    if job.error:
        raise InputError(job.error)
    missing = outputs_to_write(job, options)
    skipped = Result(job.path, "skipped", job.targets)
    if not missing and tap is None:
        return skipped
    with contextlib.closing(_open(job.path, options)) as source:
        result = separate_source(source, job.path, missing, options, load, progress, tap)
    return result if missing else skipped


def separate_source(
    source: Recording,
    path: Path,
    targets: Mapping[str, Path],
    options: SeparateOptions,
    load: Load,
    progress: ProgressListener,
    tap: Tap | None = None,
) -> Result:
    """Separate an open source into its targets; see `separate_file`."""
    is_streaming = path == STREAM or STREAM in targets.values()
    separator = FullBandSeparator(
        load(), source.sample_rate, source.channels, options.channels, low_latency=is_streaming
    )
    started = time.perf_counter()  # the RTF doesn't include opening the model
    limiter = None
    if options.limit and MIX in targets:
        limiter = Limiter(source.sample_rate, separator.channels)
    excerpt = None
    if options.part:
        known = source.frames
        rate = source.sample_rate
        excerpt = Excerpt(options.part, source.name, rate, known, separator.delay)
    sink = StemWriters(separator.stems, options.gains_db, limiter)
    thread: WriterThread | None = None
    try:
        open_writers(sink, source, path, separator.channels, targets, options, excerpt)
        if STREAM not in targets.values():  # a queue would add latency to a pipe
            with defer_signals():
                thread = WriterThread(sink)
        to_read = excerpt.to_read if excerpt else expected_frames(source)
        progress.started(path, to_read, source.sample_rate)
        stems: Sink = thread or sink
        if tap is not None:
            tap.begin(separator.stems, source.sample_rate, separator.channels)
            stems = _Tee(stems, tap)
        frames = _run_part(source, excerpt, separator, stems, progress.advanced)
        if thread:
            thread.close()
        with defer_signals():
            sink.complete()
            sink.close()
    except KeyboardInterrupt as stop:
        parts: list[Path] = []
        with contextlib.suppress(KeyboardInterrupt), defer_signals():  # a second one adds nothing
            sink.stopped.set()
            if thread:
                thread.stop()
            parts = sink.leave_parts()
        raise Interrupted(parts, stop) from stop
    except BaseException:
        with defer_signals():  # a file closed while the thread writes crashes the process
            sink.stopped.set()
            if thread:
                thread.stop()
            sink.abandon()
        raise
    return Result(
        path,
        "done",
        targets,
        source.sample_rate,
        separator.channels,
        frames,
        time.perf_counter() - started,
        {name: writer.clipped for name, writer in sink.writers.items() if writer.clipped},
        excerpt.start if excerpt else 0,
        limiter.limiting if limiter else None,
        *((source.number, source.track.codec) if isinstance(source, MediaSource) else (0, "")),
        remix=sink.remix,
    )


def _run_part(
    source: Source,
    excerpt: Excerpt | None,
    separator: FullBandSeparator,
    sink: Sink,
    advanced: Callable[[int], None],
) -> int:
    """Run on all of the source or an excerpt; return the length of the outputs in frames."""
    if excerpt is None:
        return run(source, separator, sink, advanced)
    part = ExcerptSink(sink, excerpt)
    run(ExcerptSource(source, excerpt), separator, part, advanced)
    return part.frames


def run(
    source: Source, separator: FullBandSeparator, sink: Sink, advanced: Callable[[int], None]
) -> int:
    """Read, separate and write block by block; the stems are aligned with the input.

    Args:
        source: to read until its end.
        separator: at its initial state.
        sink: receives the stems; stays open.
        advanced: called with the number of frames of each block.

    Returns:
        the length in frames.
    """
    frames = 0
    for stems in separator.separate_blocks(_read_blocks(source, advanced)):
        if stems.shape[1]:
            sink.write(stems)
        frames += stems.shape[1]
    return frames


def _read_blocks(source: Source, advanced: Callable[[int], None]) -> Iterator[Samples]:
    """Yield (n, channels) until the source ends; each is overwritten by the next."""
    block = np.zeros((max(1, int(source.sample_rate * BLOCK_S)), source.channels), np.float32)
    while count := source.read(block):
        yield block[:count]
        advanced(count)


def _open(path: Path, options: SeparateOptions) -> Recording:
    if path == STREAM:
        return open_stdin(options.raw, allow_truncated=options.allow_truncated)
    return open_input(path, track=options.track, allow_truncated=options.allow_truncated)


def open_input(path: Path, *, track: int | None = None, allow_truncated: bool = False) -> Recording:
    """Open a sound file, an audio track of a video, a named pipe or a device.

    Raises:
        InputError: see `open_recording` and `StreamSource`.
        MissingPartError: see `open_recording`.
    """
    if is_special(path) and not path.is_file():
        return open_special(path, allow_truncated=allow_truncated)
    return open_recording(path, track=track, allow_truncated=allow_truncated)
