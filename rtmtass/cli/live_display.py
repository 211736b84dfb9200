"""The live display, a process of its own so that drawing can't delay the audio.

It receives the engine's state as JSON over a connection, draws it, and sends keys back.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from rich.console import Console
from rich.live import Live

from rtmtass.cli.live_screen import PeakHold, draw
from rtmtass.live.linked_process import DISPLAY, connect

_FRAME_S = 0.05
_ESCAPES = {"A": "up", "B": "down", "C": "right", "D": "left"}


@contextmanager
def _raw_keys() -> Iterator[int | None]:
    """Read single keys without echo; yields the file descriptor, or None off a terminal."""
    if sys.platform == "win32" or not sys.stdin.isatty():
        yield None
        return
    import termios
    import tty

    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)
    tty.setcbreak(number)
    try:
        yield number
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)


def _pressed(number: int | None) -> list[str]:
    """Return the keys pressed since the last call."""
    if sys.platform == "win32":
        import msvcrt

        arrows = {"H": "up", "P": "down", "M": "right", "K": "left"}
        keys = []
        while msvcrt.kbhit():
            key = msvcrt.getwch()
            keys.append(arrows.get(msvcrt.getwch(), "") if key in "\x00\xe0" else key)
        return keys
    if number is None or not select.select([number], [], [], 0)[0]:
        return []
    return parse_keys(os.read(number, 256).decode("utf-8", "replace"))


def parse_keys(text: str) -> list[str]:
    """Parse terminal input into names of keys."""
    keys, position = [], 0
    while position < len(text):
        if text[position] == "\x1b" and text[position + 1 : position + 2] in ("[", "O"):
            keys.append(_ESCAPES.get(text[position + 2 : position + 3], ""))
            position += 3
        else:
            keys.append(text[position])
            position += 1
    return [key for key in keys if key]


def show(connection: Connection) -> None:
    """Draw every state received until the connection closes; send keys back."""
    holds, console = PeakHold(), Console()
    newest: dict[str, Any] | None = None
    with (
        _raw_keys() as number,
        Live(console=console, screen=True, auto_refresh=False, transient=True) as live,
    ):
        while True:
            while connection.poll(0 if newest else _FRAME_S):
                newest = json.loads(connection.recv_bytes())
            for key in _pressed(number):
                connection.send_bytes(key.encode())
            if newest:
                size = console.size
                drawn = draw(newest, holds, time.monotonic(), size.width, size.height)
                live.update(drawn, refresh=True)
            newest = None


def main() -> None:
    """Connect to the engine's process and show its state until it ends."""
    # Ctrl-C is handled by the engine's process, which then closes the connection.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(EOFError, ConnectionError), connect(DISPLAY) as connection:
        show(connection)


if __name__ == "__main__":
    main()
