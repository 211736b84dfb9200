"""The stems' expander as ONNX nodes."""

from __future__ import annotations

import numpy as np

from rtmtass.config import ModelConfig
from rtmtass.net.constants import EXPANDER_TINY
from rtmtass.runtime.onnx.nodes import MAX_FRAMES, Nodes


def write_expander(
    g: Nodes, config: ModelConfig, stems: str, mixture: str, *, to: str, is_single: bool
) -> None:
    """Write stems (T, S, 2, F), lowered, to `to`; see `net.expander.StemExpander`."""
    n_stems = len(config.stems)
    axes = g.constant([2, 3], np.int64)
    both = g.put("Concat", stems, mixture, axis=1)
    powers = g.put("ReduceSum", g.put("Mul", both, both), axes, keepdims=0)
    averages = zip(("short", "long"), config.expander_decays, strict=True)
    sums = [
        _sums(g, f"expander.{name}", powers, n_stems + 1, decay, is_single)
        for name, decay in averages
    ]
    parts = [g.split(one, [n_stems, 1], 1) for one in sums]
    share = g.put("Max", *(g.put("Div", part, whole) for part, whole in parts))
    share = g.put("Div", share, g.constant([config.expander_threshold]))
    root = g.put("Min", g.put("Sqrt", share), g.constant([1.0]))
    gain = root
    for _ in range(config.net.expander_ratio - 2):
        gain = g.put("Mul", gain, root)
    left = g.put("Mul", g.put("Mul", gain, gain), parts[0][0])
    axis = g.constant([1], np.int64)
    weight = g.put("Div", left, g.put("ReduceSum", left, axis, keepdims=1))
    gain, weight = (g.reshape(one, -1, n_stems, 1, 1) for one in (gain, weight))
    kept = g.put("Mul", gain, stems)
    removed = g.put("ReduceSum", g.put("Sub", stems, kept), axis, keepdims=1)
    g.put("Add", kept, g.put("Mul", weight, removed), to=to)


def _sums(g: Nodes, name: str, powers: str, width: int, decay: float, is_single: bool) -> str:
    """Return decaying sums of powers (T, width): y[t] = x[t] + decay * y[t-1]."""
    old, new = g.state(name, 1, width)
    tiny = g.constant([EXPANDER_TINY])
    if is_single:
        decayed = g.put("Mul", old, g.constant([decay]))
        return g.put("Max", g.put("Add", decayed, powers), tiny, to=new)
    table = g.constant(np.power(decay, np.arange(MAX_FRAMES)))
    zero, one = g.constant(0, np.int64), g.constant(1, np.int64)
    count = g.put("Squeeze", g.put("Shape", powers, start=0, end=1))
    number = g.put("Range", zero, count, one)
    age = g.put("Sub", g.reshape(number, -1, 1), g.reshape(number, 1, -1))
    weights = g.put("Trilu", g.put("Gather", table, g.put("Max", age, zero)), upper=0)
    fade = g.put("Mul", g.put("Gather", table, g.reshape(number, -1, 1)), g.constant([decay]))
    total = g.put("Add", g.put("MatMul", weights, powers), g.put("Mul", fade, old))
    total = g.put("Max", total, tiny)
    g.take(total, -1, to=new)
    return total
