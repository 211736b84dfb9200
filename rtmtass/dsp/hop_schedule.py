"""Whole-number arithmetic of hops in a stream at any rate, as compiled kernels.

`live.full_band` and the native library both run these, so that a hop has the same samples in
either. `step` and `wait` are those of the resampler from the stream to the model, see
`resample_filter`; where the rates are equal, `UNIT_STEP` and 0.
"""

from __future__ import annotations

import math

from rtmtass.dsp.resample_filter import FRACTION, FRACTION_MASK, wait_of
from rtmtass.jit.compiler import kernel

UNIT_STEP = 1 << FRACTION
"""The step between equal rates."""
_HALF = FRACTION // 2
_HALF_MASK = (1 << _HALF) - 1
_SPARE = 8
"""Samples of the model's rate by which an output may lie before its hop, beyond the filter."""


@kernel
def scale(n: int, step: int) -> tuple[int, int]:
    """Return n * step as whole samples, rounded down, and a fraction of `FRACTION` bits.

    Exact for n up to 2**41, a month at 768 kHz. The product itself would exceed 64 bits after
    seconds, and an overflow is undefined in compiled code; so the step's fraction is
    multiplied in halves.
    """
    low = n * (step & _HALF_MASK)
    high = n * ((step & FRACTION_MASK) >> _HALF) + (low >> _HALF)
    whole = n * (step >> FRACTION) + (high >> _HALF)
    return whole, (high & _HALF_MASK) << _HALF | low & _HALF_MASK


@kernel
def end_of_hop(n_hops: int, hop: int, step: int, wait: int) -> int:
    """Return the samples of the stream after which the first `n_hops` hops are complete."""
    if n_hops == 0:
        return 0
    return wait + scale(n_hops * hop - 1, step)[0] + 1


@kernel
def longest_block(hop: int, step: int, wait: int) -> int:
    """Return the samples of the longest block between two hops' ends, which is the first."""
    first = end_of_hop(1, hop, step, wait)
    return max(first, end_of_hop(2, hop, step, wait) - first + 1)


@kernel
def delay_at(sample_rate: int, model_rate: int, model_delay: int) -> int:
    """Return the offset of the output against the input, in samples of the stream."""
    if sample_rate == model_rate:
        return model_delay
    upsampled = sample_rate / model_rate * (model_delay + wait_of(model_rate, sample_rate))
    return wait_of(sample_rate, model_rate) + math.ceil(upsampled) + 1


@kernel
def hop_at(sample_rate: int, model_rate: int, hop: int) -> int:
    """Return a hop of the model in samples of the stream, rounded up."""
    return math.ceil(sample_rate / model_rate * hop)


@kernel
def kept_stems(sample_rate: int, model_rate: int) -> int:
    """Return the samples of the model's rate that an upsampler keeps before the newest hop.

    The first block begins before its hop by the filter of the other direction, too.
    """
    spare = _SPARE + math.ceil(2 * model_rate / sample_rate)
    return 3 * wait_of(model_rate, sample_rate) + spare


@kernel
def start_in_history(
    number: int, hop: int, end: int, delay: int, model_delay: int, kept: int, up_step: int
) -> int:
    """Return the position in an upsampler's history of the first output of hop `number`.

    Args:
        number: of the hop, from 0.
        hop: samples of the model.
        end: `end_of_hop(number, ...)`.
        delay, model_delay: of the stream and of the model, in samples of their own rates.
        kept: `kept_stems`.
        up_step: `fixed_step` from the model to the stream.

    Returns:
        A position with `FRACTION` fractional bits.
    """
    whole, fraction = scale(end - delay, up_step)
    return (model_delay - number * hop + kept + whole << FRACTION) + fraction
