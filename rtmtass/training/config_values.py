"""Checks values read from a file against a dataclass's annotations: type, range and spelling."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rtmtass.errors import UsageError

_LONGEST_SHOWN = 60
_KINDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "text in quotes",
    "list": "a list of whole numbers",
    "dict": "a table",
}
"""What a value of each type is called in messages."""


@dataclass(frozen=True)
class Between:
    """Annotation of a number: its range, ends included; also of each number in a list.

    Attributes:
        low, high: the ends.
        above: the number must be more than `low`.
        most: of a list, the most numbers in it; there must be at least one.
    """

    low: float
    high: float
    above: bool = False
    most: int = 256

    def __contains__(self, value: float) -> bool:
        """Return whether a number lies in the range; NaN never does."""
        return (self.low < value if self.above else self.low <= value) and value <= self.high

    def __str__(self) -> str:
        """Return the range as text."""
        if self.low == self.high:
            return _plain(self.low)
        return f"{'more than ' * self.above}{_plain(self.low)} to {_plain(self.high)}"


@dataclass(frozen=True)
class OneOf:
    """Annotation of a text: the known values."""

    known: tuple[str, ...]


@dataclass(frozen=True)
class Text:
    """Annotation of a text: what it must look like.

    Attributes:
        pattern: a regular expression for the whole text.
        form: the same in words, for messages.
    """

    pattern: str
    form: str


Rule = Between | OneOf | Text

DEFAULT_RULES: dict[type, Rule] = {
    int: Between(0, 1_000_000_000),
    float: Between(0, 1_000_000_000),
    str: Text(r"[^\x00-\x1f\x7f]{0,4096}", "text of one line"),
    tuple: Between(1, 1_000_000_000),
}
"""Rules of fields whose annotation has none."""


@dataclass(frozen=True)
class FieldRule:
    """What a field accepts.

    Attributes:
        kind: bool, int, float, str, dict, or tuple for a list of whole numbers.
        rule: its range, known values or form; None for bool and dict.
    """

    kind: type
    rule: Rule | None


def rules_of(
    kind: type, more: Mapping[str, Rule] = types.MappingProxyType({})
) -> dict[str, FieldRule]:
    """Return what each field of a dataclass accepts, by its annotation.

    Args:
        kind: the dataclass; a field may be `Annotated` with a rule, or be optional.
        more: rules by field, for a dataclass whose annotations have none.
    """
    hints = typing.get_type_hints(kind, include_extras=True)
    rules = {}
    for item in dataclasses.fields(kind):
        plain, *notes = [hints[item.name]]
        if typing.get_origin(plain) is typing.Annotated:
            plain, *notes = typing.get_args(plain)
        if isinstance(plain, types.UnionType):  # an optional field; TOML has no null
            plain = next(k for k in typing.get_args(plain) if k is not types.NoneType)
        base = typing.get_origin(plain) or plain
        rule = more.get(item.name) or next((n for n in notes if isinstance(n, Rule)), None)
        rules[item.name] = FieldRule(base, rule or DEFAULT_RULES.get(base))
    return rules


def checked(value: Any, accepted: FieldRule, shown_as: str) -> Any:
    """Return a value as its field's type: a float for a whole number, a tuple for a list.

    Args:
        value: as read from TOML or the command line.
        accepted: what the field accepts.
        shown_as: begins the message, such as "small.toml has batch".

    Raises:
        UsageError: the value has another type, or isn't in the range or among the known.
    """
    kind, rule = accepted.kind, accepted.rule
    if not _is_a(value, kind):
        wanted = _KINDS["list" if kind is tuple else kind.__name__]
        raise UsageError(f"{shown_as} = {shorten(value)}; give {wanted}{_range_of(rule)}")
    if isinstance(rule, Between):
        numbers = value if kind is tuple else [value]
        if kind is tuple and not 1 <= len(numbers) <= rule.most:
            raise UsageError(
                f"{shown_as} = {shorten(value)}, of {len(numbers)} numbers;"
                f" give 1 to {rule.most} of them, each {rule}"
            )
        wrong = [number for number in numbers if number not in rule]
        if wrong:
            each = "each " if kind is tuple else ""
            raise UsageError(f"{shown_as} = {shorten(value)}; give {each}{rule}")
    elif isinstance(rule, OneOf) and value not in rule.known:
        raise UsageError(
            f"{shown_as} = {shorten(value)}; give one of: {', '.join(rule.known)}"
            f"{did_you_mean(value, rule.known)}"
        )
    elif isinstance(rule, Text) and not re.fullmatch(rule.pattern, value):
        raise UsageError(f"{shown_as} = {shorten(value)}; give {rule.form}")
    return kind(value) if kind in (float, tuple) else value


def explain_unknown(unknown: Iterable[str], tables: Mapping[str, Collection[str]], own: str) -> str:
    """Return what the unknown keys of a table may stand for; empty if nothing is known.

    Args:
        unknown: the keys.
        tables: the known keys of every table.
        own: name of the table that the unknown keys are in.
    """
    words = []
    for key in sorted(unknown):
        table = next((name for name, keys in tables.items() if key in keys and name != own), "")
        if key in tables:
            words.append(f"{key} is a table of its own, [{key}]")
        elif table:
            words.append(f"{key} is a key of [{table}]")
        else:
            words += filter(None, [did_you_mean(key, tables[own]).strip(" ()")])
    return f": {', '.join(words)}" if words else ""


def did_you_mean(word: str, known: Collection[str]) -> str:
    """Return " (did you mean X?)" if a word resembles a known one, else nothing."""
    close = difflib.get_close_matches(word.lower(), list(known), 1, 0.6)
    return f" (did you mean {close[0]}?)" if close else ""


def shorten(value: Any) -> str:
    """Return a value as it would be typed, cut if it is long."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and abs(value) >= 10**_LONGEST_SHOWN:
        return f"a number of about {round(value.bit_length() * math.log10(2))} digits"
    text = repr(value) if isinstance(value, str | float | list | dict) else str(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 1]}…"


def _is_a(value: Any, kind: type) -> bool:
    if kind is tuple:
        return isinstance(value, list | tuple) and all(_is_a(v, int) for v in value)
    if isinstance(value, bool):  # which Python counts as an int
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _range_of(rule: Rule | None) -> str:
    if isinstance(rule, Between):
        return f", {rule}"
    return f", one of: {', '.join(rule.known)}" if isinstance(rule, OneOf) else ""


def _plain(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"
