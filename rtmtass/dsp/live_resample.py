"""Low-delay resampling for live use, at any ratio, which may be adjusted while running.

Files use soxr, in `dsp.resample`: exact in length, but with a fixed ratio, and its output
comes in bursts, hundreds of samples late.
"""

from __future__ import annotations

import math

import numpy as np

from rtmtass.dsp.resample_filter import (
    FRACTION,
    FRACTION_MASK,
    filter_table,
    fixed_step,
    history_rows,
    room_for,
    wait_of,
)
from rtmtass.jit.compiler import kernel
from rtmtass.jit.simd import filtered
from rtmtass.types import Floats, Longs


class Converter:
    """Resamples a stream; output k lies at k / out_rate seconds of the input.

    Linear-phase and aligned: an output isn't shifted, but is returned only after `wait`
    inputs beyond it. `ratio` may be changed at any time.

    Args:
        in_rate: in Hz.
        out_rate: in Hz.
        channels: of both.
        longest: samples of the longest block.

    Attributes:
        ratio: of the output's clock to its nominal rate; 1.0001 returns 0.01 % more samples.
        wait: inputs after an output that it depends on.
        room: samples of output per call that `process` needs space for.
    """

    def __init__(self, in_rate: int, out_rate: int, channels: int, longest: int) -> None:
        self.in_rate, self.out_rate = in_rate, out_rate
        self.ratio = 1.0
        self.wait = wait_of(in_rate, out_rate)
        self._step = in_rate / out_rate
        self._table = filter_table(in_rate, out_rate)
        rows = history_rows(in_rate, out_rate, longest)
        self._history = np.zeros((rows, channels), np.float32)
        self.room = room_for(in_rate, out_rate, longest)
        self._position = np.zeros(1, np.int64)
        self.reset()
        self.process(self._history[:1], np.zeros((self.room, channels), np.float32))  # compiles
        self.reset()

    def reset(self) -> None:
        """Clear the state; the next sample is the first of a new stream."""
        self._history[:] = 0
        self._filled = self.wait
        self._position[0] = self.wait << FRACTION

    def process(self, block: Floats, out: Floats) -> int:
        """Process a block; write the samples that are ready.

        Args:
            block: (n, C) float32, n at most `longest`.
            out: (m, C) float32, m >= `room`.

        Returns:
            Samples of `out` written.
        """
        n = len(block)
        self._history[self._filled : self._filled + n] = block
        self._filled += n
        written, used = convert(
            self._history,
            self._filled,
            self._position,
            fixed_step(self.in_rate, self.out_rate, self.ratio),
            self.wait,
            self._table,
            out,
        )
        self._filled -= used
        self._history[: self._filled] = self._history[used : used + self._filled]
        return int(written)

    def ready_after(self, n_in: int) -> int:
        """Return the number of outputs after `n_in` inputs at ratio 1, to within one."""
        return max(0, math.ceil((n_in - self.wait) / self._step))


@kernel
def convert(
    history: Floats, filled: int, start: Longs, step: int, wait: int, table: Floats, out: Floats
) -> tuple[int, int]:
    """Interpolate at start, start + step, … as far as the input reaches; 2**44 is one sample.

    Args:
        history: (n, C), of which the first `filled` samples are input; at first `wait` zeros.
        filled: see `history`.
        start: (1,), position of the next output; at first `wait` samples. Updated.
        step, wait, table: see `resample_filter`.
        out: (m, C), receives the outputs.

    Returns:
        Outputs written, and inputs that are no longer needed.
    """
    written = 0
    position = start[0]
    channels = history.shape[1]
    rows = table.shape[0] - 1
    while written < out.shape[0]:
        whole = position >> FRACTION
        if whole + wait >= filled:
            break
        phase = (position & FRACTION_MASK) * (rows / (FRACTION_MASK + 1.0))
        row = min(int(phase), rows - 1)
        fraction = np.float32(phase - row)
        first = whole - wait + 1
        for c in range(channels):
            samples = history[first : first + 2 * wait, c]
            out[written, c] = filtered(table[row], table[row + 1], fraction, samples)
        written += 1
        position += step
    used = max(0, (position >> FRACTION) - wait)
    start[0] = position - (used << FRACTION)
    return written, used
