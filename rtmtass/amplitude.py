"""Which samples are taken for sound, and which for damage: the rule for NaN, Inf and huge ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from rtmtass.errors import InputError
from rtmtass.types import Samples

LARGEST = 1e9
"""Samples beyond this, 180 dB over full scale, are taken for damage, as NaN is."""


def first_damaged(samples: Samples) -> int | None:
    """Return the index along the first axis of the first NaN, Inf or sample beyond `LARGEST`."""
    if not samples.size or (samples.max() <= LARGEST and samples.min() >= -LARGEST):
        return None  # the comparisons are false for NaN
    fits = np.abs(samples) <= LARGEST
    bad = np.flatnonzero(~fits.reshape(len(samples), -1).all(axis=1))
    return int(bad[0])


def check_kind(samples: ArrayLike) -> None:
    """Check that an array holds real numbers: NumPy would drop the imaginary parts of others.

    Raises:
        InputError: it holds complex numbers or text.
    """
    kind = np.asarray(samples).dtype
    if kind.kind in "cSU":
        raise InputError(
            f"got an array of {kind}, expected samples as real numbers, such as float32"
            " (full scale is 1.0); of a spectrum, pass the sound it was computed from"
        )


def check_block(samples: Samples) -> None:
    """Check a block before it reaches the state of a stream.

    Args:
        samples: (n,) or (n, C) float32.

    Raises:
        InputError: a sample is damaged, see `first_damaged`.
    """
    index = first_damaged(samples)
    if index is not None:
        frame = np.atleast_1d(samples[index])
        value = frame[~(np.abs(frame) <= LARGEST)][0]
        raise InputError(
            f"sample {index} of the block is {value:.3g}, expected finite numbers"
            f" up to {LARGEST:g} (full scale is 1.0); the stream's state is unchanged: go on with"
            " zeros of the same length, or clean the input first"
        )
