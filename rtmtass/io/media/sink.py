"""Writes a remix into a video in place of its sound, or into a file of AAC or Opus."""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from rtmtass.errors import MissingPartError, OutputError
from rtmtass.io.media.decoding import HOW_TO_INSTALL, has_ffmpeg, has_pyav
from rtmtass.io.media.muxing import Muxer, MuxingError, Remix, StoppedError
from rtmtass.io.media.source import MediaSource
from rtmtass.io.media.tags import tags_of
from rtmtass.io.media.targets import Selection, choose_encoder, in_words, select_streams
from rtmtass.io.part_file import PartFile, check_replaceable, part_path, why_unwritable
from rtmtass.io.tags.model import Metadata
from rtmtass.types import Samples

OpenMuxer = Callable[[Remix], Muxer]

_SHIFTED = ("mpegts", "mpeg")
"""Formats whose times begin anywhere; those of others are kept as they are."""
_OF_THE_DISK = (errno.ENOSPC, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EDQUOT)
_SILENCE_S = 1.0  # written at once


class MediaSink:
    """An output that FFmpeg writes, as `NAME.part`, and that is renamed when it is complete.

    The pictures, other audio tracks, subtitles and chapters of the input are copied bit for
    bit, as far as the container takes them. The sound begins when the input's does, and gaps
    of the input's are filled with silence.

    Args:
        target: final path, whose suffix is one of `targets.TARGETS`; its folder exists.
        sample_rate: in Hz.
        channels: of the blocks.
        source: of the sound, for what else is in it; None to write the sound alone.
        metadata: without a media source.
        software: what writes the file, in words.
        bitrate: in kbit/s; None for the usual.
        stopped: ends the copying of what is left.
        open_muxer: what writes the file; None for PyAV or else ffmpeg.

    Attributes:
        part: the temporary path.
        frames: written so far, without filled gaps.
        clipped: samples beyond full scale, which players clip.
        about: what is written, in plain values.
        left_out: what the container can't hold, in words.

    Raises:
        OutputError: from any method: permission denied, disk full, codecs that the container
            can't hold, and the like.
        MissingPartError: there is neither PyAV nor ffmpeg.
    """

    def __init__(
        self,
        target: Path,
        sample_rate: int,
        channels: int,
        *,
        source: MediaSource | None,
        metadata: Metadata | None = None,
        software: str = "",
        bitrate: int | None = None,
        stopped: threading.Event | None = None,
        open_muxer: OpenMuxer | None = None,
    ) -> None:
        self.target = target
        self.part = part_path(target)
        self.frames = 0
        self.clipped = 0
        self._stopped = stopped or threading.Event()
        self._rate, self._channels = sample_rate, channels
        self._timeline = source.timeline if source else None
        self._gaps_filled = 0
        self._is_complete = False
        open_muxer = open_muxer or _choose_muxer(target)
        remix, selection = self._describe(source, metadata, software, bitrate)
        self.left_out = [in_words(stream) for stream in selection.left_out]
        self.about: dict[str, Any] = {
            "container": target.suffix.lower().lstrip("."),
            "codec": remix.encoder.codec,
            "copied": [in_words(s) for s in remix.streams if s is not remix.track],
            "left_out": self.left_out,
        }
        try:
            check_replaceable(target)
            self._bytes = PartFile(self.part)
        except OSError as error:
            raise OutputError(why_unwritable(target, error)) from error
        try:
            self._muxer = open_muxer(remix)
        except BaseException as error:
            self._bytes.close()
            self._bytes.remove()
            if isinstance(error, MuxingError):
                raise self._failure(error) from error
            raise

    def write(self, block: Samples) -> None:
        """Append (n, channels)."""
        self.clipped += int(np.count_nonzero(np.abs(block) > 1.0))
        try:
            while self._timeline and self._gaps_filled < len(self._timeline.gaps):
                position, length = self._timeline.gaps[self._gaps_filled]
                before = position - self.frames
                if before >= len(block):
                    break
                self._append(block[:before])
                self._append_silence(length)
                self._gaps_filled += 1
                block = block[before:]
            self._append(block)
        except MuxingError as error:
            raise self._failure(error) from error

    def complete(self) -> None:
        """Copy what is left of the input and complete the file, which may take long."""
        if self._is_complete:
            return
        self._is_complete = True
        try:
            self._muxer.finish(self._stopped.is_set)
        except MuxingError as error:
            raise self._failure(error) from error
        except StoppedError:
            raise OutputError(f"{self.target} was stopped before it was complete") from None

    def finalise(self) -> None:
        """Complete the file, which keeps its .part name."""
        try:
            self.complete()
        finally:
            self._bytes.close()

    def publish(self) -> None:
        """Finalise the file and rename it to its final name."""
        self.finalise()
        try:
            self._bytes.publish(self.target)
        except OSError as error:
            raise OutputError(why_unwritable(self.target, error)) from error

    def abandon(self) -> None:
        """Close and remove the .part file; never raises."""
        self._is_complete = True
        with contextlib.suppress(OSError):  # first, as closing may read it once more
            self.part.unlink(missing_ok=True)
        self._muxer.abandon()
        self._bytes.close()
        self._bytes.remove()

    def _append(self, block: Samples) -> None:
        if len(block):
            self._muxer.write(block)
            self.frames += len(block)

    def _append_silence(self, frames: int) -> None:
        silence = np.zeros((round(_SILENCE_S * self._rate), self._channels), np.float32)
        while frames > 0:
            self._muxer.write(silence[:frames])
            frames -= len(silence)

    def _describe(
        self,
        source: MediaSource | None,
        metadata: Metadata | None,
        software: str,
        bitrate: int | None,
    ) -> tuple[Remix, Selection]:
        """Return what is to be written, and what of the input is."""
        container, encoder = choose_encoder(self.target, self._rate, self._channels)
        selection, start, shift = Selection(), Fraction(0), Fraction(0)
        if source is not None:
            contents, track = source.contents, source.track
            selection = select_streams(contents, track, self.target, source.name)
            if contents.container in _SHIFTED:
                # Not to zero exactly: ffmpeg would then shift by the start of the copied streams.
                shift = max(shift, (contents.start or shift) - Fraction(1, 1000))
            start = source.timeline.start - shift
        options: dict[str, str] = {}
        if container.is_mp4:
            flags = ["use_metadata_tags"] * (container.muxer == "mov")
            flags += ["faststart"] * (source is None or source.is_fast_start)
            # The usual 1 ms would round the start of the sound.
            options["movie_timescale"] = str(self._rate)
            if flags:
                options["movflags"] = "+".join(["", *flags])
        remix = Remix(
            path=self.part,
            target=container,
            options=options,
            source=Path(source.name) if source else None,
            streams=selection.streams,
            track=source.track if source else None,
            encoder=encoder,
            sample_rate=self._rate,
            channels=self._channels,
            bits_per_s=encoder.bits_per_s(self._rate, self._channels, bitrate),
            start=start,
            shift=shift,
            tags=tags_of(source.contents.tags if source else metadata, software),
        )
        return remix, selection

    def _failure(self, error: MuxingError) -> OutputError:
        if error.errno in _OF_THE_DISK:
            return OutputError(why_unwritable(self.target, OSError(error.errno, str(error))))
        return OutputError(
            f"{self.target} can't be written ({error}); name the remix"
            f" {self.target.with_suffix('.mkv').name}, or write a sound file: --mix"
            f" {self.target.with_suffix('.flac').name}"
        )


def _choose_muxer(target: Path) -> OpenMuxer:
    if has_pyav():
        from rtmtass.io.media.pyav_muxer import PyavMuxer

        return PyavMuxer
    if has_ffmpeg():
        from rtmtass.io.media.ffmpeg_muxer import FfmpegMuxer

        return FfmpegMuxer
    raise MissingPartError(f"{target} needs PyAV or ffmpeg to be written: {HOW_TO_INSTALL}")
