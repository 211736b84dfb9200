"""Lossy codecs as an augmentation, and encoding and decoding in memory for packs."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import soundfile

from rtmtass.errors import InputError
from rtmtass.types import SAMPLE_RATE, Samples

CODECS: dict[str, tuple[str, str, tuple[float, float]]] = {
    "opus": ("OGG", "OPUS", (0.8, 0.97)),
    "vorbis": ("OGG", "VORBIS", (0.6, 1.0)),
    "mp3": ("MP3", "MPEG_LAYER_III", (0.6, 0.9)),
    "gsm": ("WAV", "GSM610", (0.0, 0.0)),
    "adpcm": ("WAV", "IMA_ADPCM", (0.0, 0.0)),
}
"""Name → libsndfile's container, subtype and range of compression levels (1 is the strongest)."""


def through_codec(samples: Samples, codec: str, compression: float) -> Samples:
    """Return `samples` encoded and decoded, at the same length and level.

    Args:
        samples: (N,) float32 at any level.
        codec: key of `CODECS`.
        compression: 0 to 1 (strongest); ignored by codecs with a fixed bit rate.
    """
    peak = float(np.abs(samples).max(initial=0.0))
    if peak == 0.0:
        return samples
    container, subtype, _ = CODECS[codec]
    gain = np.float32(0.9 / peak)
    file = io.BytesIO()
    level = None if container == "WAV" else compression
    soundfile.write(
        file, samples * gain, SAMPLE_RATE, subtype, format=container, compression_level=level
    )
    file.seek(0)
    back = soundfile.read(file, dtype="float32")[0][: len(samples)]
    back = np.pad(back, (0, len(samples) - len(back)))
    return np.asarray(back / gain, dtype=np.float32)


def random_codec(samples: Samples, rng: np.random.Generator) -> Samples:
    """Return `samples` through a random codec, at a clearly or barely audible compression."""
    codec = str(rng.choice(list(CODECS)))
    return through_codec(samples, codec, float(rng.uniform(*CODECS[codec][2])))


def as_opus(samples: Samples, kbits: float) -> bytes:
    """Return (N,) float32 at 16 kHz as an Opus file of about `kbits` kbit/s."""
    # libsndfile takes a compression level: 0 is 256 kbit/s, 1 is 6 kbit/s, linear in between.
    level = float(np.clip((256.0 - kbits) / 250.0, 0.0, 1.0))
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE, "OPUS", format="OGG", compression_level=level)
    return file.getvalue()


def as_flac(samples: Samples) -> bytes:
    """Return (N,) float32 at 16 kHz, within full scale, as a 16-bit FLAC file."""
    file = io.BytesIO()
    steps = np.round(samples * np.float32(32767.0)).astype(np.int16)
    soundfile.write(file, steps, SAMPLE_RATE, "PCM_16", format="FLAC")
    return file.getvalue()


def from_bytes(data: bytes) -> Samples:
    """Decode a 16 kHz mono file in memory, (N,) float32.

    Raises:
        InputError: it can't be read, or has another rate or more channels.
    """
    try:
        samples, sample_rate = soundfile.read(io.BytesIO(data), dtype="float32")
    except soundfile.SoundFileError as error:
        raise InputError(f"not an audio file that libsndfile reads ({error})") from None
    if sample_rate != SAMPLE_RATE or samples.ndim != 1:
        raise InputError(f"{sample_rate} Hz, shape {samples.shape}; expected 16 kHz mono")
    return np.asarray(samples, dtype=np.float32)


def kbits_of_opus(path: Path) -> float | None:
    """Return the bit rate of a 16 kHz mono Opus file in kbit/s; None for any other file."""
    try:
        info = soundfile.info(str(path))
    except soundfile.SoundFileError:
        return None
    if (info.subtype, info.samplerate, info.channels) != ("OPUS", SAMPLE_RATE, 1):
        return None
    return float(path.stat().st_size * 8 / 1000 / max(info.duration, 1e-3))
