"""Separates recordings one after another, block by block, in constant memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Protocol

import numpy as np

from rtmtass.errors import InputError, OutputError, UsageError
from rtmtass.fullband import BLOCK_S, FullBandSeparator, StreamSeparator
from rtmtass.io.encodings import FORMATS, Encoding, choose_encoding
from rtmtass.io.files import FileSink, FileSource
from rtmtass.io.part_file import why_unwritable
from rtmtass.io.pipes import StreamSink, StreamSource, open_source, open_stdin, stdout_stream
from rtmtass.io.protocols import Sink, Source
from rtmtass.offline.plan import STREAM, Job, Result, SeparateOptions
from rtmtass.offline.writers import BlockWriter, StemWriters, WriterThread
from rtmtass.signals import defer_signals
from rtmtass.types import Samples

Load = Callable[[], StreamSeparator]
"""Returns the separator; opens the model on its first call."""


class Interrupted(KeyboardInterrupt):
    """A job was interrupted by Ctrl-C or SIGTERM.

    Attributes:
        parts: unfinished output files, valid under their .part names.
        finished: number of recordings completed before.
        cause: the exception of the signal.
    """

    def __init__(self, parts: Sequence[Path], cause: KeyboardInterrupt) -> None:
        super().__init__()
        self.parts = tuple(parts)
        self.finished = 0
        self.cause = cause


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
    for job in jobs:
        try:
            result = separate_file(job, options, load, progress, tap)
        except (InputError, OutputError) as error:
            result = Result(job.path, "failed", error=str(error))
        progress.finished(result)
        yield result


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
    missing = {
        name: target
        for name, target in job.targets.items()
        if options.overwrite or target == STREAM or not target.exists()
    }
    skipped = Result(job.path, "skipped", job.targets)
    if not missing and tap is None:
        return skipped
    with closing(_open(job.path, options)) as source:
        result = separate_source(source, job.path, missing, options, load, progress, tap)
    return result if missing else skipped


def separate_source(
    source: FileSource | StreamSource,
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
    sink = StemWriters(separator.stems, options.gains_db)
    thread: WriterThread | None = None
    try:
        with defer_signals():
            sink.writers = _open_writers(source, path, separator.channels, targets, options)
            if STREAM not in targets.values():  # a queue would add latency to a pipe
                thread = WriterThread(sink)
        progress.started(path, source.frames, source.sample_rate)
        stems: Sink = thread or sink
        if tap is not None:
            tap.begin(separator.stems, source.sample_rate, separator.channels)
            stems = _Tee(stems, tap)
        frames = run(source, separator, stems, progress.advanced)
        if thread:
            thread.close()
        with defer_signals():
            sink.close()
    except KeyboardInterrupt as stop:
        with defer_signals():
            if thread:
                thread.stop()
            raise Interrupted(sink.leave_parts(), stop) from stop
    except BaseException:
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
    )


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


def _open(path: Path, options: SeparateOptions) -> FileSource | StreamSource:
    if path == STREAM:
        return open_stdin(options.raw, allow_truncated=options.allow_truncated)
    return open_source(path, allow_truncated=options.allow_truncated)


def _open_writers(
    source: FileSource | StreamSource,
    path: Path,
    channels: int,
    targets: Mapping[str, Path],
    options: SeparateOptions,
) -> dict[str, BlockWriter]:
    writers: dict[str, BlockWriter] = {}
    try:
        for name, target in targets.items():
            if target == STREAM:
                writers[name] = _open_stdout(source, channels, options)
                continue
            encoding = choose_file_encoding(source, path, target, channels, options)
            _make_folder(target.parent)
            writers[name] = FileSink(
                target,
                source.sample_rate,
                channels,
                encoding,
                frames=source.frames,
                tags=source.tags,
            )
    except BaseException:
        for writer in writers.values():
            writer.abandon()
        raise
    return writers


def choose_file_encoding(
    source: FileSource | StreamSource,
    path: Path,
    target: Path,
    channels: int,
    options: SeparateOptions,
) -> Encoding:
    """Choose a target's encoding: format by its suffix, bit depth by the input."""
    target_format = target.suffix.lstrip(".").lower()
    return choose_encoding(
        suffix=path.suffix,
        subtype=source.subtype,
        sample_rate=source.sample_rate,
        channels=channels,
        requested_format=target_format if target_format in FORMATS else options.format,
        requested_subtype=options.subtype,
    )


def _open_stdout(
    source: FileSource | StreamSource, channels: int, options: SeparateOptions
) -> StreamSink:
    """Open stdout in the input's format: raw for raw, else WAV; 16 bits for 16 bits or less."""
    if options.format not in (None, "wav"):
        raise UsageError(f"stdout carries WAV or raw samples, not {options.format}; add -o FOLDER")
    is_raw = options.raw is not None and options.format is None
    if is_raw and options.raw:
        encoding = options.raw.encoding
    else:
        encoding = "s16" if (options.subtype or source.subtype) in ("PCM_16", "PCM_U8") else "f32"
    return StreamSink(
        stdout_stream(),
        source.sample_rate,
        channels,
        encoding,
        is_raw=is_raw,
        frames=source.frames if not options.allow_truncated else None,
    )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(why_unwritable(folder, error)) from error
