"""Slots keep their own pace, with the bits of separators of their own."""

from __future__ import annotations

import time

import numpy as np
import pytest
from networks import SUBBANDS, arrays, seasoned, tiny

from rtmtass.config import PRECISIONS
from rtmtass.runtime.compiled.runtime import CompiledRuntime
from rtmtass.separator import Separator
from rtmtass.serve import clock
from rtmtass.serve.metrics import Metrics
from rtmtass.serve.protocol import Hello
from rtmtass.serve.slots import Slots, _ranges
from rtmtass.serve.stream import ServedStream

CONFIGS = {
    "recurrent": tiny(),
    "lookahead": tiny(lookahead=2),
    "subbands": tiny(**SUBBANDS),
    "pops": tiny(level_pop_s=0.02),
    "expander": tiny(expander_db=-5.0),
    "multiscale": tiny("multiscale"),
    "bands": tiny("bands"),
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


def test_a_stream_that_lags_catches_up_at_full_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though no time is left it has two hops a tick; one whose next hop is early has one."""
    monkeypatch.setattr(clock, "_SPARE", -1.0)
    net = seasoned(CONFIGS["recurrent"])
    slots = Slots(net.config, CompiledRuntime(net.config, arrays(net), "f32"), 2)
    ticks: list[clock.Tick] = []
    ours = clock.Clock(slots, slots.hop / slots.sample_rate, ticks.append, raised, Metrics())
    hello = Hello(slots.sample_rate)
    early, lagging = ServedStream(hello, slots), ServedStream(hello, slots)
    for stream, hops in ((early, 3), (lagging, 6)):
        stream.add(np.zeros((hops * slots.hop, 1), np.float32))
        ours.add(clock.Member(stream))
    taken = []
    for _ in range(4):
        ours._change()
        ours._tick(time.monotonic())
        taken.append((early.n_taken // slots.hop, lagging.n_taken // slots.hop))
    assert taken == [(2, 1), (3, 3), (3, 5), (3, 6)]
    assert sum(tick.channels for tick in ticks) == 9
    assert not any(tick.is_extra and tick.channels > 1 for tick in ticks)


def raised(error: BaseException) -> None:
    raise error


def test_neighbours_run_in_one_call() -> None:
    assert list(_ranges([], 4)) == []
    assert list(_ranges([3], 4)) == [(3, 4)]
    assert list(_ranges([0, 1, 2, 5, 6, 8], 4)) == [(0, 3), (5, 7), (8, 9)]
    assert list(_ranges(range(10), 4)) == [(0, 4), (4, 8), (8, 10)]
