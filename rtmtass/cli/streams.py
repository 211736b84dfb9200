"""Stdin, stdout and stderr that can't fail: closed, not UTF-8, or without a reader."""

from __future__ import annotations

import codecs
import contextlib
import ctypes
import functools
import io
import json
import os
import sys
from typing import Any

from rtmtass.errors import OutputError

_LOOKALIKES = str.maketrans(
    {
        "→": "->", "←": "<-", "↑": "^", "↓": "v", "…": "...", "–": "-", "—": "-", "−": "-",
        "×": "x", "·": "*", "•": "*", "≤": "<=", "≥": ">=", "≈": "~", "±": "+-", "∞": "inf",
        "µ": "u", "°": " deg", "█": "#", "▌": "|", "│": "|", "─": "-", "━": "-", "✓": "ok",
        "├": "+", "└": "`", "▏": "|", "■": "#", "●": "*", "²": "2", "³": "3",
        "’": "'", "‘": "'", "“": '"', "”": '"',
    }
)  # fmt: skip
"""Text for symbols in our output that an encoding may lack; other characters are escaped."""
_ERRORS = "rtmtass.lookalike"


def prepare_streams() -> None:
    """Make the standard streams usable; may be called twice.

    Closed ones read and write nothing, which also keeps their numbers from output files.
    Characters that an encoding lacks are replaced. Messages that stderr can't take are dropped.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
        if getattr(sys, name) is None:
            file = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, file)
    codecs.register_error(_ERRORS, _lookalike)
    if _has_descriptor(sys.stdout, 1):
        sys.stdout = _over(_Stdout(1, "wb", closefd=False), sys.stdout)
    if _has_descriptor(sys.stderr, 2):  # a copy, so that 2 can be redirected for noisy libraries
        sys.stderr = _over(_Stderr(os.dup(2), "wb"), sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERRORS)


@functools.cache
def quiet_c_libraries() -> None:
    """Discard what C libraries print to their `stderr`, such as libmpg123's notes on MP3 frames.

    Python's own messages stay, and so does what a crash writes to descriptor 2.
    """
    name = {"linux": "stderr", "darwin": "__stderrp"}.get(sys.platform)
    with contextlib.suppress(OSError, ValueError, AttributeError):
        c = ctypes.CDLL(None)
        c.fopen.restype = ctypes.c_void_p
        stream = ctypes.c_void_p.in_dll(c, name or "")
        stream.value = c.fopen(os.devnull.encode(), b"w") or stream.value


def print_json(value: Any) -> None:
    """Print one line of JSON at once: ASCII if stdout's encoding lacks a character.

    Names that aren't UTF-8 are escaped too: `os.fsencode` of the parsed text is the name. After
    the reader of stdout has gone this does nothing, so that a series goes on.

    Raises:
        OutputError: stdout can't be written.
    """
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value)
    try:
        print(text, flush=True)
    except BrokenPipeError:
        discard_stdout()


def discard_stdout() -> None:
    """Send what is still printed nowhere, also by Python at its exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def _lookalike(error: UnicodeError) -> tuple[str, int]:
    """Return replacements for characters that can't be encoded, as a codec's error handler."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_escape, error.object[error.start : error.end])), error.end


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a name that isn't UTF-8, PEP 383
        return f"\\x{code - 0xDC00:02x}"
    replaced = character.translate(_LOOKALIKES)
    return replaced if replaced.isascii() else json.dumps(character)[1:-1]  # also within JSON


def _has_descriptor(stream: object, number: int) -> bool:
    try:
        return isinstance(stream, io.TextIOWrapper) and stream.fileno() == number
    except (OSError, ValueError):
        return False


class _Stdout(io.FileIO):
    """Stdout, whose write errors are the user's to mend, but for a closed pipe."""

    def write(self, data: Any, /) -> int:
        """Write part of `data`.

        Raises:
            BrokenPipeError: the reader has gone.
            OutputError: as of a full disk; what is printed later goes nowhere.
        """
        try:
            return super().write(data) or 0
        except BrokenPipeError:
            raise
        except OSError as error:
            discard_stdout()
            raise OutputError(
                f"stdout can't be written: {error.strerror}; redirect it to another disk"
            ) from error


class _Stderr(io.FileIO):
    """Stderr, whose write errors are dropped: there is nowhere to print them."""

    def write(self, data: Any, /) -> int:
        """Write part of `data`; after an error, nowhere."""
        try:
            return super().write(data) or 0
        except OSError:
            return len(data)


def _over(raw: io.FileIO, stream: Any) -> io.TextIOWrapper:
    """Return a text stream over `raw` that is like `stream`."""
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        stream.encoding,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
