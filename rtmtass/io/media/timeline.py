"""The times of decoded samples: where a track starts, and where it has gaps."""

from __future__ import annotations

from fractions import Fraction

GAP_S = Fraction(1, 10)
"""A shorter one is rounding of the container's times, or drift between two clocks."""


class Timeline:
    """Follows the times of decoded frames.

    Attributes:
        start: time of the first sample in seconds; 0 if the file has no times.
        gaps: (samples before it, length in samples) of each gap.
        position: samples so far.
    """

    def __init__(self) -> None:
        self.start = Fraction(0)
        self.gaps: list[tuple[int, int]] = []
        self.position = 0
        self._filled = 0  # samples of all gaps

    def add(self, time: Fraction | None, samples: int, sample_rate: int) -> None:
        """Add a frame; `time` is that of its first sample in seconds, None if unknown."""
        if time is not None:
            if not self.position:
                self.start = time
            expected = self.start + Fraction(self.position + self._filled, sample_rate)
            if time - expected > GAP_S:
                missing = round((time - expected) * sample_rate)
                self.gaps.append((self.position, missing))
                self._filled += missing
        self.position += samples
