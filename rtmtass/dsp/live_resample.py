"""Resampling for those who wait: small delay, any ratio, and a ratio that may drift.

Files use `dsp.resample`'s soxr, which is exact in length and slower to answer:
it hands out bursts, hundreds of samples late, and its ratio is fixed.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from rtmtass.jit.compiler import kernel

Floats = NDArray[np.float32]
Longs = NDArray[np.int64]

_CROSSINGS = 24
"""Zero crossings of the sinc on either side: 1.5 ms at 16 kHz."""
_PHASES = 512
"""Positions between two samples the filter is tabled for; between them it is interpolated."""
_KAISER_BETA = 9.0
_FRACTION = 40
"""Bits of a position between two samples: whole numbers add up the same in blocks of any size."""
_MASK = (1 << _FRACTION) - 1
_PASS = 0.92
"""Where the filter falls to a half, as a part of the lower rate's band."""


class Converter:
    """A stream at `in_rate` becomes one at `out_rate`; output k lies at k / out_rate seconds.

    It is linear-phase and aligned: nothing is delayed, but an output comes only
    when `wait` inputs beyond it are there. `ratio` may be changed at any time.

    Args:
        in_rate: in Hz.
        out_rate: in Hz.
        channels: of both.
        longest: samples of the longest block that will be given.

    Attributes:
        ratio: of the output's clock to its nominal rate; 1.0001 hands out
            0.01 % more samples.
        wait: inputs an output waits for.
    """

    def __init__(self, in_rate: int, out_rate: int, channels: int, longest: int) -> None:
        self.in_rate, self.out_rate = in_rate, out_rate
        self.ratio = 1.0
        scale = min(1.0, out_rate / in_rate)
        self.wait = math.ceil(_CROSSINGS / scale)
        self._step = in_rate / out_rate
        self._table = _filter_table(self.wait, scale)
        self._memory = np.zeros((2 * self.wait + 2 + longest, channels), np.float32)
        self.room = math.ceil(longest * out_rate / in_rate * 1.01) + 2
        self._position = np.zeros(1, np.int64)
        self.reset()
        self.process(self._memory[:1], np.zeros((self.room, channels), np.float32))  # compiles
        self.reset()

    def reset(self) -> None:
        """Forget the stream; before the next sample there was silence."""
        self._memory[:] = 0
        self._filled = self.wait
        self._position[0] = self.wait << _FRACTION

    def process(self, block: Floats, out: Floats) -> int:
        """Take a block and hand out what is ready.

        Args:
            block: (n, C) float32, n at most `longest`.
            out: (m, C) float32, m >= `room`.

        Returns:
            how many samples of `out` were filled.
        """
        n = len(block)
        self._memory[self._filled : self._filled + n] = block
        self._filled += n
        made, used = _convert(
            self._memory,
            self._filled,
            self._position,
            round(self._step / self.ratio * (1 << _FRACTION)),
            self.wait,
            self._table,
            out,
        )
        self._filled -= used
        self._memory[: self._filled] = self._memory[used : used + self._filled]
        return int(made)

    def ready_after(self, n_in: int) -> int:
        """Return how many outputs there are after `n_in` inputs at ratio 1; at most one off."""
        return max(0, math.ceil((n_in - self.wait) / self._step))


def _filter_table(wait: int, scale: float) -> Floats:
    """Return (phases + 1, 2 * wait): row p is the filter for a position p / phases past a sample.

    Source: J. O. Smith, "Digital Audio Resampling", bandlimited interpolation, 1984.
    """
    positions = np.arange(_PHASES + 1)[:, None] / _PHASES
    distance = positions - (np.arange(2 * wait)[None, :] - (wait - 1))
    shape = np.clip(distance / wait, -1, 1)
    window = np.i0(_KAISER_BETA * np.sqrt(1 - shape**2)) / np.i0(_KAISER_BETA)
    cutoff = scale * _PASS if scale < 1 else _PASS
    table = cutoff * np.sinc(cutoff * distance) * window
    normed: Floats = (table / table.sum(axis=1, keepdims=True)).astype(np.float32)
    return normed


@kernel
def _convert(
    memory: Floats, filled: int, start: Longs, step: int, wait: int, table: Floats, out: Floats
) -> tuple[int, int]:
    """Interpolate at start, start + step, … as far as the memory reaches; 2**40 is a sample.

    Returns:
        outputs made, and inputs that are no longer needed.
    """
    made = 0
    position = start[0]
    channels = memory.shape[1]
    rows = table.shape[0] - 1
    while made < out.shape[0]:
        whole = position >> _FRACTION
        if whole + wait >= filled:
            break
        place = (position & _MASK) * (rows / (_MASK + 1.0))
        row = min(int(place), rows - 1)
        part = np.float32(place - row)
        first = whole - wait + 1
        for c in range(channels):
            total = np.float32(0.0)
            for k in range(2 * wait):
                weight = table[row, k] + part * (table[row + 1, k] - table[row, k])
                total += weight * memory[first + k, c]
            out[made, c] = total
        made += 1
        position += step
    used = max(0, (position >> _FRACTION) - wait)
    start[0] = position - (used << _FRACTION)
    return made, used
