"""Drift compensation between two device clocks, from the fill of the buffer between them."""

from __future__ import annotations


class DriftControl:
    """Estimates the ratio of two clocks from the fill of the buffer between them.

    A proportional-integral controller: critically damped, slow enough that the pitch change is
    inaudible, and limited to `LIMIT`. Its input must not jump with the blocks: see `update`.

    Args:
        target: fill to hold, in samples.
        rate: of these samples, in Hz.
    """

    LIMIT = 1e-3
    """Device clocks differ by at most about 1e-4; 1e-3 is two hundredths of a semitone."""
    SETTLE_S = 4.0

    def __init__(self, target: float, rate: int) -> None:
        self.target, self.rate = target, rate
        self.reset()

    def reset(self) -> None:
        """Clear the estimate."""
        self._smooth: float | None = None
        self._integral = 0.0

    def update(self, fill: float, elapsed_s: float) -> float:
        """Return the ratio to resample by from now on.

        Args:
            fill: samples in the buffer, less what the reader has played of its current block:
                so it falls steadily, not in blocks.
            elapsed_s: since the last call.
        """
        error_s = (self.target - fill) / self.rate
        if self._smooth is None:
            self._smooth = error_s
        # Two poles for the loop, and one before it against the jitter of the threads.
        self._smooth += (error_s - self._smooth) * min(1.0, elapsed_s * 8 / self.SETTLE_S)
        proportional = self._smooth * 2 / self.SETTLE_S
        integral = self._integral + self._smooth * elapsed_s / self.SETTLE_S**2
        self._integral = max(-self.LIMIT, min(self.LIMIT, integral))
        correction = max(-self.LIMIT, min(self.LIMIT, proportional + self._integral))
        return 1.0 + correction

    @property
    def drift_ppm(self) -> float:
        """Estimate of how much faster the reader's clock runs than the writer's."""
        return 1e6 * self._integral
