"""Opens the outputs of a recording: files, pipes, stdout, and remixes in videos."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rtmtass.errors import OutputError, UsageError
from rtmtass.io.encodings import FORMATS, Encoding, choose_encoding
from rtmtass.io.file_sink import FileSink
from rtmtass.io.media.sink import MediaSink
from rtmtass.io.media.source import MediaSource
from rtmtass.io.media.targets import VIDEO_SUFFIXES, is_target
from rtmtass.io.opening import Recording
from rtmtass.io.part_file import why_unwritable
from rtmtass.io.paths import quoted
from rtmtass.io.pipes import StreamSink, stdout_stream
from rtmtass.io.special_files import SpecialSink, is_special
from rtmtass.io.tags.model import Metadata
from rtmtass.io.tags.positions import excerpt as move_positions
from rtmtass.io.tags.reader import read_metadata
from rtmtass.offline.excerpt import Excerpt
from rtmtass.offline.plan import STREAM, SeparateOptions
from rtmtass.offline.provenance import marks
from rtmtass.offline.writers import StemWriters
from rtmtass.signals import defer_signals


def open_writers(
    sink: StemWriters,
    source: Recording,
    path: Path,
    channels: int,
    targets: Mapping[str, Path],
    options: SeparateOptions,
    excerpt: Excerpt | None,
) -> None:
    """Fill `sink.writers`; what is open already is in it if this raises."""
    if options.bitrate and not any(is_mp3(t) or is_target(t) for t in targets.values()):
        raise UsageError(
            f"--bitrate is of MP3 and of remixes in videos, and no output of {path} is one; add"
            " --format mp3, or leave out --bitrate"
        )
    marked = marks(path, targets, options)
    metadata = _metadata_of(source, path, channels, excerpt)
    frames = excerpt.frames if excerpt else source.frames
    for name, target in targets.items():
        if target == STREAM:
            sink.writers[name] = _open_stdout(source, channels, options, frames)
        elif is_special(target):  # waits for the reader, which a signal interrupts
            sink.writers[name] = _open_pipe(sink, source, target, channels, options, frames)
        elif is_target(target):
            _make_folder(target.parent)
            copied = _source_to_copy(source, target, excerpt)
            with defer_signals():
                sink.writers[name] = MediaSink(
                    target,
                    source.sample_rate,
                    channels,
                    source=copied,
                    metadata=metadata,
                    software=marked.get(name, ""),
                    bitrate=options.bitrate,
                    stopped=sink.stopped,
                )
        else:
            encoding = choose_file_encoding(source, path, target, channels, options)
            _make_folder(target.parent)
            with defer_signals():
                sink.writers[name] = FileSink(
                    target,
                    source.sample_rate,
                    channels,
                    encoding,
                    frames=frames,
                    tags={"software": marked[name]} if marked else {},
                    metadata=metadata,
                )


def _source_to_copy(source: Recording, target: Path, excerpt: Excerpt | None) -> MediaSource | None:
    """Return the media file whose pictures and other streams an output gets; None for none.

    Raises:
        UsageError: of a part of a video.
    """
    if not isinstance(source, MediaSource):
        return None
    if excerpt is None:
        return source
    if source.contents.has_video and target.suffix.lower() in VIDEO_SUFFIXES:
        raise UsageError(
            "pictures are copied as they are, and can't be cut at --from and --to; leave these"
            f" out, or name a sound file, as in --mix {quoted(target.with_suffix('.m4a').name)}"
        )
    return None


def _metadata_of(source: Recording, path: Path, channels: int, excerpt: Excerpt | None) -> Metadata:
    """Return what an output of `channels` gets of the input's metadata; a pipe has none."""
    metadata = Metadata() if path == STREAM else read_metadata(path)
    if isinstance(source, MediaSource):
        metadata = source.metadata
    elif metadata == Metadata():  # a format that only the decoder reads
        metadata = Metadata.from_fields(source.tags)
    metadata = metadata.for_channels(source.channels, channels)
    if excerpt is None:
        return metadata
    return move_positions(metadata, excerpt.start, excerpt.frames, source.sample_rate)


def is_mp3(target: Path) -> bool:
    """Whether an output is an MP3, by its name."""
    return target.suffix.lower() == ".mp3"


def choose_file_encoding(
    source: Recording,
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
        bitrate=options.bitrate,
    )


def _open_stdout(
    source: Recording, channels: int, options: SeparateOptions, frames: int | None
) -> StreamSink:
    """Open stdout in the input's format: raw for raw, else WAV; 16 bits for 16 bits or less."""
    if options.format not in (None, "wav"):
        raise UsageError(f"stdout carries WAV or raw samples, not {options.format}; add -o FOLDER")
    is_raw = options.raw is not None and options.format is None
    return StreamSink(
        stdout_stream(),
        source.sample_rate,
        channels,
        options.raw.encoding if is_raw and options.raw else _stream_encoding(source, options),
        is_raw=is_raw,
        frames=frames if not options.allow_truncated else None,
    )


def _open_pipe(
    sink: StemWriters,
    source: Recording,
    target: Path,
    channels: int,
    options: SeparateOptions,
    frames: int | None,
) -> SpecialSink:
    suffix = target.suffix.lstrip(".").lower()
    written = options.format or (suffix if suffix in FORMATS else "wav")
    if written != "wav":
        raise UsageError(f"{target} is a pipe or device, which carries WAV, not {written}")
    return SpecialSink(
        target,
        source.sample_rate,
        channels,
        _stream_encoding(source, options),
        frames=frames if not options.allow_truncated else None,
        stopped=sink.stopped,
    )


def _stream_encoding(source: Recording, options: SeparateOptions) -> str:
    """Return an encoding of `RAW_ENCODINGS`: 16 bits for 16 bits or less."""
    return "s16" if (options.subtype or source.subtype) in ("PCM_16", "PCM_U8") else "f32"


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(why_unwritable(folder, error)) from error
