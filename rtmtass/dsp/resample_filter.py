"""The filter of the live resampler: its length, its table and its step, as compiled kernels.

Python and the native library both run these, so that a stream of either has the same samples.
"""

from __future__ import annotations

import math

import numpy as np

from rtmtass.jit.compiler import kernel
from rtmtass.types import Floats

_CROSSINGS = 23
"""Zero crossings of the sinc on either side: 1.4 ms at 16 kHz, so that down and up again stay
below 3 ms."""
_PHASES = 512
"""Tabulated filter phases between two samples; the filter is interpolated between them."""
TABLE_ROWS = _PHASES + 1
"""Rows of a filter table; it has 2 * `wait_of` columns."""
_KAISER_BETA = 9.0
_SERIES_END = 1e-17
"""A term of a series this small, relative to the sum, no longer changes a float64."""
FRACTION = 44
"""Fractional bits of a position: integers add up the same for any block size."""
FRACTION_MASK = (1 << FRACTION) - 1
_PASS = 0.92
"""Cutoff (-6 dB), as a fraction of the lower rate's Nyquist frequency."""


@kernel
def wait_of(in_rate: int, out_rate: int) -> int:
    """Return the inputs after an output that it depends on."""
    return math.ceil(_CROSSINGS / min(1.0, out_rate / in_rate))


@kernel
def fixed_step(in_rate: int, out_rate: int, ratio: float) -> int:
    """Return the inputs per output as a fixed-point number with `FRACTION` fractional bits.

    `ratio` is that of the output's clock to its nominal rate; halves round to even.
    """
    return int(np.rint(in_rate / out_rate / ratio * (1 << FRACTION)))


@kernel
def history_rows(in_rate: int, out_rate: int, longest: int) -> int:
    """Return the samples that a converter keeps, with a block of `longest` appended."""
    return 2 * wait_of(in_rate, out_rate) + 2 + longest


@kernel
def room_for(in_rate: int, out_rate: int, longest: int) -> int:
    """Return the space for a block's output; the clocks may differ by up to 1 %."""
    return math.ceil(longest * out_rate / in_rate * 1.01) + 2


@kernel
def bessel_i0(x: float) -> float:
    """Return the modified Bessel function I0 of a float64, by its power series.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 9.6.12.
    """
    quarter = 0.25 * x * x
    term, total, k = 1.0, 1.0, 1.0
    while term > _SERIES_END * total:
        term *= quarter / (k * k)
        total += term
        k += 1.0
    return total


@kernel
def _windowed_sinc(distance: float, cutoff: float, wait: int) -> float:
    """Return the filter, times a constant, `distance` inputs from its middle."""
    edge = max(-1.0, min(1.0, distance / wait))
    angle = math.pi * cutoff * distance
    sinc = 1.0 if angle == 0.0 else math.sin(angle) / angle
    return sinc * bessel_i0(_KAISER_BETA * math.sqrt(1.0 - edge * edge))


@kernel
def fill_filter_table(in_rate: int, out_rate: int, table: Floats) -> None:
    """Write the filter: row p is the one at p / phases after a sample; every row sums to one.

    Args:
        in_rate, out_rate: in Hz.
        table: (TABLE_ROWS, 2 * wait) float32, wait = `wait_of(in_rate, out_rate)`.

    Source: J. O. Smith, "Digital Audio Resampling", bandlimited interpolation, 1984.
    """
    rows, columns = table.shape
    wait = columns // 2
    cutoff = min(1.0, out_rate / in_rate) * _PASS
    for row in range(rows):
        first = row / (rows - 1) + (wait - 1)
        total = 0.0
        for k in range(columns):
            total += _windowed_sinc(first - k, cutoff, wait)
        # Computed again instead of kept: the table's float32 would be rounded twice.
        for k in range(columns):
            table[row, k] = _windowed_sinc(first - k, cutoff, wait) / total


def filter_table(in_rate: int, out_rate: int) -> Floats:
    """Return the table of `fill_filter_table`, (TABLE_ROWS, 2 * wait) float32."""
    table = np.empty((TABLE_ROWS, 2 * wait_of(in_rate, out_rate)), np.float32)
    fill_filter_table(in_rate, out_rate, table)
    return table
