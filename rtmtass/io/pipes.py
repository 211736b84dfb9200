"""Reads and writes audio on stdin and stdout, without seeking and without added latency."""

from __future__ import annotations

import dataclasses
import io
import os
import sys
import time
from pathlib import Path
from typing import BinaryIO, Protocol

from rtmtass.errors import InputError, OutputError
from rtmtass.io.files import FileSource, check_finite, check_format
from rtmtass.io.part_file import why_unwritable
from rtmtass.io.wav_header import (
    ENCODINGS,
    WAV_MAGIC,
    WavHeader,
    decode,
    encode,
    read_header,
    stream_header,
)
from rtmtass.io.wav_tail import TailGuard, end_of_sound, is_chunk, is_sound
from rtmtass.types import Samples

SUBTYPES = {
    "u8": "PCM_U8", "s16": "PCM_16", "s24": "PCM_24", "s32": "PCM_32", "f32": "FLOAT",
    "f64": "DOUBLE",
}  # fmt: skip
"""soundfile's subtype for each sample encoding."""


_POLL_S = 0.002
_LARGEST_HEADER = 1 << 30  # bytes before the samples, beyond which libsndfile gives up
_WRAPPED = 2**32 - 2**16  # bytes behind the samples that no chunks are


class ByteStream(Protocol):
    """An unbuffered byte stream."""

    def read(self, size: int, /) -> bytes | None:
        """Return the available bytes, up to `size`; b"" at the end; None if none are there yet."""

    def write(self, data: memoryview, /) -> int | None:
        """Write part of `data`; return the number of bytes written."""

    def close(self) -> None:
        """Close the stream."""


class StreamSource:
    """A `Source` that reads WAV or raw samples from a stream that can't seek.

    Args:
        stream: unbuffered, so that a read returns what is available without waiting.
        name: of the stream, for errors.
        header: format of raw samples; None to read the stream's WAV header.
        allow_truncated: accept a stream that is shorter than its header says.

    Attributes:
        is_raw: without a WAV header.
        sample_rate: in Hz.
        channels: number of channels.
        encoding: of the samples, one of `wav_header.ENCODINGS`.
        subtype: soundfile's name for it.
        frames: length according to the header; None if unknown.

    Raises:
        InputError: the stream is empty, has no WAV header, or an unsupported encoding
            or sample rate.
    """

    def __init__(
        self,
        stream: ByteStream,
        name: str,
        header: WavHeader | None = None,
        *,
        allow_truncated: bool = False,
    ) -> None:
        self.name = name
        self.is_raw = header is not None
        self.tags: dict[str, str] = {}
        self._stream = stream
        self._allow_truncated = allow_truncated
        self._unread = b""
        self._may_continue = header is None
        self._guard: TailGuard | None = None
        self._position = 0
        self._has_begun = False
        header = header or read_header(self._read_exactly, name)
        if header.encoding is None or not header.channels:
            raise InputError(
                f"{name} is a compressed WAV; decode it in the pipe:"
                " ffmpeg -i IN -c:a pcm_s16le -f wav - | rtmtass separate - -o OUT"
            )
        check_format(header.sample_rate, header.channels, name)
        self.encoding = header.encoding
        self.subtype = SUBTYPES[header.encoding]
        self.sample_rate = header.sample_rate
        self.channels = header.channels
        self.frames = header.frames
        self._frame_bytes = header.channels * ENCODINGS[header.encoding]
        self._data_bytes = header.data_bytes or 0
        if self._may_continue and header.frames is None:
            self._guard = TailGuard()

    def read(self, out: Samples) -> int:
        """See `Source`; waits for one frame and returns all that is available then.

        Raises:
            InputError: a sample is NaN or Inf, or the stream is empty or truncated.
        """
        n = len(out)
        if self.frames is not None:
            n = min(n, self.frames - self._position)
        if not n:
            if not self._has_more():
                return 0
            n = len(out)
        while len(self._unread) < self._frame_bytes:
            data = self._receive(n * self._frame_bytes - len(self._unread))
            is_end = not data
            if self._guard is not None:
                data = self._guard.finish() if is_end else self._guard.feed(data)
            if is_end and not data:
                self._check_end()
                return 0
            self._unread += data
        n_bytes = min(n, len(self._unread) // self._frame_bytes) * self._frame_bytes
        frames, self._unread = self._unread[:n_bytes], self._unread[n_bytes:]
        if self.is_raw and self._position == 0 and frames.startswith(b"RIFF"):
            raise InputError(f"{self.name} is a WAV, not raw samples; leave out --rate and --raw")
        block = decode(frames, self.encoding, self.channels)
        check_finite(block, self._position, self.sample_rate, self.name)
        out[: len(block)] = block
        self._position += len(block)
        return len(block)

    def close(self) -> None:
        """See `Source`."""
        self._stream.close()

    def _receive(self, n_bytes: int) -> bytes:
        """Return the available bytes, up to `n_bytes`, after waiting for one; b"" at the end."""
        while (data := self._stream.read(n_bytes)) is None:  # non-blocking, and nothing there
            time.sleep(_POLL_S)
        return data

    def _read_exactly(self, n_bytes: int) -> bytes:
        data = bytearray()
        while len(data) < n_bytes and (more := self._receive(n_bytes - len(data))):
            data += more
        if n_bytes and not data and not self._has_begun:
            self._check_end()
        self._has_begun = True
        return bytes(data)

    def _check_end(self) -> None:
        """Raise if the stream has ended too early."""
        if self._position == 0:
            raise InputError(
                f"{self.name} holds no samples; check that the program writing to it is running"
            )
        if self.frames is not None and not self._allow_truncated:
            raise InputError(
                f"{self.name} is cut short: its header promises"
                f" {self.frames / self.sample_rate:.2f} s ({self.frames} frames), it holds"
                f" {self._position / self.sample_rate:.2f} s ({self._position}); send it again, or"
                " separate what is there with --allow-truncated"
            )

    def _has_more(self) -> bool:
        """Whether sound follows what the header promises: its size has wrapped past 4 GiB.

        Else chunks after the samples, such as tags, are read, so that the writer gets no SIGPIPE.
        """
        if self._may_continue:
            self._may_continue = False
            rest = self._data_bytes - self._position * self._frame_bytes + self._data_bytes % 2
            behind = self._read_exactly(rest + 8)
            unpadded = rest - self._data_bytes % 2  # some writers leave the padding out
            if is_sound(behind[rest:]) and not is_chunk(behind[unpadded:]):
                self.frames, self._guard = None, TailGuard()
                self._unread = self._guard.feed(behind)
                return True
        while self._receive(65536):
            pass
        return False


class StreamSink:
    """Writes one stem, or the remix, to a stream that can't seek, without buffering.

    Args:
        stream: unbuffered.
        sample_rate: in Hz.
        channels: of the blocks.
        encoding: one of `encodings.RAW_ENCODINGS`.
        is_raw: write samples only, without a WAV header.
        frames: expected length; None if unknown.

    Attributes:
        frames: written so far.
        clipped: samples beyond full scale, where the encoding clips them.

    Raises:
        BrokenPipeError: the reader has closed the pipe.
        OutputError: the stream can't be written, such as a file on a full disk.
    """

    clipped = 0

    part: Path | None = None

    def __init__(
        self,
        stream: ByteStream,
        sample_rate: int,
        channels: int,
        encoding: str,
        *,
        is_raw: bool = True,
        frames: int | None = None,
    ) -> None:
        self.frames = 0
        self._stream = stream
        self._encoding = encoding
        if not is_raw:
            self._send(stream_header(sample_rate, channels, encoding, frames))

    def write(self, block: Samples) -> None:
        """Write (n, channels)."""
        if self._encoding == "s16":
            self.clipped += int((abs(block) > 1.0).sum())
        self._send(encode(block, self._encoding))
        self.frames += len(block)

    def finalise(self) -> None:
        """Do nothing: all samples have been written."""

    def publish(self) -> None:
        """Do nothing: a stream has no name."""

    def abandon(self) -> None:
        """Do nothing: what was written can't be withdrawn."""

    def _send(self, data: bytes) -> None:
        unsent = memoryview(data)
        try:
            while unsent:
                unsent = unsent[self._stream.write(unsent) or 0 :]
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(why_unwritable(Path("stdout"), error)) from error


def open_source(path: Path, *, allow_truncated: bool = False) -> FileSource | StreamSource:
    """Open a sound file; also a WAV without a length, or with padded samples.

    Raises:
        InputError: see `FileSource`.
    """
    header = _header_of_special_wav(path)
    if header is None:
        return FileSource(path, allow_truncated=allow_truncated)
    stream = path.open("rb", buffering=0)
    try:
        stream.seek(header.data_offset)
        source = StreamSource(stream, str(path), header, allow_truncated=allow_truncated)
    except BaseException:
        stream.close()
        raise
    source.is_raw = False
    return source


@dataclasses.dataclass(frozen=True)
class RawFormat:
    """Format of raw samples.

    Attributes:
        encoding: one of `encodings.RAW_ENCODINGS`.
        sample_rate: in Hz.
        channels: interleaved channels.
    """

    encoding: str
    sample_rate: int
    channels: int = 1


def open_stdin(raw: RawFormat | None, *, allow_truncated: bool = False) -> StreamSource:
    """Open stdin.

    Args:
        raw: format of raw samples; None for a WAV.
        allow_truncated: see `StreamSource`.

    Raises:
        InputError: see `StreamSource`.
    """
    header = None
    if raw:
        width = raw.channels * ENCODINGS[raw.encoding]
        header = WavHeader(raw.sample_rate, raw.channels, raw.encoding, None, 0, width)
    return StreamSource(_raw(sys.stdin.buffer), "stdin", header, allow_truncated=allow_truncated)


def stdout_stream() -> ByteStream:
    """Return stdout, unbuffered."""
    sys.stdout.flush()
    return _raw(sys.stdout.buffer)


def _raw(buffered: object) -> ByteStream:
    raw = getattr(buffered, "raw", buffered)
    assert isinstance(raw, io.RawIOBase), "stdin and stdout are files"
    return raw


def _header_of_special_wav(path: Path) -> WavHeader | None:
    """Return the header of a WAV that libsndfile can't read or misreads; None for others.

    That is one with padded samples, gigabytes before them, or 64-bit sizes, which libsndfile
    refuses where one is a placeholder; or one without a length, or with one that has wrapped,
    whose frames are counted then.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(4)
            if magic not in WAV_MAGIC:
                return None
            file.seek(0)
            header = read_header(file.read, str(path), lambda n: file.seek(n, os.SEEK_CUR))
            if header.encoding is None or not header.block_align:
                return None
            n_bytes = os.fstat(file.fileno()).st_size
            is_known = header.data_bytes is not None and not _has_wrapped(file, header, n_bytes)
            if is_known:
                is_misread = header.is_padded or header.data_offset > _LARGEST_HEADER
                return header if is_misread or magic != b"RIFF" else None
            end = end_of_sound(file, header.data_offset, n_bytes)
    except OSError:
        return None  # FileSource raises the error
    frames = (end - header.data_offset) // header.block_align
    return dataclasses.replace(header, frames=frames) if frames > 0 else None


def _has_wrapped(file: BinaryIO, header: WavHeader, n_bytes: int) -> bool:
    """Whether the samples go on behind the data chunk: its size has wrapped past 4 GiB."""
    size = header.data_bytes or 0
    end = header.data_offset + size + size % 2
    if end >= n_bytes:
        return False
    file.seek(end - size % 2)
    behind = file.read(8 + size % 2)
    if size % 2 and is_chunk(behind, n_bytes - end - 7):
        return False  # the writer has left the padding out
    return n_bytes - end >= _WRAPPED or is_sound(behind[size % 2 :], n_bytes - end - 8)
