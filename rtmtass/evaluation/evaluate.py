"""`rtmtass evaluate`: measures a model on an evaluation set, through `Separator.separate`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtmtass.errors import DataError
from rtmtass.evaluation import perceptual
from rtmtass.evaluation.leakage import (
    cases,
    leakage_db,
    name_case,
    silence_dbfs,
    silence_figures,
)
from rtmtass.evaluation.metrics import bootstrap_interval, sdr, si_sdr
from rtmtass.evaluation.sets import MIXTURE, clip_rows, describe_set
from rtmtass.io.decode import decode
from rtmtass.separator import Separator
from rtmtass.types import SAMPLE_RATE, Progress, Samples

__all__ = ["Clip", "describe_set", "evaluate", "measure", "read_set", "set_names", "with_interval"]

Array = NDArray[np.floating]

LEAKAGE_EVERY = 4
"""Leakage and silence are measured on every fourth clip."""
SNR_EDGES_DB = (-10.0, -5.0, 0.0, 5.0)
"""Edges of the input SDR ranges."""
MOST_SURPLUS_S = 0.1
"""Most by which a clip's tracks may differ in length."""
SILENT_POWER = 1e-10
"""Mean square below which a true stem is silent: it has no SDR. -100 dBFS."""
WORST = 10
"""How many of the worst clips are listed."""
BY_STEM = ("si_sdri", "sdri", "bss_sdri")
"""Metrics with a value per stem."""
OF_SPEECH = ("pesq", "stoi")
"""Metrics of the speech stem alone."""


@dataclass(frozen=True)
class Clip:
    """One mixture of an evaluation set with its true stems.

    Attributes:
        name: as in the set's list.csv.
        mixture: (N,).
        stems: (S, N), summing to the mixture.
    """

    name: str
    mixture: Samples
    stems: Samples


@dataclass
class ScoreTable:
    """Scores of all clips: for each metric one array per clip, NaN for missing values."""

    names: list[str] = field(default_factory=list)
    values: dict[str, list[Array]] = field(default_factory=dict)

    def add(self, scores: dict[str, Array]) -> None:
        """Add the scores of one clip."""
        for name, value in scores.items():
            self.values.setdefault(name, []).append(value)

    def __getitem__(self, name: str) -> Array:
        """Return a metric's scores of all clips, the clip as first axis."""
        return np.array(self.values[name])

    def __contains__(self, name: str) -> bool:
        """Return whether any clip has this metric."""
        return name in self.values


def set_names(folder: Path, tracks: tuple[str, ...] = ()) -> list[str]:
    """Return the names of a set's clips, in its order.

    Args:
        folder: the set's.
        tracks: that every clip must have.

    Raises:
        DataError: `folder` holds no evaluation set, or a clip lacks a track.
    """
    return [row["name"] for row in clip_rows(folder, tracks)]


def read_set(
    folder: Path,
    stems: tuple[str, ...],
    *,
    first: int | None = None,
    names: Collection[str] | None = None,
) -> Iterator[Clip]:
    """Yield the clips of a set, one in memory at a time; see `sets` for what a set is.

    Args:
        folder: the set's.
        stems: stems to read, in this order.
        first: read only the first so many clips; they are an unbiased sample.
        names: read only these clips.

    Raises:
        DataError: the folder holds no set, or a clip lacks a track.
        InputError: a file can't be read.
    """
    for number, row in enumerate(clip_rows(folder, (MIXTURE, *stems))):
        if first is not None and number >= first:
            return
        if names is not None and row["name"] not in names:
            continue
        tracks = [decode(folder / row[name]) for name in (MIXTURE, *stems)]
        yield _as_clip(folder, row["name"], dict(zip((MIXTURE, *stems), tracks, strict=True)))


def _as_clip(folder: Path, name: str, tracks: dict[str, Samples]) -> Clip:
    """Return a clip; lengths may differ by what a codec or resampling adds.

    Raises:
        DataError: a track is empty, or longer than another by more than `MOST_SURPLUS_S`.
    """
    lengths = {track: len(samples) for track, samples in tracks.items()}
    n = min(lengths.values())
    if not n or max(lengths.values()) - n > MOST_SURPLUS_S * SAMPLE_RATE:
        seconds = ", ".join(f"{k} {v / SAMPLE_RATE:.2f} s" for k, v in lengths.items())
        raise DataError(
            f"{folder}: the tracks of clip {name!r} differ in length or are empty ({seconds});"
            " cut them to the same section"
        )
    mixture, *stems = (samples[:n] for samples in tracks.values())
    return Clip(name, mixture, np.stack(stems))


def evaluate(
    separator: Separator,
    clips: Iterable[Clip],
    n: int,
    progress: Progress | None = None,
    measures: Collection[str] = (),
) -> dict[str, Any]:
    """Measure a separator on clips.

    Args:
        separator: of one channel; the state of its stream doesn't change.
        clips: at the separator's rate.
        n: number of clips, for `progress`.
        progress: called with "clips", how many are done, and `n`.
        measures: further metrics, from `perceptual.MEASURES`; these are slow.

    Returns:
        plain values for JSON: SI-SDRi and SDRi per stem and averaged, in dB with 95 %
        bootstrap intervals, and by input SDR; the leakage into absent stems in dB
        relative to the mixture (with both other stems present, and case by case); the
        loudest output for silence in dBFS; the worst clips; the metrics in `measures`.

    Raises:
        DataError: there are no clips.
        MissingPartError: a package needed for `measures` isn't installed.
    """
    scores = ScoreTable()
    for number, clip in enumerate(clips):
        out = separator.separate(clip.mixture)
        scores.names.append(clip.name)
        scores.add(measure(clip.mixture, clip.stems, out, separator.sample_rate, measures))
        if number % LEAKAGE_EVERY == 0:
            scores.add({"leakage_db": leakage_db(separator, clip.stems)})
            scores.add({"silence_dbfs": silence_dbfs(separator, clip.mixture)})
        if progress is not None:
            progress("clips", number + 1, n)
    if not scores.names:
        raise DataError("the evaluation set holds no clips; write one with: rtmtass data mix")
    return _figures(separator.stems, scores)


def measure(
    mixture: Samples,
    stems: Samples,
    estimates: Samples,
    sample_rate: int,
    measures: Collection[str] = (),
) -> dict[str, Array]:
    """Return the scores of one clip.

    Args:
        mixture: (N,).
        stems: (S, N), the true stems; the first is speech.
        estimates: (S, N), the separated stems.
        sample_rate: in Hz.
        measures: see `evaluate`.

    Returns:
        input_sdr, si_sdri, sdri and bss_sdri (S,) in dB, NaN for silent stems, which have
        none; pesq and stoi (2,), of the mixture and of the separated speech.
    """
    is_silent = (stems.astype(np.float64) ** 2).mean(axis=-1) < SILENT_POWER
    before = sdr(mixture[None], stems)
    figures = {
        "input_sdr": before,
        "sdri": sdr(estimates, stems) - before,
        "si_sdri": si_sdr(estimates, stems) - si_sdr(mixture[None], stems),
    }
    if "bss_sdri" in measures and is_silent.any():
        figures["bss_sdri"] = np.full(len(stems), np.nan)  # it projects on all true stems
    elif "bss_sdri" in measures:
        unseparated = perceptual.bss_sdr(np.broadcast_to(mixture, stems.shape), stems)
        figures["bss_sdri"] = perceptual.bss_sdr(estimates, stems) - unseparated
    for values in figures.values():
        values[is_silent] = np.nan
    for name in OF_SPEECH:
        if name in measures and is_silent[0]:
            figures[name] = np.full(2, np.nan)
        elif name in measures:
            score = getattr(perceptual, name)
            figures[name] = np.array(
                [score(track, stems[0], sample_rate) for track in (mixture, estimates[0])]
            )
    return figures


def with_interval(values: Array) -> dict[str, Any] | None:
    """Return the mean and its 95 % interval; None if there are no values.

    Args:
        values: (n,); NaNs are ignored, and if there are any, the result holds the number
            of the other values as `clips`.
    """
    finite = values[np.isfinite(values)]
    if not len(finite):
        return None
    low, high = bootstrap_interval(finite)
    named = (("mean", finite.mean()), ("low", low), ("high", high))
    figures: dict[str, Any] = {name: round(float(value), 3) for name, value in named}
    return figures if len(finite) == len(values) else {**figures, "clips": len(finite)}


def _figures(stems: tuple[str, ...], scores: ScoreTable) -> dict[str, Any]:
    figures: dict[str, Any] = {"clips": len(scores.names)}
    for name in BY_STEM:
        if name in scores:
            values = scores[name]
            by_stem = {stem: with_interval(values[:, i]) for i, stem in enumerate(stems)}
            figures[name] = {**by_stem, "average": with_interval(_over_stems(values))}
    for name in OF_SPEECH:
        if name in scores:
            before, after = scores[name].T
            figures[name] = {
                "mixture": with_interval(before),
                "output": with_interval(after),
                "improvement": with_interval(after - before),
            }
    figures |= _by_input_sdr(stems, scores)
    figures |= _leakage(stems, scores)
    si_sdri = scores["si_sdri"]
    order = np.argsort(_over_stems(si_sdri))[:WORST]
    figures["worst"] = [
        {
            "clip": scores.names[k],
            "si_sdri": [None if np.isnan(v) else round(float(v), 2) for v in si_sdri[k]],
        }
        for k in order
    ]
    return figures


def _over_stems(values: Array) -> Array:
    """Return the mean of each row of (n, S) over the stems that aren't NaN; NaN if all are."""
    counts = np.isfinite(values).sum(axis=1)
    means: Array = np.where(counts, np.nansum(values, axis=1) / np.maximum(counts, 1), np.nan)
    return means


def _leakage(stems: tuple[str, ...], scores: ScoreTable) -> dict[str, Any]:
    """Return the leakage by stem and by case, and the loudest output for silence."""
    leakage = scores["leakage_db"]
    by_case: dict[str, dict[str, Any]] = {}
    one_absent: dict[str, Any] = {}
    for number, present in enumerate(cases(len(stems))):
        absent = [s for s in range(len(stems)) if s not in present]
        levels = {stems[s]: with_interval(leakage[:, number, s]) for s in absent}
        by_case[name_case(stems, present)] = levels
        if len(absent) == 1:
            one_absent |= levels
    return {
        "leakage_db": {stem: one_absent[stem] for stem in stems},
        "leakage_by_case_db": by_case,
        "silence_dbfs": silence_figures(scores["silence_dbfs"]),
    }


def _by_input_sdr(stems: tuple[str, ...], scores: ScoreTable) -> dict[str, Any]:
    """Return the scores of each stem by its input SDR, as plain means and with intervals."""
    bucket = np.digitize(scores["input_sdr"], SNR_EDGES_DB)
    edges = ["-inf", *(f"{e:g}" for e in SNR_EDGES_DB), "inf"]
    si_sdri, sdri = scores["si_sdri"], scores["sdri"]
    rows: dict[str, dict[str, Any]] = {}
    for i, stem in enumerate(stems):
        rows[stem] = {}
        exists = np.isfinite(scores["input_sdr"][:, i])
        for b in np.unique(bucket[exists, i]):
            inside = exists & (bucket[:, i] == b)
            rows[stem][f"{edges[b]}..{edges[b + 1]} dB"] = {
                "clips": int(inside.sum()),
                "si_sdri": with_interval(si_sdri[inside, i]),
                "sdri": with_interval(sdri[inside, i]),
            }
    means = {
        stem: {name: row["si_sdri"]["mean"] for name, row in by_range.items()}
        for stem, by_range in rows.items()
    }
    return {"si_sdri_by_input_sdr": means, "by_input_sdr": rows}
