"""Hops that come too late: how long the input stands in, and what is advised."""

from __future__ import annotations

import pytest

from rtmtass.live.overload import OverloadPolicy
from rtmtass.live.stats import StepTimes


def held(late, start, n=400):
    return sum(late.is_held(number) for number in range(start, start + n))


def test_one_miss_costs_a_moment_and_repeated_ones_longer_each_time():
    late, number, lengths = OverloadPolicy(settling=1), 100, []
    for _ in range(7):
        late.miss(number)
        lengths.append(held(late, number))
        number += lengths[-1]
    assert lengths == [4, 8, 16, 32, 64, 64, 64]
    late.miss(number + 1000)
    assert held(late, number + 1000) == 4
    assert (late.misses, late.skipped) == (8, 0)


def test_what_was_never_separated_or_broke_off_is_waited_for():
    late = OverloadPolicy(settling=9)
    late.skip(50)
    assert held(late, 50) == 10
    late.break_off(200)
    assert held(late, 200) == 9
    assert (late.misses, late.skipped) == (0, 1)


@pytest.mark.parametrize(("recent_ms", "said"), [
    (13.0, "a step takes 13.0 of 16 ms; close other programs, or start with --precision int8"),
    (2.0, "though one takes only 2.0 ms: add --extra-buffer 10, a larger --block, or"),
])  # fmt: skip
def test_advice_comes_when_it_lasts_and_goes_when_it_is_over(recent_ms, said):
    late, steps = OverloadPolicy(1), StepTimes(deadline_ms=16.0, recent_ms=recent_ms)
    late.note(True)
    assert late.advice(steps) == ""
    for _ in range(200):
        late.note(True)
    assert said in late.advice(steps)
    for _ in range(3000):
        late.note(False)
    assert late.advice(steps) == ""
