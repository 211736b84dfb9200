"""Messages by which a page controls a stream: read from JSON, every field checked.

The page's server checks what comes from the browser, and the engine what comes from the server,
by the same functions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rtmtass.errors import RtmtassError
from rtmtass.limits import shown
from rtmtass.live.controls import LARGEST_STRENGTH_DB, LOWEST_GAIN_DB
from rtmtass.live.page_controls import HIGHEST_GAIN_DB

LONGEST = 4096
"""Bytes of a message, at most."""
_LONGEST_ID = 9


class MessageError(RtmtassError):
    """A message isn't one of those known; nothing was changed."""


@dataclass(frozen=True)
class Message:
    """A checked message.

    Attributes:
        do: "gain", "mute", "solo", "strength", "bypass", "record", "reset", "start" or "stop".
        stem: of "gain", "mute" and "solo".
        db: of "gain" and "strength"; None is -inf for a gain, and no limit for a strength.
        on: of "mute", "solo", "bypass" and "record".
        input, output: of "start": numbers of devices; None is the default.
    """

    do: str
    stem: str = ""
    db: float | None = None
    on: bool = False
    input: str | None = None
    output: str | None = None

    def to_json(self) -> str:
        """Return the text that `parse_message` reads."""
        return json.dumps({"do": self.do} | {key: getattr(self, key) for key in _KEYS[self.do]})


def parse_message(text: str, stems: tuple[str, ...]) -> Message:
    """Read a message.

    Args:
        text: JSON, an object with exactly the keys of its kind.
        stems: the stems there are.

    Raises:
        MessageError: it isn't a message; the error says what was expected.
    """
    if len(text) > LONGEST:
        raise MessageError(f"a message has at most {LONGEST} characters, not {len(text)}")
    try:
        values = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise MessageError('a message is a JSON object, as in {"do": "stop"}') from None
    if not isinstance(values, dict):
        raise MessageError(f'a message is an object, as in {{"do": "stop"}}, not {shown(values)}')
    do = values.pop("do", None)
    if not isinstance(do, str) or do not in _KEYS:
        raise MessageError(f'"do" is {shown(do)}, not one of {", ".join(_KEYS)}')
    if values.keys() != set(_KEYS[do]):
        expected = ", ".join(_KEYS[do]) or "no other key"
        raise MessageError(f"{do!r} has the keys {shown(sorted(values))}, expected {expected}")
    fields: dict[str, Any] = {}
    for key, value in values.items():
        fields[key] = _CHECKS[do, key](value) if (do, key) in _CHECKS else _CHECKS["", key](value)
    if fields.get("stem", stems[0]) not in stems:
        raise MessageError(f"unknown stem {shown(fields['stem'])}; choose from {', '.join(stems)}")
    return Message(do, **fields)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} isn't JSON")


def _decibels(low: float, high: float) -> Callable[[object], float | None]:
    def check(value: object) -> float | None:
        if value is None:
            return None
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        # As whole numbers first: those of hundreds of digits are no floats.
        if not is_number or not low <= value <= high:  # type: ignore[operator]
            raise MessageError(f'"db" is {shown(value)}, not {low:g} to {high:g} or null')
        return float(value)  # type: ignore[arg-type]

    return check


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise MessageError(f'"on" is {shown(value)}, not true or false')
    return value


def _stem(value: object) -> str:
    if not isinstance(value, str):
        raise MessageError(f'"stem" is {shown(value)}, not a name')
    return value


def _device(value: object) -> str | None:
    if value is None:
        return None
    is_id = isinstance(value, str) and value.isascii() and value.isdecimal()
    if not is_id or len(str(value)) > _LONGEST_ID:
        raise MessageError(f"a device is {shown(value)}, not a number as a text, or null")
    return str(value)


_KEYS: Mapping[str, tuple[str, ...]] = {
    "gain": ("stem", "db"),
    "mute": ("stem", "on"),
    "solo": ("stem", "on"),
    "strength": ("db",),
    "bypass": ("on",),
    "record": ("on",),
    "reset": (),
    "start": ("input", "output"),
    "stop": (),
}
"""The keys of each kind of message, beside "do"."""
_CHECKS: Mapping[tuple[str, str], Callable[[object], Any]] = {
    ("gain", "db"): _decibels(LOWEST_GAIN_DB, HIGHEST_GAIN_DB),
    ("strength", "db"): _decibels(0.0, LARGEST_STRENGTH_DB),
    ("", "stem"): _stem,
    ("", "on"): _flag,
    ("", "input"): _device,
    ("", "output"): _device,
}
"""How each value is checked: by kind and key, or by key alone."""
