"""Corpora and recipes for the tests of batches made on a device."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from corpora import hiss, pending, tone, voice, write_index

from rtmtass.training.data.corpus import Corpus
from rtmtass.training.data.device.examples import DeviceExamples
from rtmtass.training.data.recipe import Recipe
from rtmtass.training.data.recordings import store
from rtmtass.types import SAMPLE_RATE

Sound = np.ndarray

_ALL_OFF: dict[str, Any] = {f.name: 0.0 for f in fields(Recipe) if f.type == "float"}
PLAIN = Recipe(**_ALL_OFF)
"""A recipe without augmentation: only levels are set."""
CALM: dict[str, Any] = {"one_alone": 0.0, "one_missing": 0.0, "all_silent": 0.0}
USUAL = replace(Recipe(), coded=0.0)
"""The default recipe without codecs, which a device leaves out."""


def changed(**changes: Any) -> Recipe:
    return replace(PLAIN, **changes)


def write_rich_corpus(folder: Path) -> Path:
    """Write a varied corpus: short and long pieces, several recordings per speaker."""
    folder.mkdir(parents=True)
    rows: list[list[object]] = []

    def add(role: str, group: str, sound: Sound) -> None:
        path = f"{role}-{len(rows)}.wav"
        soundfile.write(folder / path, sound, SAMPLE_RATE)
        rows.append([role, "s", group, "train", path, len(sound) / SAMPLE_RATE, "CC0", "A"])

    for speaker in range(3):
        for take in range(3):
            sound = voice(0.4 + 0.3 * take, 100.0 + 50 * speaker, take)
            add("speech", f"{speaker}", sound + hiss(len(sound) / SAMPLE_RATE, take, 0.002))
    for piece in range(4):
        chord = sum(tone(hz * (1 + 0.17 * piece), 0.6 + piece) for hz in (330.0, 415.0, 494.0))
        add("music", f"{piece}", chord + hiss(0.6 + piece, piece, 0.004 * 3**piece))
    for k in range(3):
        add("noise", f"long{k}", np.cumsum(hiss(6.0, k, 0.01)) * 0.02 + hiss(6.0, k, 0.02))
        add("noise", f"short{k}", hiss(0.15 + 0.2 * k, k) * np.linspace(1, 0.1, 2400 + 3200 * k))
        add("singing", f"{k}", voice(0.7 + k, 300.0 + 90 * k, k))
    write_index(folder, rows)
    return folder


def fill_banks(corpus: Corpus) -> None:
    """Write small banks: buzzes, tones in hiss, and rooms of decaying noise."""
    decay = 10 ** (-3 * np.arange(2400) / 2400)
    made = {
        "singing": [voice(2.0, 400.0, 1), voice(2.0, 500.0, 2)],
        "generated": [tone(2500 + 900 * k, 2.0) + hiss(2.0, k, 0.05) for k in range(3)],
        "revoiced": [voice(2.5, 260.0, 3), voice(2.5, 290.0, 4)],
        "rooms": [np.eye(1, 2400)[0] + 4 * decay * hiss(0.15, k) for k in range(3)],
    }
    for name, sounds in made.items():
        items = [pending(f"{k}", sound, source=name) for k, sound in enumerate(sounds)]
        store(corpus.cache / f"{name}-train", items, "made by hand")


def device(corpus: Corpus, split: str = "train", **options: Any) -> DeviceExamples:
    return DeviceExamples(corpus, split, **{"seconds": 0.5, "batch": 16, "seed": 7, **options})


def made(corpus: Corpus, recipe: Recipe, n: int, seconds: float = 0.25, seed: int = 3) -> Sound:
    """Return `n` examples of the device, (n, 3, N)."""
    batch = min(n, 100)
    examples = device(corpus, seconds=seconds, batch=batch, seed=seed, recipe=recipe)
    return np.concatenate([examples.batch(k).numpy() for k in range(n // batch)])
