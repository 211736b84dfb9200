"""Reads and writes WAV headers directly, for pipes and for truncated files.

soundfile needs to seek, silently accepts a WAV that is shorter than its header says,
and reads nothing from one whose header lacks the length.

Source: Microsoft/IBM "Multimedia Programming Interface and Data Specifications 1.0"
(RIFF), and EBU Tech 3306 (RF64).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rtmtass.errors import InputError
from rtmtass.types import Samples

ENCODINGS = {"u8": 1, "s16": 2, "s24": 3, "s32": 4, "f32": 4, "f64": 8}
"""Sample encodings and their width in bytes; all little-endian."""

WAV_MAGIC = (b"RIFF", b"RF64", b"BW64")
"""First bytes of a WAV; the last two have 64-bit sizes (EBU Tech 3306, ITU-R BS.2088)."""

UNKNOWN = 0xFFFFFFFF
"""Chunk size in the header of a stream of unknown length."""
_UNKNOWN_LONG = 1 << 62  # 64-bit sizes from here on are placeholders: -1, and its like
_FORMAT_BYTES = 64  # as many of a format chunk as are needed
_SKIPPED = 1 << 20  # bytes read at a time of a chunk that isn't needed
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_BY_FORMAT = {
    (_PCM, 8): "u8",
    (_PCM, 16): "s16",
    (_PCM, 24): "s24",
    (_PCM, 32): "s32",
    (_FLOAT, 32): "f32",
    (_FLOAT, 64): "f64",
}


@dataclass(frozen=True)
class WavHeader:
    """The parsed header of a WAV.

    Attributes:
        sample_rate: in Hz.
        channels: number of channels.
        encoding: one of `ENCODINGS`; None for a compressed one, which only soundfile reads.
        frames: length; None where the writer left it open (0, or a placeholder size).
        data_offset: position of the first sample, in bytes.
        block_align: bytes per frame, all channels.
        is_padded: samples have more bytes than they need; libsndfile misreads those.
        data_bytes: size of the data chunk; None where the writer left it open.
    """

    sample_rate: int
    channels: int
    encoding: str | None
    frames: int | None
    data_offset: int
    block_align: int
    is_padded: bool = False
    data_bytes: int | None = None


def read_header(
    read: Callable[[int], bytes], name: str, skip: Callable[[int], object] | None = None
) -> WavHeader:
    """Read a WAV header, up to the first sample.

    Args:
        read: returns exactly the number of bytes requested, fewer only at the end.
        name: of the input, for errors.
        skip: moves that number of bytes forward; None to read them.

    Raises:
        InputError: not a RIFF/RF64 WAVE stream, or it ends inside the header.
    """

    def take(n_bytes: int) -> bytes:
        data = read(n_bytes)
        if len(data) < n_bytes:
            raise InputError(f"{name} ends inside its WAV header; export or fetch it again")
        return data

    def pass_over(n_bytes: int) -> None:
        if skip is not None:
            skip(n_bytes)
            return
        while n_bytes:
            n_bytes -= len(take(min(n_bytes, _SKIPPED)))

    magic, _, kind = struct.unpack("<4sI4s", take(12))
    if magic not in WAV_MAGIC or kind != b"WAVE":
        raise InputError(
            f"{name} has no WAV header; for raw samples add --rate (and --channels-in, --raw),"
            f" or convert it in the pipe: ffmpeg -i IN -f wav - | rtmtass separate - -o OUT"
        )
    offset, long_size, fmt = 12, 0, b""
    while True:
        chunk, size = struct.unpack("<4sI", take(8))
        offset += 8
        if chunk == b"data":
            break
        body = take(min(size, _FORMAT_BYTES)) if chunk in (b"ds64", b"fmt ") else b""
        pass_over(size + size % 2 - len(body))
        offset += size + size % 2
        if chunk == b"ds64" and len(body) >= 16:
            long_size = struct.unpack_from("<Q", body, 8)[0]
        elif chunk == b"fmt ":
            fmt = body
    if len(fmt) < 16:
        raise InputError(f"{name} is a WAV without a format chunk; export or fetch it again")
    tag, channels, sample_rate, byte_rate, align, bits = struct.unpack_from("<HHIIHH", fmt)
    if tag == _EXTENSIBLE and len(fmt) >= 26:
        tag = struct.unpack_from("<H", fmt, 24)[0]
    width = _container_width(tag, bits, align, channels, byte_rate == sample_rate * align)
    align = width * channels
    n_bytes = long_size if magic != b"RIFF" and size == UNKNOWN else size
    # In a pipe ffmpeg writes 0xFFFFFFFF, sox and arecord 0x7FFFFFxx or 0x80000000, others 0.
    is_placeholder = 0x7FFFF000 <= size <= 0x80000100 or size >= 0xFFFFF000
    is_known = 0 < n_bytes < _UNKNOWN_LONG and (magic != b"RIFF" or not is_placeholder)
    return WavHeader(
        sample_rate=sample_rate,
        channels=channels,
        encoding=_BY_FORMAT.get((tag, 8 * width)),
        frames=n_bytes // align if is_known and align else None,
        data_offset=offset,
        block_align=align,
        is_padded=width > (bits + 7) // 8,
        data_bytes=n_bytes if is_known else None,
    )


def _container_width(tag: int, bits: int, align: int, channels: int, is_consistent: bool) -> int:
    """Return the bytes per sample, which may exceed its bits: 24 bits left-justified in 4 bytes.

    The block alignment says so, unless it is implausible: some writers leave it 0 or give
    it in bits.

    Args:
        tag: of the format.
        bits: per sample.
        align: block alignment, in bytes.
        channels: number of channels.
        is_consistent: whether the header's bytes per second agree with `align`.
    """
    narrowest = (bits + 7) // 8
    width = align // channels if channels and align % channels == 0 else 0
    return width if tag == _PCM and is_consistent and narrowest <= width <= 4 else narrowest


def stream_header(
    sample_rate: int, channels: int, encoding: str, frames: int | None = None
) -> bytes:
    """Return the header of a WAV to be written to a stream.

    Args:
        sample_rate: in Hz.
        channels: number of channels.
        encoding: "s16" or "f32".
        frames: length; None if unknown.
    """
    width = ENCODINGS[encoding]
    tag = _FLOAT if encoding.startswith("f") else _PCM
    align = channels * width
    n_bytes = UNKNOWN if frames is None or frames * align > UNKNOWN - 64 else frames * align
    fmt = struct.pack("<HHIIHH", tag, channels, sample_rate, sample_rate * align, align, 8 * width)
    chunks = b""
    if tag == _FLOAT:  # formats other than PCM need an extension size and a fact chunk
        fmt += b"\0\0"
        chunks = struct.pack("<4sII", b"fact", 4, UNKNOWN if n_bytes == UNKNOWN else frames)
    chunks = struct.pack("<4sI", b"fmt ", len(fmt)) + fmt + chunks
    chunks += struct.pack("<4sI", b"data", n_bytes)
    total = UNKNOWN if n_bytes == UNKNOWN else 4 + len(chunks) + n_bytes
    return struct.pack("<4sI4s", b"RIFF", total, b"WAVE") + chunks


def decode(data: bytes, encoding: str, channels: int) -> Samples:
    """Turn whole frames of bytes into (n, channels) float32, full scale 1.0."""
    flat: Samples
    if encoding == "s24":
        padded = np.zeros((len(data) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        flat = padded.view("<i4")[:, 0].astype(np.float32) / np.float32(2**31)
    elif encoding == "u8":
        flat = (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / np.float32(128)
    elif encoding in ("s16", "s32"):
        full_scale = 2.0 ** (8 * ENCODINGS[encoding] - 1)
        flat = np.frombuffer(data, f"<i{ENCODINGS[encoding]}").astype(np.float32)
        flat /= np.float32(full_scale)
    else:
        flat = np.frombuffer(data, f"<f{ENCODINGS[encoding]}").astype(np.float32)
    return flat.reshape(-1, channels)


def encode(block: Samples, encoding: str) -> bytes:
    """Turn (n, channels) float32 into little-endian "f32" or "s16"; "s16" clips at full scale."""
    if encoding == "f32":
        return block.astype("<f4", copy=False).tobytes()
    scaled = np.clip(np.rint(block * np.float32(32768)), -32768, 32767)
    integers: NDArray[np.int16] = scaled.astype("<i2")
    return integers.tobytes()


def as_plain_wav(header: bytes, n_bytes: int) -> bytes:
    """Convert the header of an RF64 file of less than 4 GB to that of a plain WAV.

    The ds64 chunk becomes a JUNK chunk of the same size, so that no sample moves.

    Args:
        header: the file's bytes up to and including "data" and its size.
        n_bytes: size of the whole file.
    """
    plain = bytearray(header)
    data_size = struct.unpack_from("<Q", header, 28)[0]
    plain[0:4] = b"RIFF"
    plain[4:8] = struct.pack("<I", n_bytes - 8)
    plain[12:16] = b"JUNK"
    plain[20:48] = bytes(28)
    plain[-4:] = struct.pack("<I", data_size)
    return bytes(plain)
