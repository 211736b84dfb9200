"""How the keys of the live display and the messages of a page change mixer and recorder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the display's and the page's process import this module, and must start fast
    from rtmtass.live.messages import Message
    from rtmtass.live.mixer import Mixer
    from rtmtass.live.recorder import TakeRecorder

GAIN_STEP_DB = 1.0
LOWEST_GAIN_DB, HIGHEST_GAIN_DB = -60.0, 20.0
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


def initial_state(
    stems: Sequence[str], gains_db: Mapping[str, float], strength_db: float = math.inf
) -> ControlState:
    """Return the settings of a stream that begins with these gains; 0 dB where not given."""
    gains = {**dict.fromkeys(stems, 0.0), **gains_db}
    return ControlState(
        selected=stems[0],
        gains_db={stem: _finite(min(gain, HIGHEST_GAIN_DB)) for stem, gain in gains.items()},
        muted=(),
        soloed=(),
        strength_db=_finite(strength_db),
        is_bypassed=False,
        can_record=True,
    )


def changed(state: ControlState, message: Message) -> ControlState:
    """Return the settings after a message; the same where it changes none."""
    stem = message.stem
    if message.do == "gain":
        return replace(state, gains_db={**state.gains_db, stem: message.db})
    if message.do == "mute":
        return replace(state, muted=_with(state.muted, stem, message.on))
    if message.do == "solo":
        return replace(state, soloed=_with(state.soloed, stem, message.on))
    if message.do == "strength":
        return replace(state, strength_db=message.db)
    if message.do == "bypass":
        return replace(state, is_bypassed=message.on)
    if message.do == "reset":
        return replace(state, gains_db=dict.fromkeys(state.gains_db, 0.0), muted=(), soloed=())
    return state


class Controls:
    """Applies key presses and messages to mixer and recorder.

    Attributes:
        has_quit: "q" was pressed, or a message stopped the stream.
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

    def apply(self, message: Message) -> None:
        """Apply a message; "start" does nothing, as the stream runs."""
        if message.do == "record" and self._recorder:
            (self._recorder.start if message.on else self._recorder.stop)()
        elif message.do == "stop":
            self.has_quit = True
        else:
            self._adopt(changed(self.state(), message))

    def _adopt(self, state: ControlState) -> None:
        """Set the mixer where it differs from `state`."""
        mixer, before = self._mixer, self.state()
        for stem, gain_db in state.gains_db.items():
            if gain_db != before.gains_db[stem]:
                mixer.set_gain(stem, -math.inf if gain_db is None else gain_db)
            if (stem in state.muted) != (stem in before.muted):
                mixer.set_mute(stem, stem in state.muted)
            if (stem in state.soloed) != (stem in before.soloed):
                mixer.set_solo(stem, stem in state.soloed)
        if state.strength_db != before.strength_db:
            mixer.set_strength(math.inf if state.strength_db is None else state.strength_db)
        if state.is_bypassed != before.is_bypassed:
            mixer.set_bypass(state.is_bypassed)

    def state(self) -> ControlState:
        """Return the present settings."""
        settings = self._mixer.settings
        return ControlState(
            selected=self.selected,
            gains_db={stem: _finite(gain) for stem, gain in settings.gains_db.items()},
            muted=tuple(sorted(settings.muted)),
            soloed=tuple(sorted(settings.soloed)),
            strength_db=_finite(settings.strength_db),
            is_bypassed=settings.is_bypassed,
            can_record=self._recorder is not None,
        )


def _finite(level_db: float) -> float | None:
    return level_db if math.isfinite(level_db) else None


def _with(stems: tuple[str, ...], stem: str, is_in: bool) -> tuple[str, ...]:
    """Return the sorted stems with or without one."""
    others = [each for each in stems if each != stem]
    return tuple(sorted([*others, stem] if is_in else others))


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
