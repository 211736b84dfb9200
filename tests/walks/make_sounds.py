"""Makes the walks' inputs: make_sounds.py FILE [SECONDS [RATE [CHANNELS]]], or --corpus FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

Sound = NDArray[np.float64]


def voice(seconds: float, rate: int, seed: int = 0) -> Sound:
    """Return a buzz of varying pitch in syllables, (N,)."""
    t = np.arange(round(seconds * rate)) / rate
    hz = (110 + 15 * seed) * 2 ** (0.4 * np.sin(2 * np.pi * 1.7 * t))
    phase = 2 * np.pi * np.cumsum(hz) / rate
    buzz = np.sum([np.sin(k * phase) / (1 + (k / 5) ** 2) for k in range(1, 20)], axis=0)
    return 0.08 * buzz * np.abs(np.sin(1.5 * np.pi * t)) + noise(seconds, rate, seed) * 0.05


def music(seconds: float, rate: int, seed: int = 0) -> Sound:
    """Return a chord that changes twice a second, (N,)."""
    t = np.arange(round(seconds * rate)) / rate
    root = 220 * 2 ** (np.floor(2 * t) % 5 * 2 / 12) * (1 + 0.06 * seed)
    phase = 2 * np.pi * np.cumsum(root) / rate
    chord = np.sum([np.sin(ratio * phase) for ratio in (1, 1.25, 1.5)], axis=0)
    return 0.05 * chord + noise(seconds, rate, seed) * 0.05


def noise(seconds: float, rate: int, seed: int = 0) -> Sound:
    """Return white noise, (N,)."""
    return 0.03 * np.random.default_rng(seed).standard_normal(round(seconds * rate))


def main(arguments: list[str]) -> None:
    """Write a mixture, or folders of recordings to train on."""
    if arguments[0] == "--corpus":
        for role, make in (("speech", voice), ("music", music), ("noise", noise)):
            for k in range(6):
                folder = Path(arguments[1], role, f"{role}{k}")
                folder.mkdir(parents=True)
                soundfile.write(folder / "sound.wav", make(6.0, 16000, k), 16000)
        return
    path, seconds, rate, channels = [*arguments, *("4", "44100", "2")[len(arguments) - 1 :]]
    n_seconds, n_rate = float(seconds), int(rate)
    mixture = sum(make(n_seconds, n_rate) for make in (voice, music, noise))
    columns = [np.roll(mixture, 7 * c) * (1 - 0.2 * c) for c in range(int(channels))]
    with soundfile.SoundFile(path, "w", n_rate, int(channels)) as file:
        file.title = "A walk"
        file.write(np.stack(columns, axis=1))


if __name__ == "__main__":
    main(sys.argv[1:])
