"""Sound as it comes out of the codecs it may have gone through before anybody separates it."""

from __future__ import annotations

import io

import numpy as np
import soundfile

from rtmtass.training.recordings import SAMPLE_RATE, Samples

CODECS: dict[str, tuple[str, str, tuple[float, float]]] = {
    "opus": ("OGG", "OPUS", (0.8, 0.97)),
    "vorbis": ("OGG", "VORBIS", (0.6, 1.0)),
    "mp3": ("MP3", "MPEG_LAYER_III", (0.6, 0.9)),
    "gsm": ("WAV", "GSM610", (0.0, 0.0)),
    "adpcm": ("WAV", "IMA_ADPCM", (0.0, 0.0)),
}
"""Container, coding and range of compression (1 is the most) by name, as libsndfile has them."""


def through_codec(samples: Samples, codec: str, compression: float) -> Samples:
    """Return `samples` coded and decoded, equally long, at the level they had.

    Args:
        samples: (N,) float32 at any level.
        codec: of `CODECS`.
        compression: 0 to 1, the most; those without a choice don't care.
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
    """Return `samples` through one of `CODECS`, at a compression one hears or nearly so."""
    codec = str(rng.choice(list(CODECS)))
    return through_codec(samples, codec, float(rng.uniform(*CODECS[codec][2])))
