"""Tiny corpora for the tests of training: synthetic recordings of a second or two."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from rtmtass.config import STEMS
from rtmtass.training.data.recordings import PendingRecording

SAMPLE_RATE = 16000
COLUMNS = ("role", "source", "group", "split", "path", "seconds", "licence", "tier")

Sound = NDArray[np.float64]
Make = Callable[[str, str, int], Sound]
"""Makes a recording from its role, split and number."""

TONES_HZ = {
    ("speech", "train"): 500.0,
    ("music", "train"): 900.0,
    ("noise", "train"): 1500.0,
    ("speech", "dev"): 700.0,
    ("music", "dev"): 1100.0,
    ("noise", "dev"): 1900.0,
}


def tone(hz: float, seconds: float, amplitude: float = 0.1) -> Sound:
    """Return a sine, (N,)."""
    return amplitude * np.sin(
        2 * np.pi * hz * np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    )


def hiss(seconds: float, seed: int = 0, amplitude: float = 0.1) -> Sound:
    """Return white noise, (N,)."""
    return amplitude * np.random.default_rng(seed).standard_normal(round(seconds * SAMPLE_RATE))


def voice(seconds: float, pitch_hz: float = 130.0, seed: int = 0) -> Sound:
    """Return a buzz whose pitch varies by a third and whose level peaks three times a second."""
    t = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    hz = pitch_hz * 2 ** (0.4 * np.sin(2 * np.pi * 1.7 * t))
    phase = 2 * np.pi * np.cumsum(hz) / SAMPLE_RATE
    buzz = sum(np.sin(k * phase) / (1 + (k * pitch_hz / 700) ** 2) for k in range(1, 20))
    return 0.1 * buzz * np.abs(np.sin(1.5 * 2 * np.pi * t)) + hiss(seconds, seed, 0.003)


def tones(role: str, split: str, take: int) -> Sound:
    """Return the tone of a role and split, see TONES_HZ, with hiss so that it isn't muffled."""
    return tone(TONES_HZ[role, split], 1.0 + take) + hiss(1.0 + take, 0, 0.002)


def lively(role: str, split: str, take: int) -> Sound:
    """Return varied material: two voices, chords, long and short hiss."""
    seed = take + 10 * (split == "dev")
    if role == "speech":
        return voice(2.0, 110.0 + 60.0 * take, seed)
    if role == "music":
        chord = sum(tone(hz * (1 + 0.2 * take), 2.5) for hz in (330.0, 415.0, 494.0))
        return np.asarray(chord + hiss(2.5, seed, 0.002))
    return hiss(6.0 if take else 0.7, seed)


def make_corpus(folder: Path, make: Make = lively, n_takes: int = 2) -> Path:
    """Write a corpus with `n_takes` groups of one recording per role and split."""
    rows: list[list[object]] = []
    for role in STEMS:
        for split in ("train", "dev"):
            for take in range(n_takes):
                sound = make(role, split, take)
                path = f"{role}-{split}-{take}.wav"
                folder.mkdir(parents=True, exist_ok=True)
                soundfile.write(folder / path, sound, SAMPLE_RATE)
                seconds = len(sound) / SAMPLE_RATE
                rows.append([role, "made", f"{split}{take}", split, path, seconds, "CC0", "A"])
    write_index(folder, rows)
    return folder


def write_index(folder: Path, rows: list[list[object]]) -> Path:
    """Write `index.csv` into a folder."""
    with (folder / "index.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return folder / "index.csv"


def pending(
    name: str, sound: NDArray[np.floating], source: str = "s", group: str = ""
) -> PendingRecording:
    """Return a recording to be stored; its group is its name unless one is given."""
    return PendingRecording(source, group or name, name, lambda: sound.astype(np.float32))


def share_at(sound: NDArray[np.floating], hz: float, width_hz: float = 30.0) -> float:
    """Return the share of the power within `width_hz` of a frequency."""
    power = np.abs(np.fft.rfft(sound * np.hanning(len(sound)))) ** 2
    place = np.fft.rfftfreq(len(sound), 1 / SAMPLE_RATE)
    return float(power[np.abs(place - hz) <= width_hz].sum() / power.sum())


def level_db(sound: NDArray[np.floating]) -> float:
    """Return the mean power in dBFS, computed in double precision."""
    return float(10 * np.log10(np.mean(np.square(sound.astype(np.float64)))))
