"""The running level as ONNX nodes."""

from __future__ import annotations

import numpy as np

from rtmtass.config import LEVEL_HEADROOM, ModelConfig
from rtmtass.net.constants import LEVEL_FLOOR, LEVEL_SQUARE_TINY, LEVEL_TINY
from rtmtass.runtime.onnx.nodes import MAX_FRAMES, Nodes


def write_level(g: Nodes, config: ModelConfig, rows: str, *, is_single: bool) -> str:
    """Write the level (T, 1, 1, 1) of spectra (T, 2F); see `net.layers.RunningLevel`."""
    power = g.put("ReduceSumSquare", rows, axes=[1], keepdims=1)
    power = g.put("Mul", power, g.constant([1 / config.stft.n_bins]))
    pop = ""
    if config.level_window:
        power, pop = _limited(g, config, power, is_single)
    mean = _exponential_mean(g, config, power, is_single)
    if pop:
        mean = g.put("Max", mean, pop)
    mean = g.put("Add", mean, g.constant([LEVEL_FLOOR]))
    return g.reshape(g.put("Sqrt", mean), -1, 1, 1, 1)


def _exponential_mean(g: Nodes, config: ModelConfig, power: str, is_single: bool) -> str:
    """Exponential means (T, 1) of powers (T, 1)."""
    decay = config.level_decay
    old, new = g.state("level", 1, 2)
    floors = g.constant([LEVEL_SQUARE_TINY, LEVEL_TINY])
    if config.net.level_by_power:
        both = g.put("Concat", g.put("Mul", power, power), power, axis=1)
    else:
        both = g.put("Pad", power, g.constant([0, 0, 0, 1], np.int64), g.constant(1.0))
    decayed = g.put("Mul", old, g.constant([decay]))
    if is_single:
        total = g.put("Max", g.put("Add", decayed, both), floors, to=new)
    else:
        # sum_k a^(t-k) p[k] = a^t sum_k p[k] / a^k; MAX_FRAMES keeps the powers within float32.
        decays = np.power(decay, np.arange(MAX_FRAMES))[:, None]
        count = g.put("Shape", power, start=0, end=1)
        powers = g.put("Slice", g.constant(decays), g.constant([0], np.int64), count)
        summed = g.put("CumSum", g.put("Div", both, powers), g.constant(0, np.int64))
        total = g.put("Mul", powers, g.put("Add", summed, decayed))
        total = g.put("Max", total, floors)
        g.take(total, -1, to=new)
    top, bottom = g.split(total, [1, 1], 1)
    return g.put("Div", top, bottom)


def _limited(g: Nodes, config: ModelConfig, power: str, is_single: bool) -> tuple[str, str]:
    """Powers (T, 1) limited against pops, and the least (T, 1) that the mean may be."""
    window, rank = config.level_window, config.level_rank
    old, new = g.state("level.recent", 1, window - 1)
    if is_single:
        recent = g.put("Concat", old, power, axis=1)
        g.take(recent, 1, axis=1, to=new)
    else:
        known = g.put("Concat", old, g.reshape(power, 1, -1), axis=1)
        g.take(known, 1 - window, axis=1, to=new)
        count = g.put("Squeeze", g.put("Shape", power, start=0, end=1))
        first, one = g.constant(0, np.int64), g.constant(1, np.int64)
        starts = g.reshape(g.put("Range", first, count, one), -1, 1)
        indices = g.put("Add", starts, g.constant(np.arange(window), np.int64))
        recent = g.put("Gather", g.reshape(known, -1), indices)
    best = f"{new}.largest"
    g.put_many("TopK", [recent, g.constant([rank], np.int64)], [best, f"{best}.indices"])
    lasting = g.put("Mul", g.take(best, rank - 1, axis=1), g.constant([LEVEL_HEADROOM]))
    fallen = np.power(config.level_fall, np.arange(window)[::-1]) / LEVEL_HEADROOM
    pop = g.put("ReduceMax", g.put("Mul", recent, g.constant(fallen)), axes=[1], keepdims=1)
    return g.put("Min", power, lasting), pop
