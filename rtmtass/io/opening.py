"""Opens a recording of any kind: by libsndfile what it reads, by FFmpeg the rest."""

from __future__ import annotations

from pathlib import Path

from rtmtass.errors import InputError
from rtmtass.io.files import FileSource, NotSoundError
from rtmtass.io.media.contents import SUFFIXES
from rtmtass.io.media.source import MediaSource
from rtmtass.io.media.structure import is_media
from rtmtass.io.pipes import StreamSource, open_source

Recording = FileSource | StreamSource | MediaSource
"""An open recording."""

_CONTAINERS = (b"RIFF", b"RF64", b"FORM", b"caff", b"OggS", b"riff")
"""Beginnings of files that libsndfile reads, unless their codec is one that FFmpeg has only."""


def open_recording(
    path: Path, *, track: int | None = None, allow_truncated: bool = False
) -> Recording:
    """Open a sound file, or an audio track of a video; its content decides, not its name.

    Args:
        path: of a plain file.
        track: number of the audio track, from 1; None for the default.
        allow_truncated: accept a file that is shorter than its header says.

    Raises:
        InputError: see `FileSource` and `MediaSource`; or there is no such track.
        MissingPartError: it needs PyAV or ffmpeg, and there is neither.
    """
    if is_media(path):
        return MediaSource(path, track=track, allow_truncated=allow_truncated)
    try:
        source = open_source(path, allow_truncated=allow_truncated)
    except NotSoundError:
        if not _may_be_media(path):
            raise
        return MediaSource(path, track=track, allow_truncated=allow_truncated)
    if track not in (None, 1):
        source.close()
        raise InputError(
            f"{path} has one audio track, not {track}; leave out --track, or add --track 1"
        )
    return source


def expected_frames(recording: Recording) -> int | None:
    """Return the length in frames, or what the container says of it; None if it is unknown."""
    if isinstance(recording, MediaSource):
        return recording.expected_frames
    return recording.frames


def _may_be_media(path: Path) -> bool:
    """Whether FFmpeg may read a file that libsndfile can't; of others it would make noise."""
    if path.suffix.lower() in SUFFIXES:
        return True
    with path.open("rb") as file:
        return file.read(4) in _CONTAINERS
