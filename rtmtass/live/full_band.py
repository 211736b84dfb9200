"""Live streams at any rate: the hops of the model, and the band above it that each stem gets.

The same rule as in `rtmtass.fullband`, hop by hop and without allocating:

    out_i = up(stem_i) + w_i * (mixture - sum_j up(stem_j))

so the stems sum to the mixture over the whole band.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from rtmtass.dsp.hop_schedule import (
    UNIT_STEP,
    delay_at,
    end_of_hop,
    hop_at,
    kept_stems,
    longest_block,
    start_in_history,
)
from rtmtass.dsp.resample_filter import (
    FRACTION,
    FRACTION_MASK,
    filter_table,
    fixed_step,
    wait_of,
)
from rtmtass.jit.compiler import kernel
from rtmtass.jit.simd import dot, fma, interpolate
from rtmtass.live.limits import check_rate
from rtmtass.types import Floats

_ZERO = np.float32(0.0)


class Timing(Protocol):
    """The part of a separator that its schedule depends on; see Separator."""

    sample_rate: int
    hop: int
    delay: int
    algorithmic_latency: int


class HopSchedule:
    """Which samples of a stream at any rate belong to each hop of the model.

    Hop k is separated when `end(k + 1)` samples of the stream have been received, and as many
    have then been output. All counts are exact, also where a hop isn't a whole number of samples.

    Args:
        separator: whose hops, rate and delay.
        sample_rate: of the stream, in Hz.

    Attributes:
        sample_rate: of the stream, in Hz.
        model_rate, hop: the separator's.
        needs_resampling: whether the rates differ.
        delay: offset of the output against the input, in samples of the stream.
        algorithmic_latency: samples of the stream from capture to playback with an infinitely
            fast computer.
        longest: samples of the longest block, which is the first.

    Raises:
        UsageError: the rate is out of range.
    """

    def __init__(self, separator: Timing, sample_rate: int) -> None:
        check_rate(sample_rate, "a source")
        self.sample_rate, self.model_rate = sample_rate, separator.sample_rate
        self.hop, self.model_delay = separator.hop, separator.delay
        self.needs_resampling = sample_rate != separator.sample_rate
        self.delay, self.algorithmic_latency = separator.delay, separator.algorithmic_latency
        self._step, self._wait = UNIT_STEP, 0
        if self.needs_resampling:
            rates = sample_rate, self.model_rate
            self._step, self._wait = fixed_step(*rates, 1.0), wait_of(*rates)
            self.delay = delay_at(*rates, self.model_delay)
            self.algorithmic_latency = self.delay + hop_at(*rates, self.hop)
        self.longest = longest_block(self.hop, self._step, self._wait)

    def end(self, n_hops: int) -> int:
        """Return the samples of the stream after which the first `n_hops` hops are complete."""
        return end_of_hop(n_hops, self.hop, self._step, self._wait)

    def block(self, number: int) -> int:
        """Return the samples from the end of hop `number` - 1 to that of hop `number`."""
        return self.end(number + 1) - self.end(number)

    def completed(self, n: int) -> int:
        """Return how many of the first `n` samples belong to complete hops."""
        n_hops = max(0, n - self._wait) * self.model_rate // (self.sample_rate * self.hop)
        while self.end(n_hops + 1) <= n:
            n_hops += 1
        while n_hops and self.end(n_hops) > n:
            n_hops -= 1
        return self.end(n_hops)


class StemUpsampler:
    """Resamples stems hop by hop to the rate of the stream and adds their part of the rest.

    Args:
        schedule: of the stream.
        n_stems: number of stems.
        channels: of each.
    """

    def __init__(self, schedule: HopSchedule, n_stems: int, channels: int) -> None:
        self._schedule = schedule
        rates = schedule.model_rate, schedule.sample_rate
        self._wait = wait_of(*rates)
        self._step = fixed_step(*rates, 1.0)
        self._table = filter_table(*rates)
        self._taps = np.zeros(2 * self._wait, np.float32)
        self._n_kept = kept_stems(schedule.sample_rate, schedule.model_rate)
        length = self._n_kept + schedule.hop
        self._history = np.zeros((n_stems, channels, length), np.float32)
        self._weights = np.zeros((n_stems, length), np.float32)
        self._newest = np.zeros((n_stems, schedule.hop, channels), np.float32)
        self._newest_weights = np.zeros((n_stems, schedule.hop), np.float32)
        self.reset()
        if schedule.needs_resampling:
            out = np.zeros((n_stems, schedule.block(0), channels), np.float32)
            self.process(None, None, out[0], out)  # compiles
        self.reset()

    def reset(self, number: int = 0) -> None:
        """Clear the state; the next hop is hop `number` of the stream."""
        self._number = number
        self._history[:] = 0
        self._weights[:] = 1 / len(self._weights)

    def process(
        self,
        stems: Floats | None,
        highband_weights: Floats | None,
        mixture: Floats,
        out: Floats,
    ) -> None:
        """Process the next hop.

        Args:
            stems: (S, H, C) at the model's rate; None where they are missing.
            highband_weights: (S, H), see Separator; None if stems are missing.
            mixture: (n, C), n = `schedule.block`, at the stream's rate, aligned with the output.
            out: (S, n, C), receives the stems.
        """
        schedule = self._schedule
        number, self._number = self._number, self._number + 1
        if not schedule.needs_resampling:
            out[:] = 0 if stems is None else stems
            return
        has_stems = stems is not None and highband_weights is not None
        if has_stems:  # contiguous for any input, or numba would compile once more
            self._newest[:], self._newest_weights[:] = stems, highband_weights
        push_hop(self._newest, self._newest_weights, has_stems, self._history, self._weights)
        start = start_in_history(
            number, schedule.hop, schedule.end(number), schedule.delay, schedule.model_delay,
            self._n_kept, self._step,
        )  # fmt: skip
        upsample(
            self._history, self._weights, start, self._step, self._wait, self._table, self._taps,
            mixture, out,
        )  # fmt: skip


@kernel
def push_hop(
    stems: Floats, highband_weights: Floats, has_stems: bool, history: Floats, weights: Floats
) -> None:
    """Move an upsampler's history on by a hop, and append the hop.

    Args:
        stems: (S, H, C), read if `has_stems`; otherwise silence is appended.
        highband_weights: (S, H), read if `has_stems`; otherwise the last ones are repeated.
        has_stems: whether the hop's stems are there.
        history: (S, C, L), L = `kept_stems` + H; zeros at first.
        weights: (S, L); 1 / S at first.
    """
    n_stems, channels, length = history.shape
    hop = stems.shape[1]
    kept = length - hop
    for s in range(n_stems):
        for i in range(kept):
            weights[s, i] = weights[s, i + hop]
        for i in range(hop):
            weights[s, kept + i] = highband_weights[s, i] if has_stems else weights[s, kept - 1]
        for c in range(channels):
            for i in range(kept):
                history[s, c, i] = history[s, c, i + hop]
            for i in range(hop):
                history[s, c, kept + i] = stems[s, i, c] if has_stems else _ZERO


@kernel
def upsample(
    history: Floats,
    weights: Floats,
    start: int,
    step: int,
    wait: int,
    table: Floats,
    taps: Floats,
    mixture: Floats,
    out: Floats,
) -> None:
    """Interpolate stems at start, start + step, … and split what they lack of the mixture.

    Args:
        history: (S, C, L), stems.
        weights: (S, L), highband weights.
        start, step: positions in `history`, with `FRACTION` fractional bits.
        wait, table: see `resample_filter`.
        taps: (2 * wait,), scratch.
        mixture: (n, C).
        out: (S, n, C), receives the stems.
    """
    n_stems, n, channels = out.shape
    rows = table.shape[0] - 1
    scale = np.float32(1.0 / (FRACTION_MASK + 1.0))
    position = start
    for t in range(n):
        whole = position >> FRACTION
        between = np.float32(position & FRACTION_MASK) * scale
        phase = between * np.float32(rows)
        row = min(int(phase), rows - 1)
        fraction = phase - np.float32(row)
        interpolate(table[row], table[row + 1], fraction, taps)
        first = whole - wait + 1
        for c in range(channels):
            residual = mixture[t, c]
            for s in range(n_stems):
                total = dot(taps, history[s, c, first : first + taps.shape[0]])
                out[s, t, c] = total
                residual -= total
            for s in range(n_stems):
                slope = weights[s, whole + 1] - weights[s, whole]
                weight = fma(between, slope, weights[s, whole])
                out[s, t, c] = fma(weight, residual, out[s, t, c])
        position += step
