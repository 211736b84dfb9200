"""Key bindings of the live display: how each key changes mixer and recorder."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the display's process imports this module too, and must start fast
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
    ("[ ]", "strength: how far the others are turned down"),
    ("b", "bypass: the input, equally loud"),
    ("r", "record on/off"),
    ("0", "all gains to 0 dB"),
    ("q", "quit"),
)
"""Every key and what it does."""


@dataclass(frozen=True)
class ControlState:
    """The settings as the display shows them; gain None is -inf, `strength_db` None no limit."""

    selected: str
    gains_db: dict[str, float | None]
    muted: tuple[str, ...]
    soloed: tuple[str, ...]
    strength_db: float | None
    is_bypassed: bool
    can_record: bool


class Controls:
    """Applies key presses to mixer and recorder.

    Attributes:
        has_quit: "q" was pressed.
    """

    def __init__(self, mixer: Mixer, recorder: TakeRecorder | None = None) -> None:
        self._mixer, self._recorder = mixer, recorder
        self._selected = 0
        self.has_quit = False

    @property
    def selected(self) -> str:
        """The stem that gain, mute and solo apply to."""
        return self._mixer.stems[self._selected]

    def press(self, key: str) -> None:
        """Apply a key; unknown keys do nothing."""
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
            (self._recorder.stop if self._recorder.is_requested else self._recorder.start)()
        elif key == "q":
            self.has_quit = True

    def state(self) -> ControlState:
        """Return the present settings."""
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
    """Change a gain by a step; below `LOWEST_GAIN_DB` it is -inf."""
    if gain_db == -math.inf:
        return LOWEST_GAIN_DB if step_db > 0 else gain_db
    changed = gain_db + step_db
    return -math.inf if changed < LOWEST_GAIN_DB else changed


def _stepped_strength(strength_db: float, step_db: float) -> float:
    """Change a strength by a step; above `LARGEST_STRENGTH_DB` it is unlimited."""
    if strength_db == math.inf:
        return math.inf if step_db > 0 else LARGEST_STRENGTH_DB
    changed = strength_db + step_db
    return math.inf if changed > LARGEST_STRENGTH_DB else max(changed, 0.0)
