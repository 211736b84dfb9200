"""Writes remixes by the program ffmpeg."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction

import numpy as np

from rtmtass.io.media.muxing import MuxingError, Remix, StoppedError
from rtmtass.io.media.program import LOG_LEVEL, Process, input_words
from rtmtass.types import Samples

_FLOAT = "f32le" if sys.byteorder == "little" else "f32be"
_POLL_S = 0.1
_QUEUED = "4096"  # packets of pictures before the first of the sound
_FULL = "No space left on device"
_CLUSTER = bytes.fromhex("1f43b675")
_CODEC_DELAY, _TIMESTAMP, _SIMPLE_BLOCK = bytes.fromhex("56aa"), b"\xe7", b"\xa3"
_STARTED_MS = 998  # of a sound that starts at 1 s, with roundings


class FfmpegMuxer:
    """A `Muxer`: an ffmpeg that reads the sound from a pipe, and the rest from the input.

    Args:
        remix: to be written.

    Raises:
        MuxingError: ffmpeg can't be started.
    """

    def __init__(self, remix: Remix) -> None:
        try:
            late = _missing_delay(remix) if remix.target.is_matroska else Fraction(0)
            remix = dataclasses.replace(remix, start=remix.start + late)
            self._process = Process(command_of(remix), stdin=True)
        except OSError as error:
            raise MuxingError(f"ffmpeg can't be started: {error.strerror}") from error

    def write(self, block: Samples) -> None:
        """See `Muxer`."""
        unsent = np.ascontiguousarray(block, np.float32).data.cast("B")
        try:
            while unsent:
                unsent = unsent[self._process.stdin.write(unsent) or 0 :]
        except OSError:  # it has ended
            self._process.wait()
            raise self._failure() from None

    def finish(self, is_stopped: Callable[[], bool]) -> None:
        """See `Muxer`."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        while (code := self._process.wait(_POLL_S)) is None:
            if is_stopped():
                self.abandon()
                raise StoppedError
        self._process.kill()
        if code:
            raise self._failure()

    def abandon(self) -> None:
        """See `Muxer`."""
        self._process.kill()

    def _failure(self) -> MuxingError:
        reason = self._process.reason()
        return MuxingError(f"ffmpeg says {reason}", errno.ENOSPC if _FULL in reason else None)


def command_of(remix: Remix) -> list[str]:
    """Return ffmpeg's command line for a remix, whose sound comes from stdin."""
    words = ["ffmpeg", *LOG_LEVEL, "-nostdin", "-y", "-copyts"]
    has_source = remix.source is not None and remix.track is not None
    if remix.source is not None and remix.track is not None:
        words += _offset(-remix.shift)
        words += input_words(remix.source)
    words += ["-f", _FLOAT, "-ar", str(remix.sample_rate), "-ac", str(remix.channels)]
    words += [*_offset(remix.start), "-i", "pipe:0"]
    if not has_source:
        words += ["-map", "0:a", *_sound_words(remix, 0)]
    for number, stream in enumerate(remix.streams):
        if remix.track is not None and stream.index == remix.track.index:
            words += ["-map", "1:a", *_sound_words(remix, number)]
        else:
            words += ["-map", f"0:{stream.index}", f"-c:{number}", "copy"]
        words += [f"-map_metadata:s:{number}", f"0:s:{stream.index}"]
        for name in ("encoder", "vendor_id", "DURATION"):
            words += [f"-metadata:s:{number}", f"{name}="]
        if stream.is_cover:
            words += [f"-disposition:{number}", "attached_pic"]
        elif stream.kind != "attachment":
            words += [f"-disposition:{number}", "default" if stream.is_default else "0"]
    words += ["-map_metadata", "-1"]
    keeps_chapters = has_source and not remix.target.is_sound_only
    words += ["-map_chapters", "0" if keeps_chapters else "-1"]
    for name, text in remix.tags.items():
        words += ["-metadata", f"{name}={text}"]
    for name, value in remix.options.items():
        words += [f"-{name}", value]
    words += ["-max_muxing_queue_size", _QUEUED, "-f", remix.target.muxer, f"file:{remix.path}"]
    return words


def _offset(time: Fraction) -> list[str]:
    return ["-itsoffset", f"{float(time):.6f}"] if time else []


def _sound_words(remix: Remix, number: int) -> list[str]:
    words = [f"-c:{number}", remix.encoder.encoder]
    return words + [f"-b:{number}", str(remix.bits_per_s)] * bool(remix.bits_per_s)


def _missing_delay(remix: Remix) -> Fraction:
    """Return by how much this ffmpeg dates the sound of a Matroska file too early, in seconds.

    Players subtract the encoder's delay, which the file names, from the time of each packet.
    Versions before 7 don't add it.
    """
    return _measure_delay(remix.encoder.encoder, remix.sample_rate, remix.channels)


@functools.cache
def _measure_delay(encoder: str, sample_rate: int, channels: int) -> Fraction:
    words = ["ffmpeg", "-v", "error", "-nostdin", "-copyts", "-f", _FLOAT, "-ar", str(sample_rate)]
    words += ["-ac", str(channels), "-itsoffset", "1", "-i", "pipe:0", "-c:a", encoder]
    words += ["-f", "matroska", "pipe:1"]
    silence = bytes(4 * channels * (sample_rate // 4))
    data = subprocess.run(words, input=silence, capture_output=True, check=False).stdout
    try:
        cluster = data.index(_CLUSTER)
        delay_at = data.find(_CODEC_DELAY, 0, cluster)
        if delay_at < 0:
            return Fraction(0)
        width = data[delay_at + 2] & 0x7F
        delay = int.from_bytes(data[delay_at + 3 : delay_at + 3 + width], "big")
        is_added = _first_block_ms(data, cluster) >= _STARTED_MS
    except (ValueError, IndexError):  # it can't encode this; the remix will say why
        return Fraction(0)
    return Fraction(0) if is_added else Fraction(delay, 1_000_000_000)


def _first_block_ms(data: bytes, cluster: int) -> int:
    """Return the time of the first packet in a Matroska file, in ms."""
    time_at = data.index(_TIMESTAMP, cluster + 4)
    width = data[time_at + 1] & 0x7F
    time = int.from_bytes(data[time_at + 2 : time_at + 2 + width], "big")
    block = data.index(_SIMPLE_BLOCK, time_at + 2 + width)
    track_at = block + 1 + 9 - data[block + 1].bit_length()
    return time + int.from_bytes(data[track_at + 1 : track_at + 3], "big", signed=True)
