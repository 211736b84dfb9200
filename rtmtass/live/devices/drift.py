"""Keeps two devices in step whose clocks differ, by how full the buffer between them is."""

from __future__ import annotations


class DriftControl:
    """Finds the ratio of two clocks from how full the buffer between them is.

    A proportional-integral controller: critically damped, slow enough that the
    pitch never audibly moves, and limited to `LIMIT`. What it needs is a fill
    that doesn't jump with the blocks: see `update`.

    Args:
        target: samples that should wait in the buffer.
        rate: of these samples, in Hz.
    """

    LIMIT = 1e-3
    """Clocks of devices differ by 1e-4 at worst; 1e-3 is two hundredths of a semitone."""
    SETTLE_S = 4.0

    def __init__(self, target: float, rate: int) -> None:
        self.target, self.rate = target, rate
        self.reset()

    def reset(self) -> None:
        """Forget what was measured, and what was learned of the clocks."""
        self._smooth: float | None = None
        self._integral = 0.0

    def update(self, fill: float, elapsed_s: float) -> float:
        """Return the ratio to produce at from now on.

        Args:
            fill: samples waiting, less what the reader has played of its
                current block: so it falls steadily, not in blocks.
            elapsed_s: since the last call.
        """
        error_s = (self.target - fill) / self.rate
        if self._smooth is None:
            self._smooth = error_s
        # Two poles for the loop, and one before it that takes the jitter of the threads away.
        self._smooth += (error_s - self._smooth) * min(1.0, elapsed_s * 8 / self.SETTLE_S)
        proportional = self._smooth * 2 / self.SETTLE_S
        integral = self._integral + self._smooth * elapsed_s / self.SETTLE_S**2
        self._integral = max(-self.LIMIT, min(self.LIMIT, integral))
        correction = max(-self.LIMIT, min(self.LIMIT, proportional + self._integral))
        return 1.0 + correction

    @property
    def drift_ppm(self) -> float:
        """How much faster the reader's clock runs than the writer's, as far as known."""
        return 1e6 * self._integral
