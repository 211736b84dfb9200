"""`rtmtass evaluate`: how good a model is, heard through the very path its users hear."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtmtass.errors import DataError
from rtmtass.evaluation import leakage as absence
from rtmtass.evaluation import perceptual
from rtmtass.evaluation.metrics import bootstrap_interval, sdr, si_sdr
from rtmtass.io.decode import decode
from rtmtass.separator import Separator

Samples = NDArray[np.float32]
Array = NDArray[np.floating]
Progress = Callable[[str, int, int], None]

LEAKAGE_EVERY = 4
"""Of every so many clips one is also heard with stems taken out, and before silence."""
SNR_EDGES_DB = (-10.0, -5.0, 0.0, 5.0)
WORST = 10
BY_STEM = ("si_sdri", "sdri", "bss_sdri")
OF_SPEECH = ("pesq", "stoi")


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
    """Figures of all clips: under each name one array per clip, nan where there is no figure."""

    names: list[str] = field(default_factory=list)
    values: dict[str, list[Array]] = field(default_factory=dict)

    def add(self, figures: dict[str, Array]) -> None:
        """Take the figures of one clip."""
        for name, value in figures.items():
            self.values.setdefault(name, []).append(value)

    def __getitem__(self, name: str) -> Array:
        """Return a figure of all clips, clip first."""
        return np.array(self.values[name])

    def __contains__(self, name: str) -> bool:
        """Tell whether any clip has this figure."""
        return name in self.values


def set_names(folder: Path) -> list[str]:
    """Return the names of a set's clips, in its order.

    Raises:
        DataError: `folder` is no set.
    """
    return [row["name"] for row in _rows(folder, ())]


def read_set(
    folder: Path,
    stems: tuple[str, ...],
    *,
    first: int | None = None,
    names: Collection[str] | None = None,
) -> Iterator[Clip]:
    """Yield the clips of a set that `rtmtass data mix` wrote, one in memory at a time.

    Args:
        folder: the set's.
        stems: which to read, in this order.
        first: stop after so many; any number of the first is a fair sample.
        names: only these.

    Raises:
        DataError: no list.csv there, or it has no such stems.
        InputError: a file it names is missing.
    """
    for number, row in enumerate(_rows(folder, ("mixture", *stems))):
        if first is not None and number >= first:
            return
        if names is not None and row["name"] not in names:
            continue
        tracks = [decode(folder / row[name]) for name in ("mixture", *stems)]
        yield Clip(row["name"], tracks[0], np.stack(tracks[1:]))


def _rows(folder: Path, columns: tuple[str, ...]) -> Iterator[dict[str, str]]:
    path = folder / "list.csv"
    if not path.is_file():
        raise DataError(f"{folder} holds no list.csv; write a set with: rtmtass data mix")
    with path.open(newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        lacking = {"name", *columns} - set(table.fieldnames or ())
        if lacking:
            raise DataError(
                f"{path} lacks the columns {', '.join(sorted(lacking))};"
                " write the set again with: rtmtass data mix"
            )
        yield from table


def evaluate(
    separator: Separator,
    clips: Iterable[Clip],
    n: int,
    progress: Progress | None = None,
    measures: Collection[str] = (),
) -> dict[str, Any]:
    """Measure a separator on clips.

    Args:
        separator: of one channel; its own stream is not touched.
        clips: at the separator's rate.
        n: how many there are, for `progress`.
        progress: called with what is done, how many are, and of how many.
        measures: what to measure besides, of `perceptual.MEASURES`; these are slow.

    Returns:
        plain values for JSON: per stem and on average SI-SDRi and SDRi in dB
        with 95 % bootstrap intervals, by input SDR, the leakage into absent
        stems in dB over the mixture (beside both other stems, and case by case),
        the loudest output of silence in dBFS, and the worst clips; of
        `measures` what was asked for.

    Raises:
        DataError: there are no clips.
        MissingPartError: a package that `measures` need is not installed.
    """
    tally = Tally()
    for number, clip in enumerate(clips):
        out = separator.separate(clip.mixture)
        tally.names.append(clip.name)
        tally.add(measure(clip.mixture, clip.stems, out, separator.sample_rate, measures))
        if number % LEAKAGE_EVERY == 0:
            tally.add({"leakage_db": absence.leakage_db(separator, clip.stems)})
            tally.add({"silence_dbfs": absence.silence_dbfs(separator, clip.mixture)})
        if progress is not None:
            progress("clips", number + 1, n)
    if not tally.names:
        raise DataError("the evaluation set holds no clips")
    return _figures(separator.stems, tally)


def measure(
    mixture: Samples,
    stems: Samples,
    estimates: Samples,
    sample_rate: int,
    measures: Collection[str] = (),
) -> dict[str, Array]:
    """Return the figures of one clip.

    Args:
        mixture: (N,).
        stems: (S, N), the truth; the first is speech.
        estimates: (S, N).
        sample_rate: in Hz.
        measures: see `evaluate`.

    Returns:
        input_sdr, si_sdri, sdri and bss_sdri (S,) in dB; pesq and stoi (2,),
        of the mixture and of the estimate of speech.
    """
    before = sdr(mixture[None], stems)
    figures = {
        "input_sdr": before,
        "sdri": sdr(estimates, stems) - before,
        "si_sdri": si_sdr(estimates, stems) - si_sdr(mixture[None], stems),
    }
    if "bss_sdri" in measures:
        unseparated = perceptual.bss_sdr(np.broadcast_to(mixture, stems.shape), stems)
        figures["bss_sdri"] = perceptual.bss_sdr(estimates, stems) - unseparated
    for name in OF_SPEECH:
        if name in measures:
            score = getattr(perceptual, name)
            figures[name] = np.array(
                [score(track, stems[0], sample_rate) for track in (mixture, estimates[0])]
            )
    return figures


def with_interval(values: Array) -> dict[str, Any] | None:
    """Return the mean and its 95 % interval; None where there is no value.

    Args:
        values: (n,); nan is no value, and then `clips` tells how many are.
    """
    there = values[np.isfinite(values)]
    if not len(there):
        return None
    low, high = bootstrap_interval(there)
    named = (("mean", there.mean()), ("low", low), ("high", high))
    figures: dict[str, Any] = {name: round(float(value), 3) for name, value in named}
    return figures if len(there) == len(values) else {**figures, "clips": len(there)}


def _figures(stems: tuple[str, ...], tally: Tally) -> dict[str, Any]:
    figures: dict[str, Any] = {"clips": len(tally.names)}
    for name in BY_STEM:
        if name in tally:
            values = tally[name]
            of_stems = {stem: with_interval(values[:, i]) for i, stem in enumerate(stems)}
            figures[name] = {**of_stems, "average": with_interval(values.mean(axis=1))}
    for name in OF_SPEECH:
        if name in tally:
            before, after = tally[name].T
            figures[name] = {
                "mixture": with_interval(before),
                "output": with_interval(after),
                "improvement": with_interval(after - before),
            }
    figures |= _by_input_sdr(stems, tally)
    figures |= _absence(stems, tally)
    si_sdri = tally["si_sdri"]
    order = np.argsort(si_sdri.mean(axis=1))[:WORST]
    figures["worst"] = [
        {"clip": tally.names[k], "si_sdri": [round(float(v), 2) for v in si_sdri[k]]} for k in order
    ]
    return figures


def _absence(stems: tuple[str, ...], tally: Tally) -> dict[str, Any]:
    """Return the leakage by stem and by case, and the loudest silence."""
    leakage = tally["leakage_db"]
    by_case: dict[str, dict[str, Any]] = {}
    alone: dict[str, Any] = {}
    for number, present in enumerate(absence.cases(len(stems))):
        absent = [s for s in range(len(stems)) if s not in present]
        found = {stems[s]: with_interval(leakage[:, number, s]) for s in absent}
        by_case[absence.name_case(stems, present)] = found
        if len(absent) == 1:
            alone |= found
    return {
        "leakage_db": {stem: alone[stem] for stem in stems},
        "leakage_by_case_db": by_case,
        "silence_dbfs": absence.silence_figures(tally["silence_dbfs"]),
    }


def _by_input_sdr(stems: tuple[str, ...], tally: Tally) -> dict[str, Any]:
    """Return means, and means with intervals and numbers of clips, by how loud a stem was."""
    bucket = np.digitize(tally["input_sdr"], SNR_EDGES_DB)
    edges = ["-inf", *(f"{e:g}" for e in SNR_EDGES_DB), "inf"]
    si_sdri, sdri = tally["si_sdri"], tally["sdri"]
    rows: dict[str, dict[str, Any]] = {}
    for i, stem in enumerate(stems):
        rows[stem] = {}
        for b in np.unique(bucket[:, i]):
            inside = bucket[:, i] == b
            rows[stem][f"{edges[b]}..{edges[b + 1]} dB"] = {
                "clips": int(inside.sum()),
                "si_sdri": with_interval(si_sdri[inside, i]),
                "sdri": with_interval(sdri[inside, i]),
            }
    means = {
        stem: {name: row["si_sdri"]["mean"] for name, row in of_stem.items()}
        for stem, of_stem in rows.items()
    }
    return {"si_sdri_by_input_sdr": means, "by_input_sdr": rows}


def describe_set(folder: Path) -> dict[str, Any]:
    """Return what the set was made of, as its set.json says."""
    path = folder / "set.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
