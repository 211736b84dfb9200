"""Parsers of option values, and the options that several commands share.

Each parser is a `type` of argparse, which puts the option's name before the message.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rtmtass.config import PASSES, PRECISIONS, TORCH_PRECISIONS
from rtmtass.errors import UsageError
from rtmtass.live.endpoints import Endpoint, parse_port, parse_sink, parse_source

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


def port(text: str) -> int:
    """Parse the number of a port, 1 to 65535."""
    return _checked(parse_port, text)


def megabytes(text: str) -> int:
    """Parse a size in MB, 1 or more; return it in bytes."""
    return count(text) * 1_000_000


def words(text: str) -> tuple[str, ...]:
    """Parse words separated by commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def seconds(text: str) -> float:
    """Parse a duration in seconds, more than 0."""
    return _number_in(
        text, lambda value: 0 < value < math.inf, "a time in seconds; give more than 0"
    )


def moment(text: str) -> float:
    """Parse a time within a recording: seconds, m:ss or h:mm:ss, with decimals."""
    match = re.fullmatch(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d*)?|\.\d+)", text.strip())
    parts = [float(part or 0) for part in match.groups()] if match else []
    is_clock = ":" in text
    if not parts or (is_clock and parts[2] >= 60) or (text.count(":") == 2 and parts[1] >= 60):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a time; write seconds, or as in 2:30 or 1:02:30.5"
        )
    return 3600 * parts[0] + 60 * parts[1] + parts[2]


def run_in(text: str) -> float:
    """Parse a duration in seconds, 0 to infinity."""
    return _number_in(text, lambda value: value >= 0, "a time in s; give 0 or more, or inf")


def minutes(text: str) -> float:
    """Parse a duration in minutes, more than 0 and at most 100,000."""
    return _number_in(
        text,
        lambda value: 0 < value <= 100_000,
        "a time in minutes; give more than 0 and at most 100000",
    )


def clip_seconds(text: str) -> float:
    """Parse the length of a clip in seconds, 0.1 to 3600."""
    return _number_in(
        text,
        lambda value: 0.1 <= value <= 3600,
        "the length of a clip in seconds; give 0.1 to 3600",
    )


def fraction(text: str) -> float:
    """Parse a fraction, 0 to 1."""
    return _number_in(text, lambda value: 0 <= value <= 1, "a fraction; give 0 to 1, as in 0.1")


def seed(text: str) -> int:
    """Parse the seed of random draws, a whole number, 0 or more."""
    if not text.isdecimal() or len(text) > 19:
        raise argparse.ArgumentTypeError(f"{text!r} is not a seed; give a whole number, 0 or more")
    return int(text)


def milliseconds(text: str) -> float:
    """Parse a time in ms, 0 or more."""
    return _number_in(text, lambda value: 0 <= value < math.inf, "a time in ms; give 0 or more")


def opus_bitrate(text: str) -> float:
    """Parse a bit rate of Opus in kbit/s, 8 to 128."""
    return _number_in(text, lambda value: 8 <= value <= 128, "a bit rate in kbit/s; give 8 to 128")


def decibels(text: str) -> float:
    """Parse a level difference in dB, 0 to infinity."""
    return _number_in(text, lambda value: value >= 0, "a level in dB; give 0 or more, or inf")


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


def _number_in(text: str, is_fit: Callable[[float], bool], expected: str) -> float:
    """Parse a number; an error says that the text is not `expected`."""
    value = _number(text)
    if not is_fit(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def add_model(add: Callable[..., object]) -> None:
    """Add `--model` with a parser's `add_argument`; read it with `model_name`."""
    add("--model", metavar="NAME", help="a name of rtmtass models, a folder, or that of a training"
        " run, whose best model it is (default: the small released model)")  # fmt: skip


def model_name(arguments: argparse.Namespace) -> str:
    """Return the model of `--model`, or the default one."""
    from rtmtass.weights import DEFAULT  # imports numpy, which --help doesn't need

    name: str = arguments.model or DEFAULT
    best = Path(name) / "best"
    is_run = (best / "config.json").is_file() and not (Path(name) / "config.json").is_file()
    return str(best) if is_run else name


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
