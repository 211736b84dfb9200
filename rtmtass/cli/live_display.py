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
from multiprocessing.connection import Client, Connection
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rtmtass.cli.console import clock
from rtmtass.live.controls import KEYS
from rtmtass.live.os_priority import drop_priority

ADDRESS, KEY = "RTMTASS_DISPLAY_ADDRESS", "RTMTASS_DISPLAY_KEY"

_FLOOR_DB = -60.0
_HOLD_S = 1.5
_FRAME_S = 0.05
_ESCAPES = {"A": "up", "B": "down", "C": "right", "D": "left"}
_COLOURS = {"speech": "green", "music": "blue", "noise": "yellow"}


class PeakHold:
    """Holds the recent maximum of each meter's peak for 1.5 s."""

    def __init__(self) -> None:
        self._peaks: dict[str, tuple[float, float]] = {}

    def update(self, name: str, peak_db: float, now_s: float) -> float:
        """Update with the newest peak and return the one to show, in dB."""
        held_db, since_s = self._peaks.get(name, (_FLOOR_DB, 0.0))
        if peak_db >= held_db or now_s - since_s > _HOLD_S:
            self._peaks[name] = peak_db, now_s
            return peak_db
        return held_db


def meter(rms_db: float, peak_db: float, width: int, colour: str) -> Text:
    """Draw a level from -60 to 0 dB with a mark at the held peak."""

    def column(level_db: float) -> int:
        return round((max(_FLOOR_DB, min(0.0, level_db)) / -_FLOOR_DB + 1) * width)

    cells = ["█"] * column(rms_db) + ["·"] * (width - column(rms_db))
    mark = min(column(peak_db), width - 1)
    if peak_db > _FLOOR_DB:
        cells[mark] = "▌"
    bar = Text("".join(cells), style=colour)
    if peak_db > _FLOOR_DB:
        bar.stylize("bold red" if peak_db > -1 else "bold white", mark, mark + 1)
    return bar


def _db(value: float | None) -> str:
    return "  -inf" if value is None else f"{value:6.1f}"


def _or_floor(value: float | None) -> float:
    return _FLOOR_DB if value is None else value


def draw(state: dict[str, Any], holds: PeakHold, now_s: float, width: int) -> Group:
    """Draw one state.

    Args:
        state: {"stats": Stats.to_dict(), "controls": ControlState as a dict, "title": of the
            streams, "messages": the latest lines}.
        holds: peaks held between calls.
        now_s: of any monotonic clock.
        width: of the terminal in columns.
    """
    stats, controls = state["stats"], state["controls"]
    bar = max(10, width - 46)
    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(5):
        table.add_column(no_wrap=True)
    rows = [(name, level, True) for name, level in stats["levels"]["stems"].items()]
    rows += [(name, stats["levels"][name], False) for name in ("mixture", "output")]
    for name, (rms_db, peak_db), is_stem in rows:
        held_db = holds.update(name, _or_floor(peak_db), now_s)
        selected = is_stem and name == controls["selected"]
        label = Text(f"{'>' if selected else ' '} {name}", style="bold reverse" if selected else "")
        gain, marks = "", ""
        if is_stem:
            gain = f"{_db(controls['gains_db'][name])} dB"
            marks = " ".join(
                word
                for word, names in (("MUTE", controls["muted"]), ("SOLO", controls["soloed"]))
                if name in names
            )
        drawn = meter(_or_floor(rms_db), held_db, bar, _COLOURS.get(name, "cyan"))
        table.add_row(label, drawn, _db(rms_db), gain, Text(marks, style="bold red"))
    lines = [*_facts(state), "", *state.get("messages", ())[-3:]]
    keys = "   ".join(f"{key}: {what}" for key, what in KEYS)
    return Group(table, "", *(Text(line) for line in lines), Text(keys, style="dim"))


def _facts(state: dict[str, Any]) -> list[str]:
    stats, controls = state["stats"], state["controls"]
    steps, device, recording = stats["steps"], stats["device"], stats["recording"]
    latency = device["latency"]
    strength = (
        "no limit" if controls["strength_db"] is None else f"{controls['strength_db']:.0f} dB"
    )
    lines = [
        f"{state['title']}   {stats['state']} {clock(stats['seconds'])}"
        f"   {'BYPASS' if controls['is_bypassed'] else 'mix'}   strength {strength}",
        f"latency  {latency['total_ms']:.1f} ms = device in {latency['device_in_ms']:.1f}"
        f" + algorithm {latency['algorithm_ms']:.1f} + buffers {latency['buffer_ms']:.1f}"
        f" + device out {latency['device_out_ms']:.1f}   {_measured(latency['measured_ms'])}",
        f"step     p50 {steps['p50_ms']:.2f}  p99 {steps['p99_ms']:.2f}  max {steps['max_ms']:.2f}"
        f" of {steps['deadline_ms'] or 0:.0f} ms   CPU {100 * stats['cpu_share']:.0f} %",
        f"lost     late hops {stats['deadline_misses']}  skipped {stats['skipped']}"
        f"  overruns {device['overruns']}  underruns {device['underruns']}  xruns {device['xruns']}"
        f"  drift {device['drift_ppm']:+.0f} ppm  reopened {device['reopened']}",
    ]
    if recording["is_running"]:
        lines.append(
            f"REC      {clock(recording['seconds'])} in {recording['folder']}"
            f"   disk for {clock(recording['left_s'])}"
        )
    lines += [line for line in (recording["message"], stats["advice"]) if line]
    return lines


def _measured(latency_ms: float | None) -> str:
    return "not measured" if latency_ms is None else f"measured {latency_ms:.1f} ms"


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
                live.update(draw(newest, holds, time.monotonic(), console.width), refresh=True)
            newest = None


def main() -> None:
    """Connect to the engine's process and show its state until it ends."""
    # Ctrl-C is handled by the engine's process, which then closes the connection.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    drop_priority()
    key = bytes.fromhex(os.environ[KEY])
    with (
        contextlib.suppress(EOFError, ConnectionError),
        Client(os.environ[ADDRESS], authkey=key) as connection,
    ):
        show(connection)


if __name__ == "__main__":
    main()
