"""The sample rates that live takes, checked before buffers and filters are sized by them."""

from __future__ import annotations

from rtmtass.errors import UsageError

LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 2000, 768000
"""From telephones to the fastest sound cards."""


def check_rate(sample_rate: int, what: str) -> None:
    """Check a sample rate in Hz.

    Args:
        sample_rate: in Hz.
        what: it belongs to, for the message.

    Raises:
        UsageError: out of range, or NaN.
    """
    if not LOWEST_RATE_HZ <= sample_rate <= HIGHEST_RATE_HZ:
        raise UsageError(
            f"{what} of {sample_rate} Hz was given; live takes {LOWEST_RATE_HZ} to"
            f" {HIGHEST_RATE_HZ} Hz, as in --rate 48000"
        )
