"""What is heard where nothing should be: in a stem that is absent, and in silence."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtmtass.separator import Separator

Samples = NDArray[np.float32]
Array = NDArray[np.floating]

SILENCE_S = 5.0
"""How long the silence is that is listened to."""
SETTLED_S = 1.0
"""After sound stops, how long a stream may ring before what is left counts."""
_FLOOR = 1e-12


def cases(n_stems: int) -> Iterator[tuple[int, ...]]:
    """Yield which stems sound, for every way to leave some out but not all; pairs first."""
    for size in range(n_stems - 1, 0, -1):
        yield from combinations(range(n_stems), size)


def leakage_db(separator: Separator, stems: Samples) -> Array:
    """Return what absent stems get of a mixture of the others.

    Args:
        separator: of one channel.
        stems: (S, N), the truth.

    Returns:
        (cases, S): level of each absent stem's output over the mixture's, dB, at
        least -120; nan where the stem sounds. The order is that of `cases`.
    """
    rows = []
    for present in cases(len(stems)):
        mixture = stems[list(present)].sum(axis=0)
        out = separator.separate(mixture)
        level = (out**2).mean(axis=1) / ((mixture**2).mean() + _FLOOR) + _FLOOR
        row = 10 * np.log10(level)
        row[list(present)] = np.nan
        rows.append(row)
    return np.array(rows)


def silence_dbfs(separator: Separator, mixture: Samples) -> Array:
    """Return how loud the loudest stem of digital silence is, dBFS, at least -120.

    Args:
        separator: of one channel.
        mixture: (N,), what was heard before the second silence.

    Returns:
        (2,): from the start of a stream, and after `mixture` has stopped for
        `SETTLED_S`.
    """
    nothing = np.zeros(round(SILENCE_S * separator.sample_rate), np.float32)
    settled = len(mixture) + round(SETTLED_S * separator.sample_rate)
    after = separator.separate(np.concatenate([mixture, nothing]))[:, settled:]
    power = [(out**2).mean(axis=1).max() for out in (separator.separate(nothing), after)]
    levels: Array = 10 * np.log10(np.array(power) + _FLOOR)
    return levels


def name_case(stems: tuple[str, ...], present: tuple[int, ...]) -> str:
    """Return a case in words, as the figures call it."""
    return " + ".join(stems[s] for s in present)


def silence_figures(levels: Array) -> dict[str, Any]:
    """Return the loudest of all clips' silences (clips, 2), for JSON."""
    loudest = levels.max(axis=0)
    named = zip(("from_start", "after_sound"), loudest, strict=True)
    return {**{name: round(float(value), 2) for name, value in named}, "clips": len(levels)}
