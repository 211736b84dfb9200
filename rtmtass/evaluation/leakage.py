"""Leakage: output level of stems that are absent from the mixture, and for silent input."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtmtass.separator import Separator
from rtmtass.types import Samples

Array = NDArray[np.floating]

SILENCE_S = 5.0
"""Length of the silent input."""
SETTLED_S = 1.0
"""Time after the end of sound before the output for silence is measured."""
_FLOOR = 1e-12


def cases(n_stems: int) -> Iterator[tuple[int, ...]]:
    """Yield the present stems' indices, for every proper non-empty subset; largest first."""
    for size in range(n_stems - 1, 0, -1):
        yield from combinations(range(n_stems), size)


def leakage_db(separator: Separator, stems: Samples) -> Array:
    """Return the output levels of absent stems for mixtures of the others.

    Args:
        separator: of one channel.
        stems: (S, N), the true stems.

    Returns:
        (cases, S): level of each absent stem's output relative to the mixture, dB, at
        least -120; NaN for present stems, and for silent mixtures. Rows are in the order
        of `cases`.
    """
    rows = []
    for present in cases(len(stems)):
        mixture = stems[list(present)].sum(axis=0)
        if not mixture.any():  # these stems are silent in this clip
            rows.append(np.full(len(stems), np.nan))
            continue
        out = separator.separate(mixture)
        level = (out**2).mean(axis=1) / ((mixture**2).mean() + _FLOOR) + _FLOOR
        row = 10 * np.log10(level)
        row[list(present)] = np.nan
        rows.append(row)
    return np.array(rows)


def silence_dbfs(separator: Separator, mixture: Samples) -> Array:
    """Return the level of the loudest stem for digital silence, dBFS, at least -120.

    Args:
        separator: of one channel.
        mixture: (N,), the input before the second silence.

    Returns:
        (2,): from the start of a stream, and from `SETTLED_S` after the end of `mixture`.
    """
    silence = np.zeros(round(SILENCE_S * separator.sample_rate), np.float32)
    settled = len(mixture) + round(SETTLED_S * separator.sample_rate)
    after = separator.separate(np.concatenate([mixture, silence]))[:, settled:]
    power = [(out**2).mean(axis=1).max() for out in (separator.separate(silence), after)]
    levels: Array = 10 * np.log10(np.array(power) + _FLOOR)
    return levels


def name_case(stems: tuple[str, ...], present: tuple[int, ...]) -> str:
    """Return the name of a case in the figures, such as "speech + music"."""
    return " + ".join(stems[s] for s in present)


def silence_figures(levels: Array) -> dict[str, Any]:
    """Return the maximum of all clips' silence levels (clips, 2), for JSON."""
    loudest = levels.max(axis=0)
    named = zip(("from_start", "after_sound"), loudest, strict=True)
    return {**{name: round(float(value), 2) for name, value in named}, "clips": len(levels)}
