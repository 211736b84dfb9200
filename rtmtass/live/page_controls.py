"""Absolute settings, as a page's messages hold them: of a running stream, and before it runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rtmtass.live.controls import Controls, ControlState

if TYPE_CHECKING:  # the page's server imports this module too, and must start fast
    from rtmtass.live.messages import Message

HIGHEST_GAIN_DB = 20.0
"""The mixer's; a test compares them."""


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


class PageControls(Controls):
    """Applies the messages of a page besides key presses; both from one thread.

    Attributes:
        has_quit: "q" was pressed, or a message stopped the stream.
    """

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


def _finite(level_db: float) -> float | None:
    return level_db if math.isfinite(level_db) else None


def _with(stems: tuple[str, ...], stem: str, is_in: bool) -> tuple[str, ...]:
    """Return the sorted stems with or without one."""
    others = [each for each in stems if each != stem]
    return tuple(sorted([*others, stem] if is_in else others))
