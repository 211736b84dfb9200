"""Checks of a config's fields, which come from files that anybody may have written."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from rtmtass.errors import ModelError

Bounds = Mapping[str, tuple[float, float]]
"""Smallest and largest value of each number, or of each number of a list."""

_KINDS: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "str": (str,),
    "tuple[int, ...]": (int,),
    "tuple[str, ...]": (str,),
}
_NAMES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "tuple[int, ...]": "a list of whole numbers",
    "tuple[str, ...]": "a list of texts",
}
_LONGEST = 256


def check_types(config: Any) -> None:
    """Check that each field of a dataclass has the type that it declares.

    Raises:
        ModelError: one hasn't, or a number isn't finite.
    """
    for field in dataclasses.fields(config):
        kind, value = str(field.type), getattr(config, field.name)
        if kind not in _KINDS:  # another config, checked on its own
            if not dataclasses.is_dataclass(value):
                raise ModelError(f"{field.name} must be a table, not {shown(value)}")
            continue
        is_list = kind.startswith("tuple")
        if is_list and not isinstance(value, tuple):
            raise ModelError(f"{field.name} must be {_NAMES[kind]}, not {shown(value)}")
        for item in value if is_list else (value,):
            if not isinstance(item, _KINDS[kind]) or isinstance(item, bool) != (kind == "bool"):
                raise ModelError(f"{field.name} must be {_NAMES[kind]}, not {shown(value)}")
            if isinstance(item, float) and not math.isfinite(item):
                raise ModelError(f"{field.name} must be finite, not {item}")


def check_bounds(config: Any, bounds: Bounds) -> None:
    """Check that the numbers of a config lie within bounds, both inclusive.

    Raises:
        ModelError: one doesn't, or a list is too long.
    """
    for name, (low, high) in bounds.items():
        value = getattr(config, name)
        items = value if isinstance(value, tuple) else (value,)
        if len(items) > _LONGEST:
            raise ModelError(f"{name} must have at most {_LONGEST} values, not {len(items)}")
        for item in items:
            if not low <= item <= high:
                raise ModelError(f"{name} must be {low:g} to {high:g}, not {shown(item)}")


def shown(value: object) -> str:
    """Return a value as an error shows it: in one short line."""
    if isinstance(value, int) and not -(10**18) < value < 10**18:
        return "a number of more than 18 digits"  # Python refuses to print the longest
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
