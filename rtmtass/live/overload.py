"""What becomes of hops that come too late: the input stands in for them, no longer than it must."""

from __future__ import annotations

from rtmtass.live.stats import StepTimes

_HOLD_HOPS, _LONGEST_HOLD_HOPS = 4, 64
"""How long the input stays after a miss; doubled while misses come back."""
_RECENT_HOPS = 600.0
_TOO_MANY = 0.05
_TOO_SLOW = 0.7


class OverloadPolicy:
    """Decides which hops are heard as input, counts why, and knows what would help.

    Args:
        settling: hops after a break until the stems are those of what came behind it.

    Attributes:
        misses: hops whose stems came too late.
        skipped: hops that were never begun, as the computer was too far behind.
    """

    def __init__(self, settling: int) -> None:
        self._settling = settling
        self.misses = self.skipped = 0
        self._clean_from = self._held_until = self._last_miss = 0
        self._hold = _HOLD_HOPS
        self._late_share = 0.0

    def is_held(self, number: int) -> bool:
        """Whether hop `number` is heard as input, whatever becomes of its stems."""
        return number < self._held_until or number < self._clean_from

    def miss(self, number: int) -> None:
        """The stems of hop `number` came too late."""
        self.misses += 1
        self._stay(number)

    def skip(self, number: int) -> None:
        """Hop `number` was never separated, so for a while the stems know no true past."""
        self.skipped += 1
        self._stay(number)
        self._clean_from = number + 1 + self._settling

    def break_off(self, number: int) -> None:
        """With hop `number` the input goes on elsewhere; that is nobody's fault here."""
        self._clean_from = number + self._settling

    def note(self, was_late: bool) -> None:
        """Remember of every hop whether it was late; for the advice."""
        self._late_share += (was_late - self._late_share) / _RECENT_HOPS

    def _stay(self, number: int) -> None:
        """Stay with the input for a while, longer if this happens again and again."""
        is_again = number - self._last_miss < 2 * self._hold + _HOLD_HOPS and self._last_miss
        self._hold = min(2 * self._hold, _LONGEST_HOLD_HOPS) if is_again else _HOLD_HOPS
        self._last_miss = number
        self._held_until = number + self._hold

    def advice(self, steps: StepTimes) -> str:
        """Return what to change if hops have been late for long; else nothing."""
        if self._late_share < _TOO_MANY:
            return ""
        step_ms, hop_ms = steps.recent_ms, steps.deadline_ms
        if step_ms > _TOO_SLOW * hop_ms:
            return (
                f"this computer is too slow: a step takes {step_ms:.1f} of {hop_ms:.0f} ms;"
                " close other programs, or start with --precision int8"
            )
        return (
            f"{100 * self._late_share:.0f} % of the steps come too late, though one takes only"
            f" {step_ms:.1f} ms: add --extra-buffer 10, a larger --block, or --precision int8;"
            " rtmtass doctor says more"
        )
