"""Mixes stems: gain, mute, solo, strength and bypass, every change ramped so that none clicks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from rtmtass.errors import UsageError
from rtmtass.live.meters import level_db
from rtmtass.live.mix_kernels import (
    FADE_MS,
    IS_BYPASS_MATCHED,
    IS_DRY_WHEN_LATE,
    MASTER,
    MATCH_S,
    MAX_GAIN_DB,
    N_COLUMNS,
    N_EXTRA,
    N_LAST,
    N_LENGTHS,
    N_LEVELS,
    N_OTHER_METERS,
    N_STATE,
    RAMP_MS,
    fill_lengths,
    fill_targets,
    mix,
    start_mix,
)
from rtmtass.types import Doubles, Floats

__all__ = [
    "FADE_MS",
    "MATCH_S",
    "MAX_GAIN_DB",
    "RAMP_MS",
    "WHEN_LATE",
    "Levels",
    "MixSettings",
    "Mixer",
]


WHEN_LATE = ("dry", "silence")
"""What is output where stems are missing: the mixture, or nothing."""


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
        targets = np.zeros(len(self.gains_db) + N_EXTRA)
        self.fill(targets)
        return dict(zip(self.gains_db, targets.tolist(), strict=False))

    def fill(self, targets: Doubles) -> None:
        """Write the linear gain of each stem, then that of the bypass; see `fill_targets`."""
        audible = [
            stem not in self.muted and (not self.soloed or stem in self.soloed)
            for stem in self.gains_db
        ]
        fill_targets(
            np.array([*self.gains_db.values()], np.float64), np.array(audible, np.uint8),
            float(self.strength_db), self.is_bypassed, targets,
        )  # fmt: skip


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
        is_bypass_matched: whether a bypass is as loud as the mix, to compare the two. Otherwise
            it is the input, bit for bit once the ramp is over, as hosts of plugins expect.

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
        is_bypass_matched: bool = True,
    ) -> None:
        if when_late not in WHEN_LATE:
            raise UsageError(f"when_late={when_late!r}; choose from {', '.join(WHEN_LATE)}")
        self.when_late = when_late
        self.stems = tuple(stems)
        self.n_rows = len(self.stems) if is_split else 1
        n_stems = len(self.stems)
        self._ramps = np.zeros((n_stems + N_EXTRA, N_COLUMNS))
        self._targets = np.ones(n_stems + N_EXTRA)
        self._state = np.zeros(N_STATE)
        self._last = np.zeros((N_LAST, self.n_rows, channels))
        self._meters = np.zeros((n_stems + N_OTHER_METERS, N_LEVELS))
        self._lengths = np.zeros(N_LENGTHS)
        self._lengths[IS_DRY_WHEN_LATE] = when_late == "dry"
        self._lengths[IS_BYPASS_MATCHED] = is_bypass_matched
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
        fill_lengths(sample_rate, self._lengths)

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
        """Output the input instead, aligned with the mix; see `is_bypass_matched`."""
        self._apply(replace(self.settings, is_bypassed=is_bypassed))

    def fade_out(self) -> None:
        """Ramp the output to silence, as before a stop."""
        self._targets[len(self.stems) + MASTER] = 0.0

    def reset(self) -> None:
        """Clear all signal state; the settings stay and apply without a ramp."""
        self._apply(self.settings)
        start_mix(self._targets, self._ramps, self._state, self._last, self._meters, self._lengths)

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
        mix(
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
        settings.fill(self._targets)
