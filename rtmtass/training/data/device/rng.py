"""Random numbers for whole batches on a device, and selection of the rows to change.

No module of this package reads a value back from the device, as on a GPU the host would
then wait until all queued work is done. So shapes never depend on random draws: a change
of few rows is computed for a fixed number of rows, which almost always suffices;
surplus rows aren't changed.
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rtmtass.training.data.recipe import Range

OVERFLOW = 1e-4
"""Probability that a batch has more rows to change than `capacity`, at most."""

_POOL = 1 << 15


class Draws:
    """Random numbers on a device; after `restart` they are a function of seed and step.

    A CPU and a GPU have different generators and draw different numbers.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._generator = torch.Generator(device)
        self._pool = torch.empty(0, device=device)
        self._at = 0

    def restart(self, seed: int, step: int) -> None:
        """Seed the generator for a step."""
        digest = hashlib.sha256(f"{seed}|{step}".encode()).digest()
        self._generator.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        self._pool, self._at = self._pool[:0], 0

    def uniform(self, *shape: int) -> Tensor:
        """Return uniform numbers in [0, 1), float32."""
        n = math.prod(shape)
        if self._at + n > len(self._pool):  # pooled: one kernel serves many small draws
            size = max(n, _POOL)
            self._pool = torch.rand(size, generator=self._generator, device=self._device)
            self._at = 0
        drawn = self._pool[self._at : self._at + n].view(shape)
        self._at += n
        return drawn

    def between(self, n: int, *ranges: Range) -> Tensor:
        """Return `n` uniform numbers from each range, (ranges, n) float32."""
        low, span = _bounds(ranges, self._device)
        return torch.addcmul(low, self.uniform(len(ranges), n), span)

    def log_between(self, n: int, *ranges: Range) -> Tensor:
        """Return `n` log-uniform numbers from each range, (ranges, n) float32."""
        logs = [(math.log(low), math.log(high)) for low, high in ranges]
        return self.between(n, *logs).exp_()

    def normal(self, *shape: int) -> Tensor:
        """Return normal numbers of mean 0 and deviation 1, float32."""
        return torch.randn(shape, generator=self._generator, device=self._device)

    def hits(self, prob: float, *shape: int) -> Tensor:
        """Return booleans, each true with probability `prob`."""
        return self.uniform(*shape) < prob

    def below(self, limit: Tensor) -> Tensor:
        """Return uniform integers from 0 to `limit` - 1, int64 of the limit's shape."""
        return (self.uniform(*limit.shape).double() * limit).long()


@lru_cache(maxsize=256)
def _bounds(ranges: tuple[Range, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the lower ends and the widths of ranges on a device, (ranges, 1) each."""
    low, high = torch.tensor(ranges, dtype=torch.float32).T[:, :, None]
    return low.to(device), (high - low).to(device)


@lru_cache(maxsize=64)
def constant(value: float, device: torch.device) -> Tensor:
    """Return a number as a tensor on a device, () float32, which avoids a copy at each use."""
    return torch.tensor(value, device=device)


@lru_cache(maxsize=256)
def capacity(*groups: tuple[int, float]) -> int:
    """Return a number of hits that is exceeded with probability `OVERFLOW` at most.

    Args:
        groups: number of rows, and the probability of a hit for each of them.
    """
    distribution = np.ones(1)
    for count, prob in groups:
        distribution = np.convolve(distribution, _binomial(count, min(max(prob, 0.0), 1.0)))
    at_least = np.cumsum(distribution[::-1])[::-1]  # at_least[k]: probability of k or more
    return int((at_least[1:] > OVERFLOW).sum())


def _binomial(count: int, prob: float) -> NDArray[np.float64]:
    """Return the probabilities of 0 to `count` hits."""
    if prob in (0.0, 1.0):
        certain = np.zeros(count + 1)
        certain[round(prob) * count] = 1.0
        return certain
    k = np.arange(count + 1)
    log_factorial = np.array([math.lgamma(j + 1) for j in k])
    log_choose = log_factorial[-1] - log_factorial - log_factorial[::-1]
    logs = log_choose + k * math.log(prob) + (count - k) * math.log1p(-prob)
    return np.asarray(np.exp(logs), np.float64)


def pick(is_hit: Tensor, n_rows: int) -> tuple[Tensor, Tensor]:
    """Return `n_rows` different rows, those that are hit first.

    Args:
        is_hit: (R,) bool.
        n_rows: at most R; see `capacity`.

    Returns:
        The rows, (n_rows,) int64, and whether each is hit, (n_rows,) bool.
    """
    if n_rows == len(is_hit):
        return torch.arange(n_rows, device=is_hit.device), is_hit
    rows = torch.argsort(is_hit.to(torch.uint8), descending=True, stable=True)[:n_rows]
    return rows, is_hit[rows]


def replace_rows(samples: Tensor, rows: Tensor, is_hit: Tensor, new: Tensor) -> None:
    """Replace rows of `samples` (R, N) by those of `new` (C, N) where `is_hit` (C,), in place."""
    kept = samples.index_select(0, rows)
    samples.index_copy_(0, rows, torch.where(is_hit[:, None], new, kept))


def amplitude(level_db: Tensor) -> Tensor:
    """Return the amplitude of a level in dB."""
    return torch.pow(10 ** (1 / 20), level_db)
