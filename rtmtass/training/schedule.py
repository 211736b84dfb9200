"""Learning-rate schedules, and what `minutes` and `steps` limit: a run, a session or a branch.

A *run* with the schedule "cosine", or "wsd" with a decay, has a length, and its rate
depends on the fraction done. A *trunk*, "wsd" with decay = 0, has none: its rate is
constant over any number of sessions, and `minutes` and `steps` are the length of each
*session*, that is one `rtmtass train`. A *branch* is a copy of a trunk with its own
length, over which the rate falls.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from rtmtass.training.config import TrainConfig

LOWEST = 0.01
"""Final rate of every decay, as a fraction of the peak rate."""


@dataclass(frozen=True)
class Span:
    """The part of the training that `minutes` and `steps` limit.

    Attributes:
        minutes, steps: its length; the first one reached ends it, 0 is no limit.
        first_step, first_s: steps and seconds of training before it; 0 for a run with a
            length.
    """

    minutes: float
    steps: int
    first_step: int = 0
    first_s: float = 0.0

    def done(self, step: int, elapsed_s: float) -> float:
        """Return the fraction done, 0..1; 0 without a limit."""
        done = 0.0
        if self.minutes:
            done = max(done, (elapsed_s - self.first_s) / 60 / self.minutes)
        if self.steps:
            done = max(done, (step - self.first_step) / self.steps)
        return min(done, 1.0)

    def minutes_left(self, step: int, elapsed_s: float) -> float:
        """Return the minutes left at the average speed so far; infinite without a limit."""
        done = self.done(step, elapsed_s)
        return (elapsed_s - self.first_s) / 60 * (1 / done - 1) if done else math.inf


@dataclass(frozen=True)
class Branch:
    """Branch point; stored in the branch's checkpoints.

    Attributes:
        step, elapsed_s: the trunk's steps and seconds of training.
        rate: the trunk's learning rate, from which the branch's falls.
    """

    step: int
    elapsed_s: float
    rate: float


@dataclass(frozen=True)
class Schedule:
    """The learning rate of every step of a run, a trunk or a branch.

    Attributes:
        kind: "cosine", "wsd" or "branch".
        rate: peak rate.
        warmup_steps: steps of linear warm-up.
        decay: final fraction of a "wsd" run, 0..1, over which the rate falls linearly.
        span: the part of the training that `minutes` and `steps` limit.

    Source: warm-up, stable, decay: Hu et al., "MiniCPM", arXiv 2404.06395. A branch
    falls by 1 - sqrt(t), which Hägele et al., arXiv 2405.18392, section 3, found better
    than a linear decay at every length they tried.
    """

    kind: str
    rate: float
    warmup_steps: int
    decay: float
    span: Span

    def learning_rate(self, step: int, elapsed_s: float) -> float:
        """Return the rate after `step` steps and `elapsed_s` seconds of training."""
        done = self.span.done(step, elapsed_s)
        if self.kind == "branch":
            return self.rate * _above_lowest(1 - math.sqrt(done))
        rate = self.rate * min(1.0, (step + 1) / max(1, self.warmup_steps))
        if self.kind == "cosine":
            return rate * _above_lowest(0.5 * (1 + math.cos(math.pi * done)))
        if not self.decay:
            return rate
        return rate * _above_lowest(min(1.0, (1 - done) / self.decay))


def _above_lowest(fraction: float) -> float:
    """Map 1..0 to 1..`LOWEST`."""
    return LOWEST + (1 - LOWEST) * fraction


def schedule_of(
    config: TrainConfig, step: int = 0, elapsed_s: float = 0.0, branch: Branch | None = None
) -> Schedule:
    """Return the schedule of a session.

    Args:
        config: the run's; for a branch with the branch's length in `minutes` and `steps`.
        step, elapsed_s: steps and seconds of training before this session; used only for
            a trunk.
        branch: the branch point, if this run is a branch.
    """
    bounds: dict[str, Any] = {"minutes": config.minutes, "steps": config.steps}
    if branch is not None:
        span = Span(**bounds, first_step=branch.step, first_s=branch.elapsed_s)
        return Schedule("branch", branch.rate, 0, 0.0, span)
    span = Span(**bounds)
    if config.is_trunk:
        span = Span(**bounds, first_step=step, first_s=elapsed_s)
    return Schedule(config.schedule, config.learning_rate, config.warmup_steps, config.decay, span)
