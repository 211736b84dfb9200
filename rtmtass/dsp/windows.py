"""The STFT windows, in NumPy only, so that training needs no numba."""

from __future__ import annotations

import numpy as np

from rtmtass.config import StftConfig
from rtmtass.types import Floats


def windows(config: StftConfig) -> tuple[Floats, Floats]:
    """Return the analysis and the synthesis window, which together reconstruct perfectly.

    The analysis window rises slowly over the older samples and falls within the last
    `synthesis / 2`. There the synthesis window completes it to a Hann window, which
    overlap-adds to one. With equal lengths both are the periodic square root of Hann.

    Returns:
        (n_fft,) and (synthesis,) float32. The synthesis window applies to the last
        `synthesis` samples of a frame.

    Source: D. Mauler, R. Martin, "A low delay, variable resolution, perfect
    reconstruction spectral analysis-synthesis system for speech enhancement",
    EUSIPCO 2007.
    """
    rise = 2 * config.n_fft - config.synthesis
    skipped = config.n_fft - config.synthesis
    n = np.arange(config.n_fft, dtype=np.float64)
    analysis = np.where(
        2 * n < rise,
        np.sin(np.pi * n / rise),
        np.sin(np.pi * (n - skipped) / config.synthesis),
    )
    hann = np.sin(np.pi * np.arange(config.synthesis) / config.synthesis) ** 2
    product = hann * 2 * config.hop / config.synthesis
    covered = analysis[skipped:]
    synthesis = np.divide(product, covered, out=np.zeros_like(product), where=product > 0)
    return analysis.astype(np.float32), synthesis.astype(np.float32)
