"""Late hops: how long the input is output instead, and what is advised."""

from __future__ import annotations

import pytest

from rtmtass.live.overload import OverloadPolicy
from rtmtass.live.stats import StepTimes


def input_hops(policy, start, n=400):
    return sum(policy.uses_input(number) for number in range(start, start + n))


def test_the_hold_after_a_miss_doubles_while_misses_recur():
    policy, number, lengths = OverloadPolicy(settling=1), 100, []
    for _ in range(7):
        policy.add_miss(number)
        lengths.append(input_hops(policy, number))
        number += lengths[-1]
    assert lengths == [4, 8, 16, 32, 64, 64, 64]
    policy.add_miss(number + 1000)
    assert input_hops(policy, number + 1000) == 4
    assert (policy.misses, policy.skipped) == (8, 0)


def test_the_input_is_output_until_the_stems_have_settled():
    policy = OverloadPolicy(settling=9)
    policy.add_skip(50)
    assert input_hops(policy, 50) == 10
    policy.add_discontinuity(200)
    assert input_hops(policy, 200) == 9
    assert (policy.misses, policy.skipped) == (0, 1)


@pytest.mark.parametrize(("recent_ms", "text"), [
    (13.0, "a step takes 13.0 of 16 ms; close other programs, or start with --precision int8"),
    (2.0, "though one takes only 2.0 ms: add --extra-buffer 10, a larger --block, or"),
])  # fmt: skip
def test_advice_appears_while_many_hops_are_late(recent_ms, text):
    policy, steps = OverloadPolicy(1), StepTimes(deadline_ms=16.0, recent_ms=recent_ms)
    policy.update(was_late=True)
    assert policy.advice(steps) == ""
    for _ in range(200):
        policy.update(was_late=True)
    assert text in policy.advice(steps)
    for _ in range(3000):
        policy.update(was_late=False)
    assert policy.advice(steps) == ""
