"""Recordings of noise, for tests that compare the outputs of two ways to separate them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile


def write_noise(folder: Path, lengths: Iterable[int], seed: int) -> list[Path]:
    """Write `0.wav`, `1.wav` … of so many samples at 16 kHz; return their paths."""
    rng = np.random.default_rng(seed)
    paths = []
    for number, length in enumerate(lengths):
        path = folder / f"{number}.wav"
        soundfile.write(path, 0.1 * rng.standard_normal(length).astype(np.float32), 16000)
        paths.append(path)
    return paths
