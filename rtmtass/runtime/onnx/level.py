"""The running level as ONNX nodes, the one sum over time that a graph spells out."""

from __future__ import annotations

import numpy as np

from rtmtass.config import LEVEL_HEADROOM, ModelConfig
from rtmtass.net.constants import LEVEL_FLOOR, LEVEL_SQUARE_TINY, LEVEL_TINY
from rtmtass.runtime.onnx.nodes import MANY, Nodes


def write_level(g: Nodes, config: ModelConfig, rows: str, *, is_single: bool) -> str:
    """Write the level of spectra (T, 2F), (T, 1, 1, 1); see `net.layers.RunningLevel`."""
    power = g.put("ReduceSumSquare", rows, axes=[1], keepdims=1)
    power = g.put("Mul", power, g.constant([1 / config.stft.n_bins]))
    pop = ""
    if config.level_window:
        power, pop = _limited(g, config, power, is_single)
    mean = _fading_mean(g, config, power, is_single)
    if pop:
        mean = g.put("Max", mean, pop)
    mean = g.put("Add", mean, g.constant([LEVEL_FLOOR]))
    return g.reshape(g.put("Sqrt", mean), -1, 1, 1, 1)


def _fading_mean(g: Nodes, config: ModelConfig, power: str, is_single: bool) -> str:
    """Fading means (T, 1) of powers (T, 1)."""
    decay = config.level_decay
    before, after = g.memory("level", 1, 2)
    floors = g.constant([LEVEL_SQUARE_TINY, LEVEL_TINY])
    if config.net.level_by_power:
        both = g.put("Concat", g.put("Mul", power, power), power, axis=1)
    else:
        both = g.put("Pad", power, g.constant([0, 0, 0, 1], np.int64), g.constant(1.0))
    faded = g.put("Mul", before, g.constant([decay]))
    if is_single:
        total = g.put("Max", g.put("Add", faded, both), floors, to=after)
    else:
        # sum_k a^(t-k) p[k] = a^t sum_k p[k] / a^k; MANY keeps the powers within float32.
        fade = np.power(decay, np.arange(MANY))[:, None]
        count = g.put("Shape", power, start=0, end=1)
        powers = g.put("Slice", g.constant(fade), g.constant([0], np.int64), count)
        risen = g.put("CumSum", g.put("Div", both, powers), g.constant(0, np.int64))
        total = g.put("Mul", powers, g.put("Add", risen, faded))
        total = g.put("Max", total, floors)
        g.take(total, -1, to=after)
    top, bottom = g.split(total, [1, 1], 1)
    return g.put("Div", top, bottom)


def _limited(g: Nodes, config: ModelConfig, power: str, is_single: bool) -> tuple[str, str]:
    """Powers (T, 1) limited to what lasts, and the least (T, 1) a level may be for pops."""
    window, rank = config.level_window, config.level_rank
    before, after = g.memory("level.recent", 1, window - 1)
    if is_single:
        recent = g.put("Concat", before, power, axis=1)
        g.take(recent, 1, axis=1, to=after)
    else:
        known = g.put("Concat", before, g.reshape(power, 1, -1), axis=1)
        g.take(known, 1 - window, axis=1, to=after)
        count = g.put("Squeeze", g.put("Shape", power, start=0, end=1))
        first, one = g.constant(0, np.int64), g.constant(1, np.int64)
        starts = g.reshape(g.put("Range", first, count, one), -1, 1)
        places = g.put("Add", starts, g.constant(np.arange(window), np.int64))
        recent = g.put("Gather", g.reshape(known, -1), places)
    best = f"{after}.largest"
    g.put_many("TopK", [recent, g.constant([rank], np.int64)], [best, f"{best}.places"])
    lasting = g.put("Mul", g.take(best, rank - 1, axis=1), g.constant([LEVEL_HEADROOM]))
    fallen = np.power(config.level_fall, np.arange(window)[::-1]) / LEVEL_HEADROOM
    pop = g.put("ReduceMax", g.put("Mul", recent, g.constant(fallen)), axes=[1], keepdims=1)
    return g.put("Min", power, lasting), pop
