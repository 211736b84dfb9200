"""Effect of singing on the music stem: its SI-SDRi with and without singing over the music."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from rtmtass.errors import DataError
from rtmtass.evaluation.evaluate import (
    Clip,
    describe_set,
    read_set,
    set_names,
    with_interval,
)
from rtmtass.evaluation.metrics import si_sdr
from rtmtass.separator import Separator
from rtmtass.types import Progress


def compare_singing(
    separator: Separator,
    plain: Iterable[Clip],
    sung: Iterable[Clip],
    n: int,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure the music stem with and without singing over the music.

    Args:
        separator: of one channel.
        plain: clips written by `rtmtass data mix`.
        sung: the same clips written by `rtmtass data mix --singing`.
        n: number of clips in both together, for `progress`.
        progress: called with "singing", how many are done, and `n`.

    Returns:
        for JSON: SI-SDRi of music in dB, `instrumental` and `with_singing`, and their
        paired `difference`, each with its 95 % interval.

    Raises:
        DataError: the sets have no clip names in common.
    """
    music = separator.stems.index("music")
    improvements: list[dict[str, float]] = [{}, {}]
    done = 0
    for by_name, clips in zip(improvements, (plain, sung), strict=True):
        for clip in clips:
            out, truth = separator.separate(clip.mixture)[music], clip.stems[music]
            by_name[clip.name] = float(si_sdr(out, truth) - si_sdr(clip.mixture, truth))
            done += 1
            if progress is not None:
                progress("singing", done, n)
    names = [name for name in improvements[0] if name in improvements[1]]
    if not names:
        raise DataError("the sets have no clips of the same name; mix both with the same --n")
    instrumental, with_singing = (
        np.array([by_name[name] for name in names]) for by_name in improvements
    )
    return {
        "clips": len(names),
        "instrumental": with_interval(instrumental),
        "with_singing": with_interval(with_singing),
        "difference": with_interval(with_singing - instrumental),
    }


def compare_sets(
    separator: Separator,
    plain: Path,
    sung: Path,
    progress: Progress | None = None,
    *,
    first: int | None = None,
) -> dict[str, Any]:
    """Call `compare_singing` on two sets' folders, with the `first` clips of each, or all.

    Raises:
        DataError: `sung` wasn't mixed with singing, or the sets have no clip names in common.
    """
    if not describe_set(sung).get("singing"):
        raise DataError(
            f"{sung} was mixed without singing; write it with: rtmtass data mix --singing"
        )
    n = sum(len(set_names(folder)[:first]) for folder in (plain, sung))
    clips = [read_set(folder, separator.stems, first=first) for folder in (plain, sung)]
    return compare_singing(separator, clips[0], clips[1], n, progress)
