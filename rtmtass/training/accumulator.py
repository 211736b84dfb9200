"""What training steps came to, added up where they are computed, so that nothing waits for them."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Figures:
    """What a stretch of steps came to.

    Attributes:
        loss_sum, good: the losses' sum, and how many there are, skipped steps left out.
        skipped: steps without a finite loss and gradient.
        in_a_row: the most of these without a good one between them; it may have begun
            before the stretch.
        loss, norm: of the last step, skipped or not.
        bad_loss, bad_norm: of the last one that was skipped.
    """

    loss_sum: float
    good: int
    skipped: int
    in_a_row: int
    loss: float
    norm: float
    bad_loss: float
    bad_norm: float


class Tally:
    """Adds up losses and skipped steps on the device; only `read` waits for it."""

    def __init__(self, device: torch.device) -> None:
        self.values = torch.zeros(9, dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, loss: Tensor, norm: Tensor, is_good: Tensor) -> None:
        """Count a step in."""
        loss, norm = loss.double(), norm.double()
        loss_sum, good, skipped, row, longest, _, _, bad_loss, bad_norm = self.values.unbind()
        one = is_good.double()
        row = torch.where(is_good, 0.0, row + 1)
        found = [
            loss_sum + torch.where(is_good, loss, 0.0),
            good + one,
            skipped + (1 - one),
            row,
            torch.maximum(longest, row),
            loss,
            norm,
            torch.where(is_good, bad_loss, loss),
            torch.where(is_good, bad_norm, norm),
        ]
        self.values.copy_(torch.stack(found))

    def read(self) -> Figures:
        """Return the figures since the last `read`, and begin anew."""
        loss_sum, good, skipped, row, longest, *last = self.values.tolist()
        self.values.zero_()
        self.values[3:5] = row
        return Figures(loss_sum, round(good), round(skipped), round(longest), *last)


class Meter:
    """Losses and steps since the last note, on the host.

    Attributes:
        since: when it began, by time.monotonic().
        steps: so many since then.
    """

    def __init__(self, since: float | None = None) -> None:
        self.since = time.monotonic() if since is None else since
        self.steps, self._sum, self._good = 0, 0.0, 0

    def add(self, figures: Figures, steps: int) -> None:
        """Count a stretch of steps in."""
        self._sum, self._good = self._sum + figures.loss_sum, self._good + figures.good
        self.steps += steps

    @property
    def mean(self) -> float:
        """The mean loss of the steps that weren't skipped; NaN without any."""
        return self._sum / self._good if self._good else math.nan
