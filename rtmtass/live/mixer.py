"""Mixes stems: gain, mute, solo, strength and bypass, every change ramped so that none clicks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from rtmtass.errors import UsageError
from rtmtass.jit.compiler import kernel
from rtmtass.live.meters import METER_MS, level_db
from rtmtass.types import Doubles, Floats

RAMP_MS = 40.0
"""Length of a gain ramp: slow enough that the ramp itself is inaudible."""
FADE_MS = 10.0
"""Length of the longest crossfade between the mix and the input."""
MATCH_S = 3.0
"""Time constant of the powers that match the bypass to the loudness of the mix."""
MAX_GAIN_DB = 20.0
WHEN_LATE = ("dry", "silence")
"""What is output where stems are missing: the mixture, or nothing."""

_MAX_MATCH = 4.0
_QUIET = 1e-10
# Ramps after those of the stems.
_MASTER, _BYPASS, _EXTRA = 0, 1, 2
# State of the kernel: powers of mix and mixture, gain that matches them, wet gain, fade position.
_POWER_MIX, _POWER_MIXTURE, _MATCH, _WET, _STEPS, _N_STATE = range(6)
# Columns of a ramp.
_NOW, _FROM, _TO, _SINCE = range(4)


@dataclass(frozen=True)
class MixSettings:
    """Settings of a mixer; gains in dB, by stem.

    `strength_db` limits how far a stem may lie below the loudest: 0 leaves the mixture
    unchanged, infinity applies the gains as they are.
    """

    gains_db: Mapping[str, float]
    muted: frozenset[str] = frozenset()
    soloed: frozenset[str] = frozenset()
    strength_db: float = math.inf
    is_bypassed: bool = False

    def factors(self) -> dict[str, float]:
        """Return the linear gain of each stem."""
        audible = {
            stem: gain
            for stem, gain in self.gains_db.items()
            if stem not in self.muted and (not self.soloed or stem in self.soloed)
        }
        floor = max(audible.values(), default=-math.inf) - self.strength_db
        return {
            stem: 10 ** (max(audible[stem], floor) / 20) if stem in audible else 0.0
            for stem in self.gains_db
        }


@dataclass(frozen=True)
class Levels:
    """Meters in dBFS: (RMS, peak) of stems, mixture and output; -inf is below -120 dBFS.

    `separated` has the stems before their gains, `clipped` the names of the meters that
    reached full scale in the last seconds; an engine adds both.
    """

    stems: dict[str, tuple[float, float]] = field(default_factory=dict)
    mixture: tuple[float, float] = (-math.inf, -math.inf)
    output: tuple[float, float] = (-math.inf, -math.inf)
    separated: dict[str, tuple[float, float]] = field(default_factory=dict)
    clipped: tuple[str, ...] = ()


class Mixer:
    """Mixes stems block by block; where stems are missing, crossfades to the input or silence.

    Settings may be changed from any thread; the output follows within `RAMP_MS`.
    `process` is called from one thread and doesn't allocate.

    Args:
        stems: names, in order.
        sample_rate: in Hz; an Engine sets it to its own.
        channels: of each stem.
        gains_db: initial gains; 0 dB where not given.
        strength_db: see MixSettings.
        is_split: output each stem by itself, after its gain, instead of the sum.
        when_late: one of `WHEN_LATE`; a bypass outputs the mixture in either case.

    Raises:
        UsageError: unknown stem, unknown `when_late`, or a gain is NaN.
    """

    def __init__(
        self,
        stems: Sequence[str],
        sample_rate: int,
        channels: int = 1,
        *,
        gains_db: Mapping[str, float] | None = None,
        strength_db: float = math.inf,
        is_split: bool = False,
        when_late: str = "dry",
    ) -> None:
        if when_late not in WHEN_LATE:
            raise UsageError(f"when_late={when_late!r}; choose from {', '.join(WHEN_LATE)}")
        self.when_late = when_late
        self.stems = tuple(stems)
        self.n_rows = len(self.stems) if is_split else 1
        n_stems = len(self.stems)
        self._ramps = np.zeros((n_stems + _EXTRA, 4))
        self._targets = np.ones(n_stems + _EXTRA)
        self._state = np.zeros(_N_STATE)
        self._last = np.zeros((3, self.n_rows, channels))
        self._meters = np.zeros((n_stems + 2, 2))
        self._lengths = np.zeros(5)
        self._lengths[4] = when_late == "dry"
        self.set_sample_rate(sample_rate)
        self.settings = MixSettings(dict.fromkeys(self.stems, 0.0), strength_db=strength_db)
        for stem, gain in (gains_db or {}).items():
            self.set_gain(stem, gain)
        self.reset()
        silence = np.zeros((n_stems, 1, channels), np.float32)
        self.process(silence, silence[0], silence[: self.n_rows])  # compiles
        self.reset()

    def set_sample_rate(self, sample_rate: int) -> None:
        """Set the rate of the blocks in Hz; call it before the first `process`."""
        self._lengths[:4] = (
            max(1, round(RAMP_MS * sample_rate / 1000)),
            max(1, round(FADE_MS * sample_rate / 1000)),
            MATCH_S * sample_rate,
            METER_MS * sample_rate / 1000,
        )

    def set_gain(self, stem: str, gain_db: float) -> None:
        """Set one stem's gain in dB, -inf to +20; higher gains are clamped to +20."""
        self._check(stem)
        if math.isnan(gain_db):
            raise UsageError(f"a gain of NaN dB was given for {stem}; give a number, or -inf")
        gains = {**self.settings.gains_db, stem: min(gain_db, MAX_GAIN_DB)}
        self._apply(replace(self.settings, gains_db=gains))

    def set_mute(self, stem: str, is_muted: bool) -> None:
        """Mute or unmute a stem."""
        self._check(stem)
        muted = self.settings.muted
        self._apply(replace(self.settings, muted=muted | {stem} if is_muted else muted - {stem}))

    def set_solo(self, stem: str, is_soloed: bool) -> None:
        """Solo a stem: while any is soloed, the others are silent."""
        self._check(stem)
        soloed = self.settings.soloed
        self._apply(
            replace(self.settings, soloed=soloed | {stem} if is_soloed else soloed - {stem})
        )

    def set_strength(self, strength_db: float) -> None:
        """Limit how far stems may lie below the loudest, 0 dB to infinity."""
        if not strength_db >= 0:
            raise UsageError(f"a strength of {strength_db} dB was given; give 0 or more, or inf")
        self._apply(replace(self.settings, strength_db=strength_db))

    def set_bypass(self, is_bypassed: bool) -> None:
        """Output the input instead, aligned with the mix and matched to its loudness."""
        self._apply(replace(self.settings, is_bypassed=is_bypassed))

    def fade_out(self) -> None:
        """Ramp the output to silence, as before a stop."""
        self._targets[len(self.stems) + _MASTER] = 0.0

    def reset(self) -> None:
        """Clear all signal state; the settings stay and apply without a ramp."""
        self._targets[len(self.stems) + _MASTER] = 1.0
        self._apply(self.settings)
        for column in (_NOW, _FROM, _TO):
            self._ramps[:, column] = self._targets
        self._ramps[:, _SINCE] = self._lengths[0]
        self._state[:] = 0, 0, 1, 1, self._lengths[1]
        self._last[:] = 0
        self._meters[:] = 0

    def process(
        self, stems: Floats, mixture: Floats, out: Floats, *, has_stems: bool = True
    ) -> None:
        """Mix a block.

        Args:
            stems: (S, n, C), read unless `has_stems` is False.
            mixture: (n, C), aligned with the stems.
            out: (R, n, C), receives the mix, R = 1; if split all stems, R = S.
            has_stems: False where they are late: then the output is the mixture, matched to
                the loudness of the mix, or silence; faded to without a step.
        """
        _mix(
            stems, mixture, out, has_stems, self._targets, self._ramps, self._state, self._last,
            self._meters, self._lengths,
        )  # fmt: skip

    def levels(self) -> Levels:
        """Return the meters; may be called from any thread."""
        rows = [
            (level_db(math.sqrt(power)), level_db(peak)) for power, peak in self._meters.tolist()
        ]
        return Levels(dict(zip(self.stems, rows, strict=False)), rows[-2], rows[-1])

    def _check(self, stem: str) -> None:
        if stem not in self.stems:
            raise UsageError(f"unknown stem {stem!r}; choose from {', '.join(self.stems)}")

    def _apply(self, settings: MixSettings) -> None:
        self.settings = settings
        factors = settings.factors()
        for row, stem in enumerate(self.stems):
            self._targets[row] = factors[stem]
        self._targets[len(self.stems) + _BYPASS] = 0.0 if settings.is_bypassed else 1.0


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
        last[2] = last[0] - last[1]


@kernel
def _advance(
    ramps: Doubles, state: Doubles, lengths: Doubles, has_stems: bool
) -> tuple[float, float]:
    """Advance ramps and fades by a sample; return the gains of the mix and of the offset."""
    ramp_n, fade_n, chosen = lengths[0], lengths[1], ramps.shape[0] - _EXTRA + _BYPASS
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
    meter[0] += weight * y * y
    meter[1] = max(meter[1], abs(y))


@kernel
def _mix(
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
    the mixture is 0 except under the bypass.

    Args:
        targets: (S + 2,) target gains: stems, master, bypass (1 = mix, 0 = input).
        ramps: (S + 2, 4): current gain, start, target, samples since the start.
        state: (_N_STATE,), see the names of its indices.
        last: (3, R, C): the last output, its part from the mixture, the offset.
        meters: (S + 2, 2): power and peak; stems, mixture, output.
        lengths: of ramp and fade in samples, time constants of match and meters; then 1 if
            the mixture replaces late stems, 0 if silence does.
    """
    n_stems, n, channels = meters.shape[0] - 2, mixture.shape[0], mixture.shape[1]
    n_rows = out.shape[0]
    _begin(targets, ramps, state, last, has_stems)
    hold = np.exp(-n / lengths[3])
    for k in range(n_stems + 2):
        meters[k, 0] *= hold
        meters[k, 1] *= hold
    weight = (1.0 - hold) / max(n * channels, 1)
    power_mix, power_mixture = 0.0, 0.0
    match_from = state[_MATCH]
    if state[_POWER_MIXTURE] > _QUIET:
        state[_MATCH] = min(np.sqrt(state[_POWER_MIX] / state[_POWER_MIXTURE]), _MAX_MATCH)
    for t in range(n):
        wet, fade = _advance(ramps, state, lengths, has_stems)
        master = ramps[n_stems + _MASTER, _NOW]
        match = match_from + (state[_MATCH] - match_from) * (t + 1) / n
        match *= 1.0 - (1.0 - lengths[4]) * ramps[n_stems + _BYPASS, _NOW]
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
                y = wet * master * signal + (1.0 - wet) * rest + fade * last[2, r, c]
                last[0, r, c], last[1, r, c] = y, rest
                out[r, t, c] = y
                total += y
            power_mix += mixed * mixed
            power_mixture += x * x
            _meter(meters[n_stems], x, weight)
            _meter(meters[n_stems + 1], total, weight)
    if has_stems and n:
        # The first block with signal sets the match at once; later ones change it over seconds.
        decay = np.exp(-n / lengths[2]) if state[_POWER_MIXTURE] > _QUIET else 0.0
        power_weight = (1.0 - decay) / (n * channels)
        state[_POWER_MIX] = decay * state[_POWER_MIX] + power_weight * power_mix
        state[_POWER_MIXTURE] = decay * state[_POWER_MIXTURE] + power_weight * power_mixture
