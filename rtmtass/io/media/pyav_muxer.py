"""Writes remixes by PyAV."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import av.error
import numpy as np

from rtmtass.io.media.muxing import MuxingError, Remix, StoppedError
from rtmtass.io.media.pyav import open_container, reason_of
from rtmtass.types import Samples

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet

_LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise MuxingError(reason_of(error), getattr(error, "errno", None)) from error


class PyavMuxer:
    """A `Muxer`.

    Args:
        remix: to be written.

    Raises:
        MuxingError: the file can't be written, or the container doesn't take a stream.
    """

    def __init__(self, remix: Remix) -> None:
        self._remix = remix
        self._position = 0
        self._padding: int | None = None  # samples that the encoder puts before the first
        self._copied: dict[int, Any] = {}  # streams of the output, by index in the input
        self._input: InputContainer | None = None
        self._packets: Iterator[Packet] = iter(())
        self._next: Packet | None = None
        with _translated():
            # The prefix keeps a colon in a name from being taken for a protocol.
            self._output = av.open(
                f"file:{remix.path}", "w", format=remix.target.muxer,
                container_options=dict(remix.options),
            )  # fmt: skip
            try:
                self._add_streams()
                self._output.start_encoding()
            except BaseException:
                self.abandon()
                raise

    def write(self, block: Samples) -> None:
        """See `Muxer`."""
        rate = self._remix.sample_rate
        with _translated():
            layout = _LAYOUTS[self._remix.channels]
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block.T), "fltp", layout)
            frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
            frame.pts = round(self._remix.start * rate) + self._position
            self._position += len(block)
            self._mux(self._sound.encode(frame))

    def finish(self, is_stopped: Callable[[], bool]) -> None:
        """See `Muxer`."""
        with _translated():
            if self._position:
                self._mux(self._sound.encode(None))
            while self._next is not None:
                if is_stopped():
                    raise StoppedError
                self._copy_next()
            self._output.close()
        self.abandon()

    def abandon(self) -> None:
        """See `Muxer`."""
        with contextlib.suppress(av.error.FFmpegError, OSError, ValueError):
            self._output.close()
        if self._input is not None:
            self._input.close()

    def _add_streams(self) -> None:
        remix, output = self._remix, self._output
        if remix.source is None or remix.track is None:
            self._sound = self._add_sound(None)
        else:
            self._input = open_container(remix.source)
            for stream in remix.streams:
                template = self._input.streams[stream.index]
                if stream.index == remix.track.index:
                    self._sound = self._add_sound(template)
                else:
                    self._copied[stream.index] = self._add_copy(template)
            for template in self._input.streams:
                if template.index not in self._copied:
                    template.discard = template.discard.__class__.all
            if not remix.target.is_sound_only:
                output.set_chapters(_shifted(self._input.chapters(), remix.shift))
            self._packets = self._read()
            self._next = next(self._packets, None)
        output.metadata.update(remix.tags)

    def _add_sound(self, template: Any) -> Any:
        remix = self._remix
        sound: Any = self._output.add_stream(remix.encoder.encoder, rate=remix.sample_rate)
        sound.layout = _LAYOUTS[remix.channels]
        if remix.bits_per_s:
            sound.bit_rate = remix.bits_per_s
        if remix.encoder.codec == "flac":
            sound.format = "s32"
        if template is not None:
            sound.metadata.update(_of_stream(template.metadata))
            sound.disposition = template.disposition
        return sound

    def _add_copy(self, template: Any) -> Any:
        copy: Any = self._output.add_stream_from_template(template, opaque=True)
        copy.metadata.update(_of_stream(template.metadata))
        copy.disposition = template.disposition
        is_same_family = self._input is not None and "mp4" in self._input.format.name.split(",")
        if is_same_family and self._remix.target.is_mp4 and copy.codec_context is not None:
            copy.codec_context.codec_tag = template.codec_context.codec_tag  # hvc1, not hev1
        return copy

    def _read(self) -> Iterator[Packet]:
        """Yield the packets that are to be copied."""
        assert self._input is not None, "opened with the streams"
        for packet in self._input.demux():
            if packet.size and packet.stream.index in self._copied:
                yield packet

    def _mux(self, packets: list[Packet]) -> None:
        """Write packets of the sound, each after all of the pictures that come before it."""
        for packet in packets:
            time = _time_of(packet)
            while self._next is not None and _time_of(self._next) - self._remix.shift <= time:
                self._copy_next()
            if self._remix.target.is_matroska:
                self._round_to_ms(packet)
            self._output.mux(packet)

    def _round_to_ms(self, packet: Packet) -> None:
        """Give a packet the whole milliseconds after which its samples begin where they should.

        FFmpeg rounds the time of a packet and the encoder's padding, and adds the two.
        """
        rate = self._remix.sample_rate
        if packet.pts is None or packet.time_base is None:
            return
        time = packet.pts * packet.time_base
        if self._padding is None:
            self._padding = round((self._remix.start - time) * rate)
        padding = Fraction(self._padding, rate)
        packet.pts = packet.dts = _rounded_ms(time + padding) - _rounded_ms(padding)
        packet.time_base = Fraction(1, 1000)

    def _copy_next(self) -> None:
        packet = self._next
        assert packet is not None, "checked by the caller"
        if self._remix.shift and packet.time_base:
            shift = round(self._remix.shift / packet.time_base)
            packet.pts = None if packet.pts is None else packet.pts - shift
            packet.dts = None if packet.dts is None else packet.dts - shift
        packet.stream = self._copied[packet.stream.index]
        self._output.mux(packet)
        self._next = next(self._packets, None)


def _time_of(packet: Packet) -> Fraction:
    """Return when a packet is decoded, in seconds; the earliest time if it doesn't say."""
    ticks = packet.pts if packet.dts is None else packet.dts
    if ticks is None or packet.time_base is None:
        return Fraction(-1 << 60)
    return ticks * packet.time_base


def _rounded_ms(time: Fraction) -> int:
    """Return a time in whole milliseconds, halves away from zero, as FFmpeg rounds."""
    return int(abs(time) * 1000 + Fraction(1, 2)) * (-1 if time < 0 else 1)


def _of_stream(tags: dict[str, str]) -> dict[str, str]:
    """Return a stream's tags without those that describe its encoding or its statistics."""
    is_kept = lambda name: not name.startswith(("_STATISTICS", "NUMBER_OF_", "BPS"))  # noqa: E731
    dropped = ("encoder", "duration", "vendor_id")
    return {n: t for n, t in tags.items() if n.lower() not in dropped and is_kept(n)}


def _shifted(chapters: list[Any], shift: Fraction) -> list[Any]:
    """Return chapters at times that are `shift` seconds earlier."""
    if not shift:
        return chapters
    return [
        chapter
        | {name: chapter[name] - round(shift / chapter["time_base"]) for name in ("start", "end")}
        for chapter in chapters
    ]
