"""Slots keep their own pace, with the bits of separators of their own."""

from __future__ import annotations

import numpy as np
import pytest
from networks import SUBBANDS, arrays, seasoned, tiny

from rtmtass.config import PRECISIONS
from rtmtass.runtime.compiled.runtime import CompiledRuntime
from rtmtass.separator import Separator
from rtmtass.serve.slots import Slots, _ranges

CONFIGS = {
    "recurrent": tiny(),
    "lookahead": tiny(lookahead=2),
    "subbands": tiny(**SUBBANDS),
    "pops": tiny(level_pop_s=0.02),
    "multiscale": tiny("multiscale"),
}
N = 7


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", CONFIGS)
def test_slots_that_sit_out_hops_have_the_bits_of_separators(kind: str, precision: str) -> None:
    """Random slots run, move and start again; half of them also return highband weights."""
    net = seasoned(CONFIGS[kind])
    runtime = CompiledRuntime(net.config, arrays(net), precision)
    slots = Slots(net.config, runtime, N, width=4)
    alone = [Separator(net.config, runtime, block=slots.hop) for _ in range(N)]
    assert slots.delay == alone[0].delay
    rng = np.random.default_rng(5)
    for step in range(150):
        active = sorted(rng.choice(N, rng.integers(1, N + 1), replace=False).tolist())
        slots.inputs[:] = 0.1 * rng.standard_normal(slots.inputs.shape)
        slots.run(active, set(active[::2]))
        for slot in active:
            stems, weights = alone[slot].process_with_highband(slots.inputs[slot])
            np.testing.assert_array_equal(slots.outputs[slot], stems)
            if slot in active[::2]:
                np.testing.assert_array_equal(slots.highband_weights[slot], weights)
        a, b = rng.choice(N, 2, replace=False).tolist()
        if step % 3 == 0:
            slots.swap(a, b)
            alone[a], alone[b] = alone[b], alone[a]
        elif step % 11 == 0:
            slots.reset(a)
            alone[a].reset()


def test_neighbours_run_in_one_call() -> None:
    assert list(_ranges([], 4)) == []
    assert list(_ranges([3], 4)) == [(3, 4)]
    assert list(_ranges([0, 1, 2, 5, 6, 8], 4)) == [(0, 3), (5, 7), (8, 9)]
    assert list(_ranges(range(10), 4)) == [(0, 4), (4, 8), (8, 10)]
