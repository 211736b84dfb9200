"""Damaged headers: each is refused in one line, or read as what is there, in bounded memory."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from rtmtass.amplitude import LARGEST
from rtmtass.errors import RtmtassError
from rtmtass.io.encodings import choose_encoding
from rtmtass.io.file_sink import FileSink
from rtmtass.io.files import FileSource
from rtmtass.io.pipes import StreamSource, open_source
from rtmtass.io.wav_header import stream_header

FRAMES = 1500
MUTANTS = 2000
KINDS = {
    "wav": ("WAV", "PCM_16"),
    "float.wav": ("WAVEX", "FLOAT"),
    "adpcm.wav": ("WAV", "IMA_ADPCM"),
    "rf64": ("RF64", "PCM_24"),
    "w64": ("W64", "FLOAT"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "aiff": ("AIFF", "PCM_16"),
    "caf": ("CAF", "PCM_24"),
    "au": ("AU", "FLOAT"),
    "voc": ("VOC", "PCM_16"),
    "sph": ("NIST", "PCM_16"),
    "pipe": ("WAV", "PCM_16"),
    "endless pipe": ("WAV", "FLOAT"),
}
NUMBERS = (0, 1, 2, 3, 8, 16, 255, 1000, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)


def original(kind: str) -> bytes:
    container, subtype = KINDS[kind]
    x = 0.3 * np.sin(np.arange(FRAMES) / 9)[:, None] * [1.0, 0.5]
    if kind == "endless pipe":
        return stream_header(16000, 2, "f32") + x.astype("<f4").tobytes()
    file = io.BytesIO()
    rate = 48000 if subtype == "OPUS" else 16000
    soundfile.write(file, x, rate, subtype, format=container)
    return file.getvalue()


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Change a header in one to three places; now and then what is behind it."""
    mutant = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        reach = len(mutant) if rng.random() < 0.15 else min(len(mutant), 128)
        at = int(rng.integers(0, max(1, reach)))
        way = rng.integers(0, 7)
        if way == 0:
            mutant[at : at + 1] = rng.bytes(1)
        elif way in (1, 2):
            size = int(rng.choice([2, 4, 8]))
            number = NUMBERS[rng.integers(len(NUMBERS))] % 2 ** (8 * size)
            mutant[at : at + size] = number.to_bytes(size, "little" if way == 1 else "big")
        elif way == 3:
            del mutant[at : at + int(rng.integers(1, 16))]
        elif way == 4:
            mutant[at:at] = rng.bytes(int(rng.integers(1, 16)))
        elif way == 5:
            del mutant[int(rng.integers(0, len(mutant) + 1)) :]
        else:
            mutant += mutant[: int(rng.integers(0, len(mutant) + 1))]
    return bytes(mutant)


def crc_table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte << 24
        for _ in range(8):
            crc = crc << 1 ^ (0x104C11DB7 if crc & 0x80000000 else 0)
        table.append(crc)
    return table


CRC_TABLE = crc_table()


def with_checksums(data: bytes) -> bytes:
    """Set the checksums of Ogg pages, so that a decoder looks at what is in them."""
    mutant, position = bytearray(data), 0
    while mutant[position : position + 4] == b"OggS" and position + 27 <= len(mutant):
        segments = mutant[position + 27 : position + 27 + mutant[position + 26]]
        end = position + 27 + len(segments) + sum(segments)
        mutant[position + 22 : position + 26] = bytes(4)
        crc = 0
        for byte in mutant[position:end]:
            crc = (crc << 8 & 0xFFFFFFFF) ^ CRC_TABLE[crc >> 24 ^ byte]
        mutant[position + 22 : position + 26] = crc.to_bytes(4, "little")
        position = end
    return bytes(mutant)


def read_all(source: FileSource | StreamSource) -> tuple[int, np.ndarray]:
    """Return the length, and the first samples."""
    block = np.zeros((4000, source.channels), np.float32)
    frames, first = 0, block[:0]
    with contextlib.closing(source):
        while count := source.read(block):
            assert np.abs(block[:count]).max() <= LARGEST  # false for NaN
            first = first if frames else block[:count].copy()
            frames += count
            assert frames < 100 * FRAMES, "more sound than the bytes can hold"
    return frames, first


def check_reopens(folder: Path, suffix: str, source: FileSource | StreamSource, x: np.ndarray):
    """What is written in the input's format can be read back."""
    encoding = choose_encoding(
        suffix=suffix,
        subtype=source.subtype,
        sample_rate=source.sample_rate,
        channels=source.channels,
    )
    sink = FileSink(
        folder / f"out.{encoding.format}", source.sample_rate, source.channels, encoding
    )
    sink.write(x)
    sink.publish()
    assert read_all(FileSource(sink.target))[0] == len(x)


@pytest.fixture(autouse=True)
def bounded_memory() -> Iterator[None]:
    """No header makes the process ask for gigabytes."""
    resource = pytest.importorskip("resource")  # not on Windows
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert growth < (500 << 20 if sys.platform == "darwin" else 500 << 10)  # bytes, or KiB


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_headers_are_refused_or_read(tmp_path, kind):
    data = original(kind)
    is_pipe = "pipe" in kind
    path = tmp_path / ("a.wav" if is_pipe else f"a.{kind.split('.')[-1]}")
    n_read = 0

    def attempt(allow_truncated: bool) -> int | None:
        source: FileSource | StreamSource
        with path.open("rb", buffering=0) as stream:
            try:
                if is_pipe:
                    source = StreamSource(stream, "stdin", allow_truncated=allow_truncated)
                else:
                    source = open_source(path, allow_truncated=allow_truncated)
                frames, first = read_all(source)
                if seed % 4 == 0:
                    check_reopens(tmp_path, path.suffix, source, first)
            except RtmtassError as refusal:
                lines = str(refusal).splitlines()
            else:
                assert allow_truncated or source.frames in (None, frames)
                return frames
        assert len(lines) == 1
        return None

    for seed in range(MUTANTS // len(KINDS)):
        mutant = mutate(data, np.random.default_rng([seed, *kind.encode()]))
        path.write_bytes(with_checksums(mutant) if kind in ("ogg", "opus") else mutant)
        frames = attempt(False)
        assert frames in (attempt(True), None), f"seed {seed}: the flag reads something else"
        n_read += frames is not None
    assert n_read > 2  # not all are refused
