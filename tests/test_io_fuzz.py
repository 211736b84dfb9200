"""Damaged headers: each is refused in one line, or read as what is there, in bounded memory."""

from __future__ import annotations

import io

import numpy as np
import soundfile

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
