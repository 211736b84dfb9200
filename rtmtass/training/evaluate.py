"""`rtmtass evaluate`: how good a model is, heard through the very path its users hear."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtmtass.errors import DataError
from rtmtass.separator import Separator
from rtmtass.training.metrics import bootstrap_interval, sdr, si_sdr
from rtmtass.training.sources import decode

Samples = NDArray[np.float32]
Progress = Callable[[str, int, int], None]

LEAKAGE_EVERY = 4
"""Of every so many clips one is also heard with each stem taken out."""
SNR_EDGES_DB = (-10.0, -5.0, 0.0, 5.0)
WORST = 10


@dataclass(frozen=True)
class Clip:
    """One mixture of an evaluation set with its truth.

    Attributes:
        name: as the set's list has it.
        mixture: (N,).
        stems: (S, N), summing to the mixture.
    """

    name: str
    mixture: Samples
    stems: Samples


@dataclass
class Tally:
    """Figures of all clips, one row each."""

    names: list[str] = field(default_factory=list)
    si_sdri: list[NDArray[np.floating]] = field(default_factory=list)
    sdri: list[NDArray[np.floating]] = field(default_factory=list)
    input_sdr: list[NDArray[np.floating]] = field(default_factory=list)
    leakage_db: list[NDArray[np.floating]] = field(default_factory=list)


def read_set(folder: Path, stems: tuple[str, ...]) -> Iterator[Clip]:
    """Yield the clips of a set that `rtmtass data mix` wrote, one in memory at a time.

    Raises:
        DataError: no list.csv there, or a file it names is missing.
    """
    path = folder / "list.csv"
    if not path.is_file():
        raise DataError(f"{folder} holds no list.csv; write a set with: rtmtass data mix")
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            tracks = [decode(folder / row[name]) for name in ("mixture", *stems)]
            yield Clip(row["name"], tracks[0], np.stack(tracks[1:]))


def evaluate(
    separator: Separator, clips: Iterable[Clip], n: int, progress: Progress | None = None
) -> dict[str, Any]:
    """Measure a separator on clips.

    Args:
        separator: of one channel; its own stream is not touched.
        clips: at the separator's rate.
        n: how many there are, for `progress`.
        progress: called with what is done, how many are, and of how many.

    Returns:
        plain values for JSON: per stem and on average SI-SDRi and SDRi in dB
        with 95 % bootstrap intervals, by input SDR, the leakage into absent
        stems in dB below the mixture, and the worst clips.
    """
    tally = Tally()
    for number, clip in enumerate(clips):
        out = separator.separate(clip.mixture)
        tally.names.append(clip.name)
        before = sdr(clip.mixture[None], clip.stems)
        tally.input_sdr.append(before)
        tally.sdri.append(sdr(out, clip.stems) - before)
        tally.si_sdri.append(si_sdr(out, clip.stems) - si_sdr(clip.mixture[None], clip.stems))
        if number % LEAKAGE_EVERY == 0:
            tally.leakage_db.append(_leakage(separator, clip))
        if progress is not None:
            progress("clips", number + 1, n)
    if not tally.names:
        raise DataError("the evaluation set holds no clips")
    return _figures(separator.stems, tally)


def _leakage(separator: Separator, clip: Clip) -> NDArray[np.floating]:
    """Take each stem out in turn; return its output's level over the mixture's, dB."""
    levels = []
    for s in range(len(clip.stems)):
        mixture = clip.mixture - clip.stems[s]
        out = separator.separate(mixture)[s]
        levels.append(10 * np.log10((out**2).mean() / ((mixture**2).mean() + 1e-12) + 1e-12))
    return np.array(levels)


def _with_interval(values: NDArray[np.floating]) -> dict[str, float]:
    low, high = bootstrap_interval(values)
    return {
        k: round(float(v), 3) for k, v in (("mean", values.mean()), ("low", low), ("high", high))
    }


def _figures(stems: tuple[str, ...], tally: Tally) -> dict[str, Any]:
    figures: dict[str, Any] = {"clips": len(tally.names)}
    for name in ("si_sdri", "sdri"):
        values = np.array(getattr(tally, name))
        figures[name] = {stem: _with_interval(values[:, i]) for i, stem in enumerate(stems)}
        figures[name]["average"] = _with_interval(values.mean(axis=1))
    si_sdri, before = np.array(tally.si_sdri), np.array(tally.input_sdr)
    bucket = np.digitize(before, SNR_EDGES_DB)
    edges = ["-inf", *(f"{e:g}" for e in SNR_EDGES_DB), "inf"]
    figures["si_sdri_by_input_sdr"] = {
        stem: {
            f"{edges[b]}..{edges[b + 1]} dB": round(float(si_sdri[bucket[:, i] == b, i].mean()), 3)
            for b in range(len(edges) - 1)
            if (bucket[:, i] == b).any()
        }
        for i, stem in enumerate(stems)
    }
    leakage = np.array(tally.leakage_db)
    figures["leakage_db"] = {stem: _with_interval(leakage[:, i]) for i, stem in enumerate(stems)}
    order = np.argsort(si_sdri.mean(axis=1))[:WORST]
    figures["worst"] = [
        {"clip": tally.names[k], "si_sdri": [round(float(v), 2) for v in si_sdri[k]]} for k in order
    ]
    return figures


def describe_set(folder: Path) -> dict[str, Any]:
    """Return what the set was made of, as its set.json says."""
    path = folder / "set.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
