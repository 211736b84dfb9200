"""`rtmtass.separate_file`: one recording from Python, by the function that the command calls."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from rtmtass.config import STEMS
from rtmtass.errors import UsageError
from rtmtass.fullband import StreamSeparator
from rtmtass.io.encodings import CHANNEL_MODES, FORMATS, SUBTYPES
from rtmtass.offline.plan import STREAM, Result, SeparateOptions, plan
from rtmtass.offline.separate import separate_file as run_job
from rtmtass.separator import load


def separate_file(
    path: str | os.PathLike[str],
    folder: str | os.PathLike[str] | None = None,
    *,
    separator: StreamSeparator | None = None,
    stems: Sequence[str] = STEMS,
    format: str | None = None,
    subtype: str | None = None,
    channels: str = "linked",
    mix: str | os.PathLike[str] | None = None,
    gains_db: Mapping[str, float] | None = None,
    overwrite: bool = False,
    allow_truncated: bool = False,
    track: int | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> Result:
    """Separate a recording into files, as `rtmtass separate` does, in constant memory.

    Args:
        path: of the recording: any format, rate and number of channels that the command reads.
        folder: of the stems, made if it is missing; None for the recording's.
        separator: result of `load`, to use one model for many files; None loads the default.
        stems: to write; may be empty with a `mix`.
        format: of the stems: "wav", "flac", "ogg", "mp3" or "opus"; None for the recording's.
        subtype: of the stems, as "PCM_16"; None for the nearest to the recording's.
        channels: "linked", "independent" or "mono", see `FullBandSeparator`.
        mix: file of a remix; its format follows its suffix, such as ".mp4" of a copy of a video.
        gains_db: of each stem in the remix; 0 dB if missing, -inf for none of it.
        overwrite: replace existing outputs; otherwise only those that are missing are written.
        allow_truncated: accept a recording that is shorter than its header says.
        track: number of the audio track of a video, from 1; None for the default.
        progress: called with the frames that are done, and of how many, which is close
            for a video; None if unknown.

    Returns:
        the result: its `outputs` are the paths, by stem, "mix" for the remix; its `frames`,
        `sample_rate` and `channels` are those of each output; `clipped` counts the samples
        beyond full scale, by output. If all outputs exist already, its `status` is "skipped"
        instead of "done", and it has no `frames`.

    Raises:
        InputError: the recording is missing, damaged, cut short, or holds NaN.
        OutputError: an output can't be written, or would replace the recording.
        UsageError: an argument isn't one of those above.
        MissingPartError: a video needs PyAV or ffmpeg, and there is neither.
        ModelError: the default model's files were altered.
        KeyboardInterrupt: by Ctrl-C; the outputs are complete so far, named NAME.part.
    """
    source = Path(path)
    target = None if folder is None else Path(folder)
    if STREAM in (source, target):
        raise UsageError("separate_file takes files; for streams, use load().process(block)")
    if source.is_dir():
        raise UsageError(f"{source} is a folder; call separate_file for each recording in it")
    _check("stem", [*stems, *(gains_db or {})], STEMS if separator is None else separator.stems)
    _check("format", [format] if format else [], FORMATS)
    _check("subtype", [subtype] if subtype else [], SUBTYPES)
    _check("channel mode", [channels], CHANNEL_MODES)
    if not stems and mix is None:
        raise UsageError("nothing to write; name a stem or a mix")
    options = SeparateOptions(
        stems=tuple(dict.fromkeys(stems)),
        folder=target,
        format=format,
        subtype=subtype,
        gains_db=gains_db or {},
        mix=None if mix is None else Path(mix),
        overwrite=overwrite,
        channels=channels,
        allow_truncated=allow_truncated,
        track=track,
    )
    (job,) = plan([source], options)
    return run_job(job, options, lambda: separator or load(), _Frames(progress))


def _check(kind: str, names: Collection[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise UsageError(f"unknown {kind} {name!r}; choose from {', '.join(known)}")


class _Frames:
    """A `ProgressListener` that counts frames for a function."""

    def __init__(self, progress: Callable[[int, int | None], None] | None) -> None:
        self._progress = progress
        self._done = 0
        self._total: int | None = None

    def started(self, path: Path, frames: int | None, sample_rate: int) -> None:
        """See `ProgressListener`."""
        self._total = frames

    def advanced(self, frames: int) -> None:
        """See `ProgressListener`."""
        self._done += frames
        if self._progress is not None:
            self._progress(self._done, self._total)

    def finished(self, result: Result) -> None:
        """See `ProgressListener`."""
