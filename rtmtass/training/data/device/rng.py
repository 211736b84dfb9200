"""Random numbers for whole batches on a device, and which rows of a batch they befall.

Nothing here, nor in the other `device_` modules, reads a value back from the device:
on a GPU that would stop the host until all queued work is done. Shapes therefore never
depend on what was drawn. What befalls few rows is computed for a fixed number of rows,
which is hardly ever too small; rows beyond it are then left as they are.
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
"""How often, at most, a batch has more rows to be changed than `capacity` provides for."""

_POOL = 1 << 15


class Draws:
    """Random numbers on a device; after `restart` they are a function of seed and step.

    The CPU and a GPU have different generators, and so draw different numbers.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._generator = torch.Generator(device)
        self._pool = torch.empty(0, device=device)
        self._at = 0

    def restart(self, seed: int, step: int) -> None:
        """Begin the numbers of a step."""
        digest = hashlib.sha256(f"{seed}|{step}".encode()).digest()
        self._generator.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        self._pool, self._at = self._pool[:0], 0

    def uniform(self, *shape: int) -> Tensor:
        """Return numbers from [0, 1), float32."""
        n = math.prod(shape)
        if self._at + n > len(self._pool):  # a pool: one kernel for many small draws
            size = max(n, _POOL)
            self._pool = torch.rand(size, generator=self._generator, device=self._device)
            self._at = 0
        drawn = self._pool[self._at : self._at + n].view(shape)
        self._at += n
        return drawn

    def between(self, n: int, *ranges: Range) -> Tensor:
        """Return `n` numbers from each range, uniform in it, (ranges, n) float32."""
        low, span = _bounds(ranges, self._device)
        return torch.addcmul(low, self.uniform(len(ranges), n), span)

    def log_between(self, n: int, *ranges: Range) -> Tensor:
        """Return `n` numbers from each range, uniform in their logarithm, (ranges, n) float32."""
        logs = [(math.log(low), math.log(high)) for low, high in ranges]
        return self.between(n, *logs).exp_()

    def normal(self, *shape: int) -> Tensor:
        """Return numbers of mean 0 and deviation 1, float32."""
        return torch.randn(shape, generator=self._generator, device=self._device)

    def hits(self, share: float, *shape: int) -> Tensor:
        """Return booleans, true for a `share` of them."""
        return self.uniform(*shape) < share

    def below(self, limit: Tensor) -> Tensor:
        """Return integers from 0 to `limit` - 1, int64 of the limit's shape."""
        return (self.uniform(*limit.shape).double() * limit).long()


@lru_cache(maxsize=256)
def _bounds(ranges: tuple[Range, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the lower ends and the widths of ranges on a device, (ranges, 1) each."""
    low, high = torch.tensor(ranges, dtype=torch.float32).T[:, :, None]
    return low.to(device), (high - low).to(device)


@lru_cache(maxsize=64)
def constant(value: float, device: torch.device) -> Tensor:
    """Return a number on a device, () float32; a bare one would be sent there at each use."""
    return torch.tensor(value, device=device)


@lru_cache(maxsize=256)
def capacity(*groups: tuple[int, float]) -> int:
    """Return a number of rows that is exceeded with a chance of `OVERFLOW` only.

    Args:
        groups: how many rows there are, and the share of them that is befallen.
    """
    chance = np.ones(1)
    for count, share in groups:
        chance = np.convolve(chance, _binomial(count, min(max(share, 0.0), 1.0)))
    at_least = np.cumsum(chance[::-1])[::-1]  # at_least[k]: the chance of k or more
    return int((at_least[1:] > OVERFLOW).sum())


def _binomial(count: int, share: float) -> NDArray[np.float64]:
    if share in (0.0, 1.0):
        certain = np.zeros(count + 1)
        certain[round(share) * count] = 1.0
        return certain
    k = np.arange(count + 1)
    factorial = np.array([math.lgamma(j + 1) for j in k])
    ways = factorial[-1] - factorial - factorial[::-1]
    logs = ways + k * math.log(share) + (count - k) * math.log1p(-share)
    return np.asarray(np.exp(logs), np.float64)


def pick(is_hit: Tensor, n_rows: int) -> tuple[Tensor, Tensor]:
    """Choose `n_rows` rows, no row twice and those that are hit first.

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
    """Replace the rows of `samples` (R, N) that are hit by those of `new` (C, N), in place."""
    kept = samples.index_select(0, rows)
    samples.index_copy_(0, rows, torch.where(is_hit[:, None], new, kept))


def amplitude(level_db: Tensor) -> Tensor:
    """Return 10 ** (dB / 20)."""
    return torch.pow(10 ** (1 / 20), level_db)
