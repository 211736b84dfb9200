"""Decodes recordings of any format to 16 kHz mono, and encodes 16 kHz mono files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rtmtass.errors import MissingPartError
from rtmtass.io.encodings import Encoding
from rtmtass.io.file_sink import FileSink
from rtmtass.io.opening import open_recording
from rtmtass.types import SAMPLE_RATE, Samples

FLAC = Encoding("flac", "FLAC", "PCM_16")

WAV = Encoding("wav", "WAV", "PCM_16")

OPUS = Encoding("opus", "OGG", "OPUS")

_BLOCK = 1 << 18


def decode(path: Path) -> Samples:
    """Decode a file to 16 kHz mono; a truncated one as far as it goes.

    Of a video or another file that libsndfile can't read, its default audio track.

    Returns:
        (N,) float32, full scale is 1.0.

    Raises:
        InputError: the file can't be decoded.
        MissingPartError: soxr isn't installed, or neither PyAV nor ffmpeg for a file that needs
            one.
    """
    source = open_recording(path, allow_truncated=True)
    try:
        import soxr
    except ImportError:
        source.close()
        raise MissingPartError(
            f"reading {path} needs soxr: pip install rtmtass, or train from packs, which"
            " don't: rtmtass data pack"
        ) from None
    resampler = soxr.ResampleStream(source.sample_rate, SAMPLE_RATE, 1)
    parts: list[Samples] = []
    block = np.empty((_BLOCK, source.channels), np.float32)
    try:
        n = 1
        while n:
            n = source.read(block)
            mono = block[:n].mean(axis=1, dtype=np.float32)
            parts.append(resampler.resample_chunk(mono, last=n == 0))
    finally:
        source.close()
    return np.concatenate(parts)


def encode(path: Path, samples: Samples, encoding: Encoding) -> None:
    """Write (N,) float32 as a 16 kHz file, under its final name only when complete.

    Raises:
        OutputError: the file can't be written.
    """
    sink = FileSink(path, SAMPLE_RATE, 1, encoding, frames=len(samples))
    try:
        sink.write(samples[:, None])
        sink.publish()
    except BaseException:
        sink.abandon()
        raise
