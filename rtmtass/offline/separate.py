"""Separates recordings one after the other, block by block, in memory that doesn't grow."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Protocol

import numpy as np

from rtmtass.errors import InputError, OutputError, UsageError
from rtmtass.fullband import FullBandSeparator, StreamSeparator
from rtmtass.io.encodings import FORMATS, Encoding, choose_encoding
from rtmtass.io.files import FileSink, FileSource
from rtmtass.io.part_file import why_unwritable
from rtmtass.io.pipes import StreamSink, StreamSource, open_source, open_stdin, stdout_stream
from rtmtass.io.protocols import Sink, Source
from rtmtass.offline.plan import STREAM, Job, Result, SeparateOptions
from rtmtass.offline.writers import BlockWriter, StemWriters, WriterThread
from rtmtass.signals import defer_signals

BLOCK_S = 1.0
"""Seconds read, separated and written at a time."""

Load = Callable[[], StreamSeparator]
"""Opens the model, at the first file that turns out to need it; the same one each time."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM (its cause) in the middle of a job; says what it left behind."""

    def __init__(self, parts: Sequence[Path], cause: KeyboardInterrupt) -> None:
        super().__init__()
        self.parts = tuple(parts)
        self.finished = 0
        self.cause = cause


class ProgressListener(Protocol):
    """Is told how it goes: see `tui.Progress`."""

    def started(self, path: Path, frames: int | None, sample_rate: int) -> None:
        """A recording has been opened; `frames` is None if nobody knows how long it is."""

    def advanced(self, frames: int) -> None:
        """So many more frames have been separated."""

    def finished(self, result: Result) -> None:
        """A recording is done with, one way or another."""


class NullProgress:
    """A Watcher that says nothing."""

    def started(self, path: Path, frames: int | None, sample_rate: int) -> None:
        """See Watcher."""

    def advanced(self, frames: int) -> None:
        """See Watcher."""

    def finished(self, result: Result) -> None:
        """See Watcher."""


def separate_files(
    jobs: Sequence[Job], options: SeparateOptions, load: Load, progress: ProgressListener
) -> Iterator[Result]:
    """Separate one after the other; a bad file doesn't end the series.

    Raises:
        RtmtassError: one that is no file's fault: the model's, the command's.
        Interrupted: with the names of unfinished files.
    """
    for job in jobs:
        try:
            result = separate_file(job, options, load, progress)
        except (InputError, OutputError) as error:
            result = Result(job.path, "failed", error=str(error))
        progress.finished(result)
        yield result


def separate_file(
    job: Job, options: SeparateOptions, load: Load, progress: ProgressListener
) -> Result:
    """Separate one file into those of its targets that aren't there yet.

    Raises:
        RtmtassError: nothing is left behind.
        Interrupted: what is open was made valid under its .part name.
    """
    missing = {
        name: target
        for name, target in job.targets.items()
        if options.overwrite or target == STREAM or not target.exists()
    }
    if not missing:
        return Result(job.path, "skipped", job.targets)
    with closing(_open(job.path, options)) as source:
        return separate_source(source, job.path, missing, options, load, progress)


def separate_source(
    source: FileSource | StreamSource,
    path: Path,
    targets: Mapping[str, Path],
    options: SeparateOptions,
    load: Load,
    progress: ProgressListener,
) -> Result:
    """Separate an open source into its targets; see `separate_file`."""
    streams = path == STREAM or STREAM in targets.values()
    separator = FullBandSeparator(
        load(), source.sample_rate, source.channels, options.channels, low_latency=streams
    )
    started = time.perf_counter()  # what opening the model took is no part of the RTF
    sink = StemWriters(separator.stems, options.gains_db)
    thread: WriterThread | None = None
    try:
        with defer_signals():
            sink.writers = _open_writers(source, path, separator.channels, targets, options)
            if STREAM not in targets.values():  # what goes to a pipe must not wait for a thread
                thread = WriterThread(sink)
        progress.started(path, source.frames, source.sample_rate)
        frames = run(source, separator, thread or sink, progress.advanced)
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
    """Read, separate and write block by block, in time with the input to the sample.

    The first `delay` samples of the separator are dropped and as many fetched at
    the end, so as many frames go out as came in.

    Returns:
        How many frames that were.
    """
    block = np.zeros((max(1, int(source.sample_rate * BLOCK_S)), source.channels), np.float32)
    frames, late = 0, separator.delay
    while count := source.read(block):
        stems = separator.process(block[:count])
        dropped = min(late, count)
        late -= dropped
        if dropped < count:
            sink.write(stems[:, dropped:])
        frames += count
        advanced(count)
    sink.write(separator.flush()[:, late:])
    return frames


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
    """Decide how a target is written: its name says the format, the input the depth."""
    own = target.suffix.lstrip(".").lower()
    return choose_encoding(
        suffix=path.suffix,
        subtype=source.subtype,
        sample_rate=source.sample_rate,
        channels=channels,
        wanted_format=own if own in FORMATS else options.format,
        wanted_subtype=options.subtype,
    )


def _open_stdout(
    source: FileSource | StreamSource, channels: int, options: SeparateOptions
) -> StreamSink:
    """Send what came in: raw for raw, WAV for all else, 16 bits for 16 bits."""
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
