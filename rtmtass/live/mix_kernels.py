"""The arithmetic of the mixer as compiled kernels; see `live.mixer` for what it does.

Python and the native library both run these, on arrays that each allocates by the names below.
"""

from __future__ import annotations

import math

import numpy as np

from rtmtass.jit.compiler import kernel
from rtmtass.live.meters import METER_MS
from rtmtass.types import Bytes, Doubles, Floats

RAMP_MS = 40.0
"""Length of a gain ramp: slow enough that the ramp itself is inaudible."""
FADE_MS = 10.0
"""Length of the longest crossfade between the mix and the input."""
MATCH_S = 3.0
"""Time constant of the powers that match the bypass to the loudness of the mix."""
MAX_GAIN_DB = 20.0
_MAX_MATCH = 4.0
_QUIET = 1e-10
_NEPERS = math.log(10) / 20
"""Natural logarithm of a gain of 1 dB."""
# Shapes of the kernels' arrays, for S stems, R output rows and C channels:
# targets (S + N_EXTRA,), ramps (S + N_EXTRA, N_COLUMNS), state (N_STATE,), last (N_LAST, R, C),
# meters (S + N_OTHER_METERS, N_LEVELS), lengths (N_LENGTHS,); all float64.
# Ramps after those of the stems.
MASTER, BYPASS, N_EXTRA = range(3)
# State of the kernel: powers of mix and mixture, gain that matches them, wet gain, fade position.
_POWER_MIX, _POWER_MIXTURE, _MATCH, _WET, _STEPS, N_STATE = range(6)
# Columns of a ramp: current gain, start, target, samples since the start.
_NOW, _FROM, _TO, _SINCE, N_COLUMNS = range(5)
# The last output, its part from the mixture, the offset that fades out.
_OUTPUT, _REST, _OFFSET, N_LAST = range(4)
# Meters after those of the stems, and what each measures.
_MIXTURE_METER, _OUTPUT_METER, N_OTHER_METERS = range(3)
_POWER, _PEAK, N_LEVELS = range(3)
# Lengths of ramp and fade in samples, time constants of match and meters; then two choices, 1
# or 0: the mixture replaces late stems; a bypass is matched to the loudness of the mix.
_RAMP_N, _FADE_N, _MATCH_N, _METER_N, IS_DRY_WHEN_LATE, IS_BYPASS_MATCHED, N_LENGTHS = range(7)


@kernel
def fill_targets(
    gains_db: Doubles, audible: Bytes, strength_db: float, is_bypassed: bool, targets: Doubles
) -> None:
    """Write the target gains that settings give; `process` may read them meanwhile.

    Args:
        gains_db: (S,), -inf to `MAX_GAIN_DB`.
        audible: (S,), 0 for stems that are muted, or not soloed while others are.
        strength_db: see MixSettings.
        is_bypassed: output the input.
        targets: (S + N_EXTRA,), receives all but the master's.
    """
    n_stems = gains_db.shape[0]
    floor = -np.inf
    for s in range(n_stems):
        if audible[s]:
            floor = max(floor, gains_db[s])
    floor -= strength_db
    for s in range(n_stems):
        # exp, not 10**: it is exactly 1 at 0 dB and the same function on every system.
        targets[s] = np.exp(max(gains_db[s], floor) * _NEPERS) if audible[s] else 0.0
    targets[n_stems + BYPASS] = 0.0 if is_bypassed else 1.0


@kernel
def fill_lengths(sample_rate: int, lengths: Doubles) -> None:
    """Write the lengths at a rate in Hz; the choices after them stay.

    Args:
        sample_rate: in Hz.
        lengths: (N_LENGTHS,), see the names of its indices.
    """
    lengths[_RAMP_N] = max(1.0, np.rint(RAMP_MS * sample_rate / 1000))
    lengths[_FADE_N] = max(1.0, np.rint(FADE_MS * sample_rate / 1000))
    lengths[_MATCH_N] = MATCH_S * sample_rate
    lengths[_METER_N] = METER_MS * sample_rate / 1000


@kernel
def start_mix(
    targets: Doubles, ramps: Doubles, state: Doubles, last: Doubles, meters: Doubles,
    lengths: Doubles,
) -> None:  # fmt: skip
    """Clear all signal state; the targets apply without a ramp. Arguments as for `mix`."""
    targets[targets.shape[0] - N_EXTRA + MASTER] = 1.0
    for k in range(ramps.shape[0]):
        for column in range(N_COLUMNS):
            ramps[k, column] = lengths[_RAMP_N] if column == _SINCE else targets[k]
    state[_POWER_MIX], state[_POWER_MIXTURE] = 0.0, 0.0
    state[_MATCH], state[_WET], state[_STEPS] = 1.0, 1.0, lengths[_FADE_N]
    last[:] = 0.0
    meters[:] = 0.0


@kernel
def _begin(
    targets: Doubles, ramps: Doubles, state: Doubles, last: Doubles, has_stems: bool
) -> None:
    """Start ramps to changed targets; where stems went missing, start the crossfade."""
    for k in range(targets.shape[0]):
        if targets[k] != ramps[k, _TO]:
            ramps[k, _FROM], ramps[k, _TO], ramps[k, _SINCE] = ramps[k, _NOW], targets[k], 0.0
    if not has_stems and state[_WET] > 0:
        state[_WET], state[_STEPS] = 0.0, 0.0
        for r in range(last.shape[1]):  # in loops: whole rows would allocate
            for c in range(last.shape[2]):
                last[_OFFSET, r, c] = last[_OUTPUT, r, c] - last[_REST, r, c]


@kernel
def _advance(
    ramps: Doubles, state: Doubles, lengths: Doubles, has_stems: bool
) -> tuple[float, float]:
    """Advance ramps and fades by a sample; return the gains of the mix and of the offset."""
    ramp_n, fade_n, chosen = lengths[_RAMP_N], lengths[_FADE_N], ramps.shape[0] - N_EXTRA + BYPASS
    for k in range(ramps.shape[0]):
        if ramps[k, _SINCE] < ramp_n:
            ramps[k, _SINCE] += 1.0
            progress = 0.5 - 0.5 * np.cos(np.pi * ramps[k, _SINCE] / ramp_n)
            ramps[k, _NOW] = ramps[k, _FROM] + (ramps[k, _TO] - ramps[k, _FROM]) * progress
            if ramps[k, _SINCE] >= ramp_n:
                ramps[k, _NOW] = ramps[k, _TO]
    wet, fade = ramps[chosen, _NOW], 0.0
    if has_stems and state[_WET] < 1.0:
        state[_WET] = min(1.0, state[_WET] + 1.0 / fade_n)
    if state[_WET] < 1.0:
        wet *= 0.5 - 0.5 * np.cos(np.pi * state[_WET])
    if state[_STEPS] < fade_n:
        state[_STEPS] += 1.0
        fade = 0.5 + 0.5 * np.cos(np.pi * state[_STEPS] / fade_n)
    return wet, fade


@kernel
def _meter(meter: Doubles, y: float, weight: float) -> None:
    """Update a power and a peak with a sample."""
    meter[_POWER] += weight * y * y
    meter[_PEAK] = max(meter[_PEAK], abs(y))


@kernel
def mix(
    stems: Floats,
    mixture: Floats,
    out: Floats,
    has_stems: bool,
    targets: Doubles,
    ramps: Doubles,
    state: Doubles,
    last: Doubles,
    meters: Doubles,
    lengths: Doubles,
) -> None:
    """See Mixer.process.

    y = wet * mix + (1 - wet) * match * mixture + offset * fade. `wet` drops to 0 at once
    when stems go missing; the jump in y is added back as `offset`, which then fades out.
    So y stays continuous without lookahead. Where silence replaces late stems, the part from
    the mixture is 0 except under the bypass. An unmatched bypass has a `match` of 1.

    Args:
        stems, mixture, out, has_stems: see Mixer.process; for R = 1 `out` may be
            the memory of the mixture.
        targets: (S + N_EXTRA,) target gains: stems, master, bypass (1 = mix, 0 = input).
        ramps: (S + N_EXTRA, N_COLUMNS), see the names of the columns.
        state: (N_STATE,), see the names of its indices.
        last: (N_LAST, R, C): the last output, its part from the mixture, the offset.
        meters: (S + N_OTHER_METERS, N_LEVELS): power and peak; stems, mixture, output.
        lengths: (N_LENGTHS,), see the names of its indices.
    """
    n_stems, (n, channels), n_rows = meters.shape[0] - N_OTHER_METERS, mixture.shape, out.shape[0]
    is_dry, is_matched = lengths[IS_DRY_WHEN_LATE], lengths[IS_BYPASS_MATCHED] > 0
    _begin(targets, ramps, state, last, has_stems)
    hold = np.exp(-n / lengths[_METER_N])
    for k in range(n_stems + N_OTHER_METERS):
        meters[k, _POWER] *= hold
        meters[k, _PEAK] *= hold
    weight = (1.0 - hold) / max(n * channels, 1)
    power_mix, power_mixture = 0.0, 0.0
    match_from = state[_MATCH]
    if state[_POWER_MIXTURE] > _QUIET:
        state[_MATCH] = min(np.sqrt(state[_POWER_MIX] / state[_POWER_MIXTURE]), _MAX_MATCH)
    for t in range(n):
        wet, fade = _advance(ramps, state, lengths, has_stems)
        master, chosen = ramps[n_stems + MASTER, _NOW], ramps[n_stems + BYPASS, _NOW]
        match = match_from + (state[_MATCH] - match_from) * (t + 1) / n
        match = chosen * is_dry * match + (1.0 - chosen) * (match if is_matched else 1.0)
        for c in range(channels):
            x = np.float64(mixture[t, c])
            mixed, total = 0.0, 0.0
            for s in range(n_stems if has_stems else 0):
                y = ramps[s, _NOW] * stems[s, t, c]
                mixed += y
                _meter(meters[s], y, weight)
            for r in range(n_rows):
                signal = mixed
                if n_rows > 1:
                    signal = ramps[r, _NOW] * stems[r, t, c] if has_stems else 0.0
                rest = master * match * x / n_rows
                y = wet * master * signal + (1.0 - wet) * rest + fade * last[_OFFSET, r, c]
                last[_OUTPUT, r, c], last[_REST, r, c] = y, rest
                out[r, t, c] = y
                total += y
            power_mix += mixed * mixed
            power_mixture += x * x
            _meter(meters[n_stems + _MIXTURE_METER], x, weight)
            _meter(meters[n_stems + _OUTPUT_METER], total, weight)
    if has_stems and n:
        # The first block with signal sets the match at once; later ones change it over seconds.
        decay = np.exp(-n / lengths[_MATCH_N]) if state[_POWER_MIXTURE] > _QUIET else 0.0
        power_weight = (1.0 - decay) / (n * channels)
        state[_POWER_MIX] = decay * state[_POWER_MIX] + power_weight * power_mix
        state[_POWER_MIXTURE] = decay * state[_POWER_MIXTURE] + power_weight * power_mixture
