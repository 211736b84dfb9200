"""What singing over the music costs: the music stem's gain with and without it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from rtmtass.errors import DataError
from rtmtass.evaluation.evaluate import (
    Clip,
    Progress,
    describe_set,
    read_set,
    set_names,
    with_interval,
)
from rtmtass.evaluation.metrics import si_sdr
from rtmtass.separator import Separator


def compare_singing(
    separator: Separator,
    plain: Iterable[Clip],
    sung: Iterable[Clip],
    n: int,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure what singing over the music costs the music stem.

    Args:
        separator: of one channel.
        plain: clips of `rtmtass data mix`.
        sung: clips of the same numbers, of `rtmtass data mix --singing`.
        n: how many of both there are, for `progress`.
        progress: see `evaluate`.

    Returns:
        for JSON: SI-SDRi of music, dB, `instrumental` and `with_singing`, and their
        `difference` clip by clip, each with its 95 % interval.

    Raises:
        DataError: the sets have no clip names in common.
    """
    music = separator.stems.index("music")
    gains: list[dict[str, float]] = [{}, {}]
    done = 0
    for found, clips in zip(gains, (plain, sung), strict=True):
        for clip in clips:
            out, truth = separator.separate(clip.mixture)[music], clip.stems[music]
            found[clip.name] = float(si_sdr(out, truth) - si_sdr(clip.mixture, truth))
            done += 1
            if progress is not None:
                progress("singing", done, n)
    names = [name for name in gains[0] if name in gains[1]]
    if not names:
        raise DataError("the sets have no clips of the same name; mix both with the same --n")
    instrumental, with_singing = (np.array([found[name] for name in names]) for found in gains)
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
    """Measure as `compare_singing` does, on two sets' folders; `first` clips of each, or all.

    Raises:
        DataError: `sung` is no set with singing, or the sets share no names.
    """
    if not describe_set(sung).get("singing"):
        raise DataError(f"nobody sings in {sung}; write it with: rtmtass data mix --singing")
    n = sum(len(set_names(folder)[:first]) for folder in (plain, sung))
    clips = [read_set(folder, separator.stems, first=first) for folder in (plain, sung)]
    return compare_singing(separator, clips[0], clips[1], n, progress)
