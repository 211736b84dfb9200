"""Decodes recordings of any format to 16 kHz mono, and encodes 16 kHz mono files."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np

from rtmtass.errors import InputError, MissingPartError
from rtmtass.io.encodings import Encoding
from rtmtass.io.files import FileSink, FileSource
from rtmtass.types import SAMPLE_RATE, Samples

FLAC = Encoding("flac", "FLAC", "PCM_16")

WAV = Encoding("wav", "WAV", "PCM_16")

OPUS = Encoding("opus", "OGG", "OPUS")

_BLOCK = 1 << 18


def decode(path: Path) -> Samples:
    """Decode a file to 16 kHz mono; a truncated one as far as it goes.

    Formats that libsndfile can't read are decoded by ffmpeg, where it is installed.

    Returns:
        (N,) float32, full scale is 1.0.

    Raises:
        InputError: the file can't be decoded.
        MissingPartError: soxr isn't installed.
    """
    try:
        source = FileSource(path, allow_truncated=True)
    except InputError:
        if shutil.which("ffmpeg") is None or not path.is_file():
            raise
        return _decode_with_ffmpeg(path)
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


def _decode_with_ffmpeg(path: Path) -> Samples:
    command = ["ffmpeg", "-v", "error", "-nostdin", "-i", str(path)]
    command += ["-ac", "1", "-ar", str(SAMPLE_RATE), "-f", "f32le", "-"]
    process = subprocess.run(command, capture_output=True, check=False)
    if process.returncode:
        stderr = process.stderr.decode(errors="replace").strip().splitlines()
        reason = stderr[-1] if stderr else "no reason given"
        raise InputError(f"{path} can't be decoded: ffmpeg says {reason}; convert it to WAV first")
    return np.frombuffer(process.stdout, dtype="<f4").astype(np.float32)
