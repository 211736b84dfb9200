"""Separation metrics: SDR, SI-SDR, and bootstrap intervals of their means."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
TINY = 1e-12


def sdr(estimate: Array, target: Array) -> Array:
    """Return the signal-to-distortion ratio over the last axis, dB; level errors count.

    Source: SNR of Vincent et al., as MTASS (arXiv 2107.06467) reports it.
    """
    target, estimate = target.astype(np.float64), estimate.astype(np.float64)
    error = ((target - estimate) ** 2).sum(-1)
    ratio: Array = 10 * np.log10(((target**2).sum(-1) + TINY) / (error + TINY))
    return ratio


def si_sdr(estimate: Array, target: Array) -> Array:
    """Return the scale-invariant SDR over the last axis, dB.

    Source: Le Roux et al., arXiv 1811.02508, eq. 3.
    """
    target, estimate = target.astype(np.float64), estimate.astype(np.float64)
    scale = (estimate * target).sum(-1, keepdims=True) / ((target**2).sum(-1, keepdims=True) + TINY)
    return sdr(estimate, scale * target)


def bootstrap_interval(
    values: Array, confidence: float = 0.95, rounds: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Return the bootstrap confidence interval of the mean of `values` (n,).

    Source: percentile bootstrap, B. Efron, Annals of Statistics 7(1), 1979.
    """
    rng = np.random.default_rng(seed)
    values = np.asarray(values, np.float64)
    means = values[rng.integers(0, len(values), (rounds, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
