"""Samples that flow through stdin and stdout, where nothing can seek and every block counts."""

from __future__ import annotations

import dataclasses
import io
import os
import sys
from pathlib import Path
from typing import Protocol

from rtmtass.errors import InputError, OutputError
from rtmtass.io.files import FileSource, Samples, check_finite, check_rate
from rtmtass.io.part_file import why_unwritable
from rtmtass.io.wav_header import ENCODINGS, WavHeader, decode, encode, read_header, stream_header

SUBTYPES = {
    "u8": "PCM_U8", "s16": "PCM_16", "s24": "PCM_24", "s32": "PCM_32", "f32": "FLOAT",
    "f64": "DOUBLE",
}  # fmt: skip
"""What soundfile calls our encodings."""


class ByteStream(Protocol):
    """A stream of bytes that keeps none back: `read` returns what is there, b"" at the end."""

    def read(self, size: int, /) -> bytes | None:
        """Return up to `size` bytes."""

    def write(self, data: memoryview, /) -> int | None:
        """Write some of `data`, return how many bytes."""

    def close(self) -> None:
        """Close it."""


class StreamSource:
    """WAV or raw samples from a stream that can't seek, handed over as they come.

    Args:
        stream: unbuffered, so that a read returns what is there instead of waiting for more.
        name: what to call it in errors.
        header: what raw samples are; None to read it from the WAV the stream holds.
        allow_truncated: take what is there when the header promises more.

    Raises:
        InputError: empty, no WAV header, an encoding or rate unknown.
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
        self._rest = b""
        self._position = 0
        self._has_begun = False
        header = header or read_header(self._read_exactly, name)
        if header.encoding is None or not header.channels:
            raise InputError(
                f"{name} holds a compressed WAV; unpack it on the way:"
                " ffmpeg -i … -c:a pcm_s16le -f wav - | rtmtass separate -"
            )
        check_rate(header.sample_rate, name)
        self.encoding = header.encoding
        self.subtype = SUBTYPES[header.encoding]
        self.sample_rate = header.sample_rate
        self.channels = header.channels
        self.frames = header.frames
        self._frame_bytes = header.channels * ENCODINGS[header.encoding]

    def read(self, out: Samples) -> int:
        """See Source; waits for at least one frame and returns what has come by then.

        Raises:
            InputError: a sample isn't finite, nothing came at all, or less than promised.
        """
        wanted = len(out)
        if self.frames is not None:
            wanted = min(wanted, self.frames - self._position)
        if not wanted:
            self._drain()
            return 0
        while len(self._rest) < self._frame_bytes:
            data = self._stream.read(wanted * self._frame_bytes - len(self._rest))
            if not data:
                self._refuse_early_end()
                return 0
            self._rest += data
        n_bytes = len(self._rest) // self._frame_bytes * self._frame_bytes
        whole, self._rest = self._rest[:n_bytes], self._rest[n_bytes:]
        if self.is_raw and self._position == 0 and whole.startswith(b"RIFF"):
            raise InputError(f"{self.name} is a WAV, not raw samples; leave out --rate and --raw")
        block = decode(whole, self.encoding, self.channels)
        check_finite(block, self._position, self.sample_rate, self.name)
        out[: len(block)] = block
        self._position += len(block)
        return len(block)

    def close(self) -> None:
        """See Source."""
        self._stream.close()

    def _read_exactly(self, n_bytes: int) -> bytes:
        data = b""
        while len(data) < n_bytes and (more := self._stream.read(n_bytes - len(data))):
            data += more
        if n_bytes and not data and not self._has_begun:
            self._refuse_early_end()
        self._has_begun = True
        return data

    def _refuse_early_end(self) -> None:
        if self._position == 0:
            raise InputError(f"{self.name} holds no samples; is what should send them running?")
        if self.frames is not None and not self._allow_truncated:
            raise InputError(
                f"{self.name} is cut short: its header promises"
                f" {self.frames / self.sample_rate:.2f} s ({self.frames} frames), it holds"
                f" {self._position / self.sample_rate:.2f} s ({self._position}); send it again, or"
                " separate what is there with --allow-truncated"
            )

    def _drain(self) -> None:
        """Let the writer finish: the tags behind the samples aren't ours, nor its fault."""
        while self._stream.read(65536):
            pass


class StreamSink:
    """One stem, or the remix, on a stream that can't seek; written as soon as it is there.

    Args:
        stream: unbuffered.
        sample_rate: in Hz.
        channels: of the blocks.
        encoding: one of `formats.RAW_ENCODINGS`.
        is_raw: samples only; else a WAV header comes first.
        frames: how many will come, None if unknown.

    Raises:
        BrokenPipeError: nobody listens any more.
        OutputError: the stream leads to a full disk.
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
        """Send (n, channels) on its way; "s16" counts what it clips."""
        if self._encoding == "s16":
            self.clipped += int((abs(block) > 1.0).sum())
        self._send(encode(block, self._encoding))
        self.frames += len(block)

    def finalise(self) -> None:
        """All has been sent already."""

    def publish(self) -> None:
        """There is no name to give."""

    def abandon(self) -> None:
        """What was sent can't be taken back."""

    def _send(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._stream.write(rest) or 0 :]
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(why_unwritable(Path("stdout"), error)) from error


def open_source(path: Path, *, allow_truncated: bool = False) -> FileSource | StreamSource:
    """Open a sound file, also a WAV whose writer never came back to fill in its length.

    Raises:
        InputError: see FileSource.
    """
    header = _unfinished_header(path)
    if header is None:
        return FileSource(path, allow_truncated=allow_truncated)
    stream = path.open("rb", buffering=0)
    stream.seek(header.data_offset)
    source = StreamSource(stream, str(path), header)
    source.is_raw = False
    return source


@dataclasses.dataclass(frozen=True)
class RawFormat:
    """What raw samples are: one of `formats.RAW_ENCODINGS`, a rate in Hz, and channels."""

    encoding: str
    sample_rate: int
    channels: int = 1


def open_stdin(raw: RawFormat | None, *, allow_truncated: bool = False) -> StreamSource:
    """Open stdin: raw samples if `raw` says what they are, else a WAV.

    Raises:
        InputError: see StreamSource.
    """
    header = None
    if raw:
        width = raw.channels * ENCODINGS[raw.encoding]
        header = WavHeader(raw.sample_rate, raw.channels, raw.encoding, None, 0, width)
    return StreamSource(_raw(sys.stdin.buffer), "stdin", header, allow_truncated=allow_truncated)


def stdout_stream() -> ByteStream:
    """Return stdout without a buffer."""
    sys.stdout.flush()
    return _raw(sys.stdout.buffer)


def _raw(buffered: object) -> ByteStream:
    raw = getattr(buffered, "raw", buffered)
    assert isinstance(raw, io.RawIOBase), "stdin and stdout are files"
    return raw


def _unfinished_header(path: Path) -> WavHeader | None:
    """Return the header of a WAV without a length but with samples, its frames counted."""
    try:
        with path.open("rb") as file:
            if file.read(4) not in (b"RIFF", b"RF64"):
                return None
            file.seek(0)
            header = read_header(file.read, str(path))
            if header.frames is not None or header.encoding is None:
                return None
            tail = file.read(8)
            n_bytes = os.fstat(file.fileno()).st_size - header.data_offset
    except OSError:
        return None  # FileSource says why
    is_chunk = len(tail) == 8 and int.from_bytes(tail[4:], "little") == n_bytes - 8
    if n_bytes < header.block_align or (is_chunk and tail[:4].isalpha()):
        return None
    return dataclasses.replace(header, frames=n_bytes // header.block_align)
