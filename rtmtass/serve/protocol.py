"""The messages of the service: what a client may send, and how a connection ends.

`rtmtass/serve/README.md` describes the protocol for those who write clients.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from rtmtass.errors import RtmtassError
from rtmtass.live.mix_kernels import MAX_GAIN_DB

FORMATS = {"pcm16": 2, "f32": 4}
"""Bytes of a sample, by the name of its format; both little-endian."""
OUTPUTS = ("stems", "mix")
LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 8_000, 96_000
MOST_CHANNELS = 8
LONGEST_TEXT = 4096
"""Bytes of a text message."""
LONGEST_MESSAGE = 1 << 18
"""Bytes of a binary message."""
_LOWEST_GAIN_DB, _STRONGEST_DB = -120.0, 120.0


class Code(IntEnum):
    """Close codes of RFC 6455 and its registry, as this service uses them."""

    DONE = 1000
    """All samples were returned after `end`."""
    GOING_AWAY = 1001
    """The server is being stopped."""
    WRONG_TYPE = 1003
    """Sound before the hello."""
    BAD_DATA = 1007
    """Text that isn't a JSON object, half a sample, NaN."""
    POLICY = 1008
    """Too slow: no hello, no sound, output not read; or too long."""
    TOO_BIG = 1009
    BUG = 1011
    FULL = 1013
    """No room for another stream; try again later."""


class ClosingError(RtmtassError):
    """Ends a connection: its reason is sent with a close code, and is counted.

    Attributes:
        code: the close code.
        label: a word for the metrics.
    """

    def __init__(self, code: Code, label: str, reason: str) -> None:
        super().__init__(reason)
        self.code, self.label = code, label

    @property
    def message(self) -> bytes:
        """The reason as a close frame holds it: at most 123 bytes."""
        return str(self).encode()[:123].decode(errors="ignore").encode()


@dataclass(frozen=True)
class Hello:
    """The first message of a client.

    Attributes:
        rate: of its samples, in Hz.
        channels: interleaved; each is separated on its own.
        format: one of `FORMATS`, both ways.
        output: one of `OUTPUTS`: every stem, or their mix.
        controls: of the mix.
    """

    rate: int
    channels: int = 1
    format: str = "pcm16"
    output: str = "stems"
    controls: Controls = field(default_factory=lambda: Controls())

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of each channel, as the client sends it."""
        return self.channels * FORMATS[self.format]


@dataclass(frozen=True)
class Controls:
    """Changes to the mix: gains by stem, and the strength; None leaves it unchanged."""

    gains_db: Mapping[str, float] = field(default_factory=dict)
    strength_db: float | None = None


def parse_object(text: str) -> dict[str, Any]:
    """Parse a text message.

    Raises:
        ClosingError: it isn't a JSON object.
    """
    if len(text.encode()) > LONGEST_TEXT:
        raise ClosingError(Code.TOO_BIG, "text", f"a text message may have {LONGEST_TEXT} bytes")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ClosingError(
            Code.BAD_DATA, "text", 'text must be a JSON object, as {"rate": 16000, "channels": 1}'
        )
    return found


def parse_hello(text: str, stems: tuple[str, ...]) -> Hello:
    """Parse the first message.

    Raises:
        ClosingError: it isn't a hello; the reason says what is wrong.
    """
    found = parse_object(text)
    try:
        _check_keys(found, ("rate", "channels", "format", "output", "gains_db", "strength_db"))
        if "rate" not in found:
            raise ValueError('rate is missing; give the sample rate, as {"rate": 16000}')
        return Hello(
            rate=_whole(found, "rate", LOWEST_RATE_HZ, HIGHEST_RATE_HZ, 0),
            channels=_whole(found, "channels", 1, MOST_CHANNELS, 1),
            format=_word(found, "format", tuple(FORMATS)),
            output=_word(found, "output", OUTPUTS[::-1] if _has_mix(found) else OUTPUTS),
            controls=_controls(found, stems),
        )
    except ValueError as error:
        raise ClosingError(Code.BAD_DATA, "hello", str(error)) from None


def parse_controls(found: Mapping[str, Any], stems: tuple[str, ...]) -> Controls:
    """Parse `{"do": "mix", …}`.

    Raises:
        ValueError: something in it isn't valid; the message says what.
    """
    _check_keys(found, ("do", "gains_db", "strength_db"))
    return _controls(found, stems)


def _controls(found: Mapping[str, Any], stems: tuple[str, ...]) -> Controls:
    gains = found.get("gains_db", {})
    if not isinstance(gains, dict):
        raise ValueError('gains_db must be an object, as {"music": -12, "noise": null}')
    for stem in gains:
        if stem not in stems:
            raise ValueError(f"no stem {_shown(stem)}; choose from {', '.join(stems)}")
    gains_db = {
        stem: -math.inf
        if gains[stem] is None
        else _number(gains[stem], f"the gain of {stem}", _LOWEST_GAIN_DB, MAX_GAIN_DB)
        for stem in gains
    }
    strength_db = None
    if "strength_db" in found:
        strength = found["strength_db"]
        strength_db = (
            math.inf if strength is None else _number(strength, "strength_db", 0, _STRONGEST_DB)
        )
    return Controls(gains_db, strength_db)


def _has_mix(found: Mapping[str, Any]) -> bool:
    """Return whether a hello has settings of the mix, and so means one where it names none."""
    return "gains_db" in found or "strength_db" in found


def _check_keys(found: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in found:
        if key not in known:
            raise ValueError(f"unknown key {_shown(key)}; choose from {', '.join(known)}")


def _word(found: Mapping[str, Any], key: str, known: tuple[str, ...]) -> str:
    value = found.get(key, known[0])
    if value not in known:
        raise ValueError(f"{key} is {_shown(value)}; choose from {', '.join(known)}")
    return str(value)


def _whole(found: Mapping[str, Any], key: str, low: int, high: int, default: int) -> int:
    value = found.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{key} is {_shown(value)}; give a whole number from {low} to {high}")
    return value


def _number(value: object, name: str, low: float, high: float) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:  # type: ignore[operator]
        raise ValueError(f"{name} is {_shown(value)}; give {low:g} to {high:g} dB, or null")
    return float(value)  # type: ignore[arg-type]


def _shown(value: object) -> str:
    """Return a client's value as a reason shows it: short, in one line, in ASCII."""
    if isinstance(value, int) and abs(value) > 1 << 60:
        return "too large"  # Python refuses to print the longest
    text = ascii(value)
    return text if len(text) <= 24 else f"{text[:21]}..."
