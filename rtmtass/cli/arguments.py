"""Parsers of option values, and the options that several commands share.

Each parser is a `type` of argparse, which puts the option's name before the message.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from rtmtass.config import PASSES, PRECISIONS, TORCH_PRECISIONS
from rtmtass.errors import UsageError
from rtmtass.live.endpoints import Endpoint, parse_sink, parse_source

if TYPE_CHECKING:
    from rtmtass.io.protocols import Sink, Source

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]
    """What `register` of a command gets; argparse has no public name for it."""

T = TypeVar("T")
_LOUDEST_DB = 200.0
_MOST_DIGITS = 18


def count(text: str) -> int:
    """Parse a whole number, 1 or more."""
    if not text.isdecimal() or not text.strip("0"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number; give 1 or more")
    if len(text) > _MOST_DIGITS:
        raise argparse.ArgumentTypeError(f"a number of {len(text)} digits is too large")
    return int(text)


def counts(text: str) -> tuple[int, ...]:
    """Parse whole numbers separated by commas, each 1 or more."""
    try:
        return tuple(count(word) for word in words(text))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list of numbers from 1; write it as in 1,2"
        ) from None


def words(text: str) -> tuple[str, ...]:
    """Parse words separated by commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def seconds(text: str) -> float:
    """Parse a duration in seconds, more than 0."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time in seconds; give more than 0")
    return value


def milliseconds(text: str) -> float:
    """Parse a time in ms, 0 or more."""
    value = _number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time in ms; give 0 or more")
    return value


def opus_bitrate(text: str) -> float:
    """Parse a bit rate of Opus in kbit/s, 8 to 128."""
    value = _number(text)
    if not 8 <= value <= 128:
        raise argparse.ArgumentTypeError(f"{text!r} is not a bit rate in kbit/s; give 8 to 128")
    return value


def decibels(text: str) -> float:
    """Parse a level difference in dB, 0 to infinity."""
    value = _number(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a level in dB; give 0 or more, or inf")
    return value


def gains(text: str) -> dict[str, float]:
    """Parse gains in dB by stem, as in "speech=0,music=-12,noise=-inf"."""
    gains_db: dict[str, float] = {}
    for word in words(text):
        name, _, value = word.partition("=")
        gain_db = _number(value.lower().removesuffix("db"))
        if not gain_db < _LOUDEST_DB:  # NaN too
            raise argparse.ArgumentTypeError(
                f"{word!r} is not STEM=DB; write it as in speech=0,music=-20,noise=-inf"
            )
        gains_db[name.strip()] = gain_db
    return gains_db


def source(text: str) -> Endpoint[Source]:
    """Parse a source of `rtmtass live`, as in "udp:9000"."""
    return _checked(parse_source, text)


def sink(text: str) -> Endpoint[Sink]:
    """Parse a sink of `rtmtass live`, as in "udp:192.168.1.20:9001"."""
    return _checked(parse_sink, text)


def _checked(parse: Callable[[str], T], text: str) -> T:
    try:
        return parse(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def add_model(add: Callable[..., object]) -> None:
    """Add `--model` with a parser's `add_argument`; read it with `model_name`."""
    add("--model", metavar="NAME", help="a name of rtmtass models, or a folder"
        " (default: the small released model)")  # fmt: skip


def model_name(arguments: argparse.Namespace) -> str:
    """Return the model of `--model`, or the default one."""
    from rtmtass.weights import DEFAULT  # imports numpy, which --help doesn't need

    return arguments.model or DEFAULT


def add_precision(add: Callable[..., object]) -> None:
    """Add `--precision` with a parser's `add_argument`."""
    known = dict.fromkeys(("auto", *PRECISIONS, *TORCH_PRECISIONS))
    add("--precision", choices=tuple(known), default="auto", help="precision of the weights: int8"
        " is fastest, f32 exact; auto: int8, f32 on torch (default: %(default)s)"
        )  # fmt: skip


def add_passes(add: Callable[..., object]) -> None:
    """Add `--passes` with a parser's `add_argument`."""
    add("--passes", type=int, choices=PASSES, default=1, help="test-time augmentation: average"
        " 2 or 4 passes, for better stems at 2 or 4 times the work; 4 adds 8 ms of latency"
        " (default: %(default)s)")  # fmt: skip
