"""What the adapters share: weights for all calls of a process, and the settings of each call."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from rtmtass.agents.stream import MixStream
from rtmtass.config import STEMS
from rtmtass.errors import UsageError
from rtmtass.live.mixer import Mixer, MixSettings
from rtmtass.live.presets import BUILT_IN
from rtmtass.separator import Separator, load
from rtmtass.types import SAMPLE_RATE
from rtmtass.weights import DEFAULT

STRENGTH_DB = 6.0
"""How far music and noise are turned down unless set otherwise; see README.md, "Strength"."""
_VOICE = BUILT_IN["voice"]
_networks: dict[str, Separator] = {}
_opening = threading.Lock()


def network(model: str = DEFAULT) -> Separator:
    """Return a separator on weights that the whole process shares; the first call opens them.

    Any number of streams are made of it by `fork`; its own isn't used. May be called from any
    thread.

    Args:
        model: name of a released model, or a folder with one.

    Raises:
        ModelError: no such model, or its files were altered.
    """
    with _opening:
        if model not in _networks:
            _networks[model] = load(model)
        return _networks[model]


def warm_up(*sample_rates: int, model: str = DEFAULT) -> None:
    """Open the weights and load all machine code, so that no call has to wait for either.

    Takes a second or two, after an installation ten or more. For a server's start.

    Args:
        sample_rates: that calls will have, in Hz.
        model: as in `network`.

    Raises:
        ModelError, UsageError: no such model; a rate is out of range.
    """
    separator = network(model)
    for sample_rate in sample_rates or (SAMPLE_RATE,):
        stream = MixStream(separator, Mixer(separator.stems, sample_rate), sample_rate)
        stream.process(np.zeros((3 * stream.hop, 1), np.int16))


class Call:
    """Base of the adapters: the settings of a call, and the stream that follows them.

    Settings may be changed from any thread, before a stream, between two, and while one runs:
    then they take 40 ms, without a click.

    Args:
        model: name or folder of a model, see `network`.
        separator: provides the network instead of `model`.
        gains_db: gains in dB by stem; of those not given, speech has 0 dB, and music and noise
            are off, as far as the strength allows.
        strength_db: how far a stem may lie below the loudest, from 0 dB, where the sound stays
            as it is, to infinity, where the gains apply in full.

    Attributes:
        stream: the present stream; None before the first and after the last.

    Raises:
        UsageError: unknown stem, a gain is NaN or the strength is below 0 dB.
    """

    def __init__(
        self,
        *,
        model: str = DEFAULT,
        separator: Separator | None = None,
        gains_db: Mapping[str, float] | None = None,
        strength_db: float = STRENGTH_DB,
    ) -> None:
        self._model, self._given = model, separator
        self._lock = threading.Lock()
        self.stream: MixStream | None = None
        stems = separator.stems if separator else STEMS
        gains = {stem: _VOICE.get(stem, 0.0) for stem in stems} | dict(gains_db or {})
        self._mixer = Mixer(stems, SAMPLE_RATE, gains_db=gains, is_bypass_matched=False)
        self._mixer.set_strength(strength_db)

    @property
    def settings(self) -> MixSettings:
        """The present settings."""
        return self._mixer.settings

    @property
    def delay_ms(self) -> float | None:
        """What the stream adds to the way of the sound, in ms; constant. None without a stream."""
        stream = self.stream
        return stream.delay_ms if stream else None

    def set_gain(self, stem: str, gain_db: float) -> None:
        """Set one stem's gain in dB, -inf to +20. Raises UsageError: unknown stem, or NaN."""
        with self._lock:
            self._mixer.set_gain(stem, gain_db)

    def set_strength(self, strength_db: float) -> None:
        """Limit how far stems may lie below the loudest. Raises UsageError: below 0 dB, or NaN."""
        with self._lock:
            self._mixer.set_strength(strength_db)

    def set_bypass(self, is_bypassed: bool) -> None:
        """Output the input, as late as the mix and otherwise bit for bit; or the mix again."""
        with self._lock:
            self._mixer.set_bypass(is_bypassed)

    def update(self, settings: Mapping[str, Any]) -> None:
        """Set strength and gains by name.

        Args:
            settings: "strength_db", a number; "gains_db", a mapping of stems to numbers.

        Raises:
            UsageError: another name, or a value out of range. Nothing is changed if a name or a
                type is wrong.
        """
        unknown = settings.keys() - {"strength_db", "gains_db"}
        if unknown:
            raise UsageError(
                f"unknown setting {', '.join(sorted(unknown))}; choose from gains_db, strength_db"
            )
        try:
            gains = {k: float(v) for k, v in dict(settings.get("gains_db", {})).items()}
            strength_db = float(settings.get("strength_db", self.settings.strength_db))
        except (TypeError, ValueError):
            raise UsageError(
                f"got the settings {dict(settings)}, expected numbers in dB, as in"
                " {'strength_db': 6.0, 'gains_db': {'music': -20.0}}"
            ) from None
        self.set_strength(strength_db)
        for stem, gain_db in gains.items():
            self.set_gain(stem, gain_db)

    def open(self, sample_rate: int, channels: int = 1) -> MixStream:
        """Start a new stream with the present settings; one that runs is dropped.

        Takes 10 to 20 ms at a rate other than the model's, and longer before `warm_up`; may be
        called from any thread.

        Args:
            sample_rate: in Hz.
            channels: of the stream.

        Raises:
            ModelError, UsageError: no such model; the rate is out of range.
        """
        separator = self._given or network(self._model)
        mixer = Mixer(separator.stems, sample_rate, channels, is_bypass_matched=False)
        stream = MixStream(separator, mixer, sample_rate, channels)
        with self._lock:
            settings = self._mixer.settings
            for stem, gain_db in settings.gains_db.items():
                mixer.set_gain(stem, gain_db)
            mixer.set_strength(settings.strength_db)
            mixer.set_bypass(settings.is_bypassed)
            mixer.reset()  # apply without a ramp
            self._mixer, self.stream = mixer, stream
        return stream

    def close(self) -> None:
        """Drop the stream and its memory; the settings stay."""
        self.stream = None
