"""Loss and gradient metrics of training steps, accumulated on the device without waiting for it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Figures:
    """Metrics of the steps between two reads.

    Attributes:
        loss_sum, good: sum and number of the losses, skipped steps excluded.
        skipped: steps whose loss or gradient wasn't finite.
        in_a_row: longest run of skipped steps; it may have begun before the first of
            these steps.
        loss, norm: loss and gradient norm of the last step, skipped or not.
        bad_loss, bad_norm: the same of the last skipped step.
    """

    loss_sum: float
    good: int
    skipped: int
    in_a_row: int
    loss: float
    norm: float
    bad_loss: float
    bad_norm: float


class MetricAccumulator:
    """Accumulates losses and skipped steps on the device; only `read` waits for it."""

    def __init__(self, device: torch.device) -> None:
        self.values = torch.zeros(9, dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, loss: Tensor, norm: Tensor, is_good: Tensor) -> None:
        """Add one step.

        Args:
            loss, norm: scalars on the device.
            is_good: a single bool on the device; false for a skipped step.
        """
        loss, norm = loss.double(), norm.double()
        loss_sum, good, skipped, run, longest, _, _, bad_loss, bad_norm = self.values.unbind()
        one = is_good.double()
        run = torch.where(is_good, 0.0, run + 1)
        updated = [
            loss_sum + torch.where(is_good, loss, 0.0),
            good + one,
            skipped + (1 - one),
            run,
            torch.maximum(longest, run),
            loss,
            norm,
            torch.where(is_good, bad_loss, loss),
            torch.where(is_good, bad_norm, norm),
        ]
        self.values.copy_(torch.stack(updated))

    def read(self) -> Figures:
        """Return the figures since the last `read` and reset them."""
        loss_sum, good, skipped, run, longest, *last = self.values.tolist()
        self.values.zero_()
        self.values[3:5] = run  # a run of skipped steps may go on
        return Figures(loss_sum, round(good), round(skipped), round(longest), *last)


class Meter:
    """Losses and steps since the last log row, on the host.

    Attributes:
        since: start time, by time.monotonic().
        steps: steps since then.
    """

    def __init__(self, since: float | None = None) -> None:
        self.since = time.monotonic() if since is None else since
        self.steps, self._sum, self._good = 0, 0.0, 0

    def add(self, figures: Figures, steps: int) -> None:
        """Add the figures of `steps` steps."""
        self._sum, self._good = self._sum + figures.loss_sum, self._good + figures.good
        self.steps += steps

    @property
    def mean(self) -> float:
        """Mean loss of the steps that weren't skipped; NaN if there are none."""
        return self._sum / self._good if self._good else math.nan
