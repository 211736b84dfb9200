"""Reads media files by PyAV, FFmpeg's libraries within this process."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import av.error
import numpy as np

from rtmtass.errors import InputError
from rtmtass.io.media.contents import DEMUXERS, PROTOCOLS, Contents, Stream
from rtmtass.io.media.decoding import OnDamage, changed
from rtmtass.io.media.timeline import Timeline
from rtmtass.io.part_file import why_unreadable
from rtmtass.types import Samples

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.container import InputContainer

_OFFSETS = {"u8": 128, "u8p": 128}
_SCALES = {"u8": 2.0**-7, "s16": 2.0**-15, "s32": 2.0**-31, "s64": 2.0**-63}
_MICRO = 1_000_000  # FFmpeg's AV_TIME_BASE


class PyavBackend:
    """A `Backend`."""

    name = "PyAV"

    def examine(self, path: Path) -> Contents:
        """See `Backend`."""
        with open_container(path) as container:
            return _contents(container)

    def open_track(self, path: Path, index: int, on_damage: OnDamage) -> PyavDecoder:
        """See `Backend`."""
        return PyavDecoder(path, index, on_damage)


def open_container(path: Path) -> InputContainer:
    """Open a file for reading.

    Raises:
        InputError: it can't be read, or isn't a media file.
    """
    options = {"format_whitelist": DEMUXERS, "protocol_whitelist": PROTOCOLS}
    try:
        # The prefix keeps a colon in a name from being taken for a protocol.
        return av.open(f"file:{path}", "r", options=options, metadata_errors="replace")
    except av.error.FFmpegError as error:
        if type(error).__bases__[-1] in (FileNotFoundError, PermissionError, IsADirectoryError):
            raise InputError(why_unreadable(path, OSError(error.errno, error.strerror))) from error
        raise InputError(
            f"{path} is not a video or recording that FFmpeg can read"
            f" ({reason_of(error)}); fetch or export it again"
        ) from error


def reason_of(error: BaseException) -> str:
    """Return what FFmpeg says, in one line."""
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(str(text).split())


def _contents(container: InputContainer) -> Contents:
    return Contents(
        container.format.name,
        tuple(_stream(stream) for stream in container.streams),
        None if container.duration is None else container.duration / _MICRO,
        None if container.start_time is None else Fraction(container.start_time, _MICRO),
        dict(container.metadata),
        len(container.chapters()),
    )


def _stream(stream: Any) -> Stream:
    context = stream.codec_context
    is_audio = stream.type == "audio" and context is not None
    duration = None
    if stream.duration is not None and stream.time_base is not None:
        duration = round(float(stream.duration * stream.time_base), 6)  # as ffprobe
    return Stream(
        index=stream.index,
        kind=str(stream.type),
        codec="" if context is None else str(context.codec.canonical_name),
        sample_format=context.format.name if is_audio and context.format else "",
        sample_rate=int(context.sample_rate or 0) if is_audio else 0,
        channels=int(context.channels or 0) if is_audio else 0,
        language=stream.metadata.get("language", "").replace("und", ""),
        title=stream.metadata.get("title", ""),
        is_default=bool(stream.disposition & stream.disposition.__class__.default),
        is_cover=bool(stream.disposition & stream.disposition.__class__.attached_pic),
        duration_s=duration,
    )


class PyavDecoder:
    """A `TrackDecoder`; one frame is decoded when it is opened.

    Args:
        path: of the file.
        index: of the stream.
        on_damage: see `OnDamage`.

    Raises:
        InputError: the track can't be decoded, or holds no samples.
    """

    def __init__(self, path: Path, index: int, on_damage: OnDamage) -> None:
        self.timeline = Timeline()
        self._path = path
        self._on_damage = on_damage
        self._container = open_container(path)
        try:
            self._stream = self._container.streams[index]
            if self._stream.codec_context is None:
                raise InputError(
                    f"{path} has audio of a codec that PyAV has no decoder for; convert it on the"
                    " device that made it, or name another with --track"
                )
            for stream in self._container.streams:
                if stream.index != index:
                    stream.discard = stream.discard.__class__.all
            self._frames = self._decode()
            first = next(self._frames, None)
            if first is None:
                raise InputError(
                    f"{path} holds no audio that can be decoded (0 s); record or export it again"
                )
        except BaseException:
            self.close()
            raise
        self.sample_rate = first.sample_rate
        self.layout = first.layout.name
        self.channels = first.layout.nb_channels
        self._block = self._take(first)

    def read(self, out: Samples) -> int:
        """See `TrackDecoder`."""
        filled = 0
        while filled < len(out):
            if not len(self._block):
                frame = next(self._frames, None)
                if frame is None:
                    break
                self._block = self._take(frame)
            count = min(len(out) - filled, len(self._block))
            out[filled : filled + count] = self._block[:count]
            self._block = self._block[count:]
            filled += count
        return filled

    def close(self) -> None:
        """See `TrackDecoder`."""
        self._container.close()

    def _decode(self) -> Iterator[AudioFrame]:
        try:
            for packet in self._container.demux(self._stream):
                try:
                    frames = packet.decode()
                except av.error.FFmpegError as error:
                    if self.timeline.position:  # a recording may begin within a packet
                        self._on_damage(reason_of(error))
                    continue
                yield from frames  # type: ignore[misc]
        except av.error.FFmpegError as error:
            self._on_damage(reason_of(error))

    def _take(self, frame: AudioFrame) -> Samples:
        """Return a frame as (n, channels), and add it to the timeline."""
        if (frame.sample_rate, frame.layout.nb_channels) != (self.sample_rate, self.channels):
            found = frame.sample_rate, frame.layout.nb_channels
            raise InputError(changed(self._path, self, *found))
        time = None
        if frame.pts is not None and frame.time_base is not None:
            time = frame.pts * frame.time_base
        self.timeline.add(time, frame.samples, self.sample_rate)
        return _to_float(frame)


def _to_float(frame: AudioFrame) -> Samples:
    """Return a frame's samples as (n, channels) float32, full scale is 1.0, as FFmpeg does."""
    data = frame.to_ndarray()
    name = frame.format.name
    block = data.T if frame.format.is_planar else data.reshape(-1, frame.layout.nb_channels)
    scale = _SCALES.get(name.removesuffix("p"))
    if scale is None:
        return block.astype(np.float32)
    if name in _OFFSETS:
        block = block.astype(np.int16) - _OFFSETS[name]
    return block.astype(np.float32) * np.float32(scale)
