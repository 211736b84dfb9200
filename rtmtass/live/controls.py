"""What keys do to a running engine; the display that reads them is in another process."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the display's process imports this room too, and should start at once
    from rtmtass.live.mixer import Mixer
    from rtmtass.live.recorder import TakeRecorder

GAIN_STEP_DB = 1.0
LOWEST_GAIN_DB = -60.0
STRENGTH_STEP_DB = 3.0
LARGEST_STRENGTH_DB = 60.0

KEYS = (
    ("left/right", "choose a stem"),
    ("up/down", "its gain"),
    ("m", "mute it"),
    ("s", "solo it"),
    ("[ ]", "strength: how far the others are pushed down"),
    ("b", "bypass: hear the input, as loud"),
    ("r", "record on/off"),
    ("0", "all gains to 0 dB"),
    ("q", "quit"),
)
"""Every key and what it does, for the display and the manual."""


@dataclass(frozen=True)
class ControlState:
    """What the display shows of the settings; `strength_db` None is no limit."""

    selected: str
    gains_db: dict[str, float | None]
    muted: tuple[str, ...]
    soloed: tuple[str, ...]
    strength_db: float | None
    is_bypassed: bool
    can_record: bool


class Controls:
    """Turns key names into changes of mixer and recorder.

    Attributes:
        is_over: somebody wants to quit.
    """

    def __init__(self, mixer: Mixer, recorder: TakeRecorder | None = None) -> None:
        self._mixer, self._recorder = mixer, recorder
        self._selected = 0
        self.is_over = False

    @property
    def selected(self) -> str:
        """The stem that gain, mute and solo are about."""
        return self._mixer.stems[self._selected]

    def press(self, key: str) -> None:
        """Do what a key stands for; others do nothing."""
        mixer, settings = self._mixer, self._mixer.settings
        stem = self.selected
        if key in ("left", "right"):
            move = 1 if key == "right" else -1
            self._selected = (self._selected + move) % len(mixer.stems)
        elif key in ("up", "down"):
            step = GAIN_STEP_DB if key == "up" else -GAIN_STEP_DB
            mixer.set_gain(stem, _stepped_gain(settings.gains_db[stem], step))
        elif key == "m":
            mixer.set_mute(stem, stem not in settings.muted)
        elif key == "s":
            mixer.set_solo(stem, stem not in settings.soloed)
        elif key in ("[", "]"):
            step = STRENGTH_STEP_DB if key == "]" else -STRENGTH_STEP_DB
            mixer.set_strength(_stepped_strength(settings.strength_db, step))
        elif key == "b":
            mixer.set_bypass(not settings.is_bypassed)
        elif key == "0":
            for name in mixer.stems:
                mixer.set_gain(name, 0.0)
        elif key == "r" and self._recorder:
            (self._recorder.stop if self._recorder.is_wished else self._recorder.start)()
        elif key == "q":
            self.is_over = True

    def state(self) -> ControlState:
        """Return what to show."""
        settings = self._mixer.settings
        return ControlState(
            selected=self.selected,
            gains_db={k: v if math.isfinite(v) else None for k, v in settings.gains_db.items()},
            muted=tuple(sorted(settings.muted)),
            soloed=tuple(sorted(settings.soloed)),
            strength_db=settings.strength_db if math.isfinite(settings.strength_db) else None,
            is_bypassed=settings.is_bypassed,
            can_record=self._recorder is not None,
        )


def _stepped_gain(gain_db: float, step_db: float) -> float:
    """Below the lowest gain comes silence, and from there it starts again."""
    if gain_db == -math.inf:
        return LOWEST_GAIN_DB if step_db > 0 else gain_db
    changed = gain_db + step_db
    return -math.inf if changed < LOWEST_GAIN_DB else changed


def _stepped_strength(strength_db: float, step_db: float) -> float:
    """Beyond the largest strength there is no limit any more."""
    if strength_db == math.inf:
        return math.inf if step_db > 0 else LARGEST_STRENGTH_DB
    changed = strength_db + step_db
    return math.inf if changed > LARGEST_STRENGTH_DB else max(changed, 0.0)
