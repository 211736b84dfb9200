"""Words of the command line turned into values; a word that is none is answered in one line.

Each function is a `type` of argparse, which puts the option's name before the message;
but for the options that several commands share.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

from rtmtass.config import PASSES, PRECISIONS, TORCH_PRECISIONS

_LOUDEST_DB = 200.0


def count(text: str) -> int:
    """Read a whole number, 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no count; give 1 or more")
    return int(text)


def counts(text: str) -> tuple[int, ...]:
    """Read whole numbers with commas between them, each 1 or more."""
    try:
        return tuple(count(word) for word in words(text))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no list of numbers from 1 on; write it as in 1,2"
        ) from None


def words(text: str) -> tuple[str, ...]:
    """Read words with commas between them."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def seconds(text: str) -> float:
    """Read how long something lasts, in seconds."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no time in seconds; give more than 0")
    return value


def milliseconds(text: str) -> float:
    """Read a time in ms that may be 0."""
    value = _number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no time in ms; give 0 or more")
    return value


def opus_bitrate(text: str) -> float:
    """Read a bit rate for Opus in kbit/s: 8 to 128."""
    value = _number(text)
    if not 8 <= value <= 128:
        raise argparse.ArgumentTypeError(f"{text!r} is no bit rate in kbit/s; give 8 to 128")
    return value


def decibels(text: str) -> float:
    """Read how far apart levels may be in dB: 0 to infinity."""
    value = _number(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no distance in dB; give 0 or more, or inf")
    return value


def gains(text: str) -> dict[str, float]:
    """Read "speech=0,music=-12,noise=-inf"; in dB, by stem."""
    found: dict[str, float] = {}
    for word in words(text):
        name, _, value = word.partition("=")
        gain_db = _number(value.lower().removesuffix("db"))
        if not gain_db < _LOUDEST_DB:  # NaN too
            raise argparse.ArgumentTypeError(
                f"{word!r} is no STEM=DB; write it as in speech=0,music=-20,noise=-inf"
            )
        found[name.strip()] = gain_db
    return found


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def add_precision(add: Callable[..., object]) -> None:
    """Add `--precision` by a parser's `add_argument`."""
    known = dict.fromkeys(("auto", *PRECISIONS, *TORCH_PRECISIONS))
    add("--precision", choices=tuple(known), default="auto", help="what weights are kept in: int8"
        " is fastest, f32 exact; auto: int8, f32 on torch (default: %(default)s)"
        )  # fmt: skip


def add_passes(add: Callable[..., object]) -> None:
    """Add `--passes` by a parser's `add_argument`."""
    add("--passes", type=int, choices=PASSES, default=1, help="hear everything 2 or 4 times and"
        " average: better stems for as much more work; 4 is 8 ms later (default: %(default)s)"
        )  # fmt: skip
