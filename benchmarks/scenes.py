"""What does a change of scene cost? Mixtures after each other in one stream, and each on its own.

A live stream is never fresh: each scene finds the network in the state of the one before. The
same mixtures are separated as one stream, without a pause, and each from the initial state, and
their SI-SDRi is compared clip by clip; once as they are, and once at levels drawn anew, so that
the running level has to follow.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.tables import format_interval
from rtmtass.evaluation.evaluate import Clip, with_interval
from rtmtass.evaluation.metrics import si_sdr
from rtmtass.separator import Separator

Samples = NDArray[np.float32]
Values = NDArray[np.float64]

CLIPS = 120
LEVELS_DB = (-30.0, 0.0)
CASES = {"as they are": False, "levels from -30 to 0 dB": True}
"""Whether the levels are drawn anew, by name."""


def gains(stems: Samples, clips: list[Clip]) -> Values:
    """Return SI-SDRi, (clips - 1, S), of a stream of clips; the first clip starts it."""
    rows, start = [], 0
    for clip in clips:
        out = stems[:, start : start + len(clip.mixture)]
        rows.append(si_sdr(out, clip.stems) - si_sdr(clip.mixture[None], clip.stems))
        start += len(clip.mixture)
    return np.array(rows[1:], np.float64)


def compare(separator: Separator, clips: list[Clip]) -> dict[str, Any]:
    """Return the SI-SDRi of clips on their own and in one stream, and the paired difference."""
    alone = [separator.separate(clip.mixture) for clip in clips]
    stream = separator.separate(np.concatenate([clip.mixture for clip in clips]))
    fresh, continued = gains(np.concatenate(alone, axis=1), clips), gains(stream, clips)
    difference = continued - fresh
    return {
        "fresh": with_interval(fresh.mean(axis=1)),
        "continued": with_interval(continued.mean(axis=1)),
        "difference": {
            **{stem: with_interval(difference[:, i]) for i, stem in enumerate(separator.stems)},
            "average": with_interval(difference.mean(axis=1)),
        },
    }


def measure_scenes(separator: Separator, clips: Iterable[Clip], seed: int = 0) -> dict[str, Any]:
    """Measure all cases; plain values for JSON.

    Args:
        separator: of one channel, for blocks of any length.
        clips: two at least.
        seed: of the levels.
    """
    rng, clips = np.random.default_rng(seed), list(clips)
    scales = 10 ** (rng.uniform(*LEVELS_DB, len(clips)) / 20)
    cases = {}
    for name, is_scaled in CASES.items():
        scaled = [
            Clip(c.name, (c.mixture * k).astype(np.float32), (c.stems * k).astype(np.float32))
            for c, k in zip(clips, scales if is_scaled else np.ones(len(clips)), strict=True)
        ]
        cases[name] = compare(separator, scaled)
    return {"clips": len(clips), "cases": cases}


def scene_line(result: dict[str, Any]) -> str:
    """Return what was measured."""
    return (
        f"{result['clips']} mixtures in one stream, without a pause, against each on its own,"
        " clip by clip:"
    )


def scene_table(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows."""
    cases = result["cases"]
    stems = list(next(iter(cases.values()))["difference"])
    rows = [
        [name, *(format_interval(case[k]) for k in ("fresh", "continued")),
         *(format_interval(case["difference"][stem]) for stem in stems)]
        for name, case in cases.items()
    ]  # fmt: skip
    columns = ["levels", "SI-SDRi alone, dB", "in the stream, dB"]
    return [*columns, *(f"{stem}: difference" for stem in stems)], rows
