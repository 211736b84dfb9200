"""Decides which hops are output as input because stems are late, and advises what to change."""

from __future__ import annotations

from rtmtass.live.stats import StepTimes

_HOLD_HOPS, _LONGEST_HOLD_HOPS = 4, 64
"""Hops of input after a miss; doubled while misses recur."""
_RECENT_HOPS = 600.0
"""Time constant of the fraction of late hops."""
_TOO_MANY_LATE = 0.05
_TOO_SLOW = 0.7
"""Fraction of a hop that a step may take before the computer counts as too slow."""


class OverloadPolicy:
    """Decides which hops output the input instead of stems, and counts the reasons.

    Args:
        settling: hops after a discontinuity until stems no longer depend on what was before.

    Attributes:
        misses: hops whose stems were late.
        skipped: hops never separated, because the worker was too far behind.
    """

    def __init__(self, settling: int) -> None:
        self._settling = settling
        self.misses = self.skipped = 0
        self._settled_from = self._input_until = self._last_miss = 0
        self._hold = _HOLD_HOPS
        self._late_fraction = 0.0

    def uses_input(self, number: int) -> bool:
        """Return whether hop `number` outputs the input, even if its stems are on time."""
        return number < self._input_until or number < self._settled_from

    def add_miss(self, number: int) -> None:
        """Count hop `number`, whose stems were late."""
        self.misses += 1
        self._hold_input(number)

    def add_skip(self, number: int) -> None:
        """Count hop `number`, never separated; the stems after it lack its context for a while."""
        self.skipped += 1
        self._hold_input(number)
        self._settled_from = number + 1 + self._settling

    def add_discontinuity(self, number: int) -> None:
        """Let the stems settle after a gap in the input at hop `number`; not counted as a miss."""
        self._settled_from = number + self._settling

    def update(self, *, was_late: bool) -> None:
        """Update the fraction of late hops with one hop; for `advice`."""
        self._late_fraction += (was_late - self._late_fraction) / _RECENT_HOPS

    def _hold_input(self, number: int) -> None:
        """Output the input for a while, longer if misses recur."""
        recurs = number - self._last_miss < 2 * self._hold + _HOLD_HOPS and self._last_miss
        self._hold = min(2 * self._hold, _LONGEST_HOLD_HOPS) if recurs else _HOLD_HOPS
        self._last_miss = number
        self._input_until = number + self._hold

    def advice(self, steps: StepTimes) -> str:
        """Return what to change if many recent hops were late, else an empty string."""
        if self._late_fraction < _TOO_MANY_LATE:
            return ""
        step_ms, hop_ms = steps.recent_ms, steps.deadline_ms
        if step_ms > _TOO_SLOW * hop_ms:
            return (
                f"this computer is too slow: a step takes {step_ms:.1f} of {hop_ms:.0f} ms;"
                " close other programs, or start with --precision int8"
            )
        return (
            f"{100 * self._late_fraction:.0f} % of the steps are late, though one takes only"
            f" {step_ms:.1f} ms: add --extra-buffer 10, a larger --block, or --precision int8;"
            " see rtmtass doctor"
        )
