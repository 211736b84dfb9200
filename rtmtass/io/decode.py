"""Whole recordings of any format to 16 kHz mono and back."""

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
    """Return a file as 16 kHz mono, (N,) float32; what is cut short counts as far as it goes.

    Formats that libsndfile doesn't read are left to ffmpeg, where that is installed.

    Raises:
        InputError: the file can't be read as sound.
        MissingPartError: soxr isn't installed.
    """
    try:
        source = FileSource(path, allow_truncated=True)
    except InputError:
        if shutil.which("ffmpeg") is None or not path.is_file():
            raise
        return _ask_ffmpeg(path)
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
    """Write (N,) float32 as a 16 kHz file; it appears under its name only when it is whole.

    Raises:
        OutputError: it can't be written there.
    """
    sink = FileSink(path, SAMPLE_RATE, 1, encoding, frames=len(samples))
    try:
        sink.write(samples[:, None])
        sink.publish()
    except BaseException:
        sink.abandon()
        raise


def _ask_ffmpeg(path: Path) -> Samples:
    command = ["ffmpeg", "-v", "error", "-nostdin", "-i", str(path)]
    command += ["-ac", "1", "-ar", str(SAMPLE_RATE), "-f", "f32le", "-"]
    answer = subprocess.run(command, capture_output=True, check=False)
    if answer.returncode:
        words = answer.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise InputError(f"{path} can't be read as sound: ffmpeg says {words[-1]}")
    return np.frombuffer(answer.stdout, dtype="<f4").astype(np.float32)
