"""The live display: a process of its own, so that drawing never holds up the sound.

It gets the engine's state as JSON over a connection, draws it, and sends keys back.
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

from rtmtass.live.controls import KEYS
from rtmtass.live.os_priority import drop_priority

ADDRESS, KEY = "RTMTASS_DISPLAY_ADDRESS", "RTMTASS_DISPLAY_KEY"

_FLOOR_DB = -60.0
_HOLD_S = 1.5
_FRAME_S = 0.05
_ESCAPES = {"A": "up", "B": "down", "C": "right", "D": "left"}
_COLOURS = {"speech": "green", "music": "blue", "noise": "yellow"}


class PeakHold:
    """Keeps the highest recent peak of each meter for a moment."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[float, float]] = {}

    def update(self, name: str, peak_db: float, now_s: float) -> float:
        """Take the newest peak, return the one to show."""
        held_db, since_s = self._held.get(name, (_FLOOR_DB, 0.0))
        if peak_db >= held_db or now_s - since_s > _HOLD_S:
            self._held[name] = peak_db, now_s
            return peak_db
        return held_db


def meter(rms_db: float, peak_db: float, width: int, colour: str) -> Text:
    """Draw a level from -60 to 0 dB with a mark where the peak is held."""

    def place(level_db: float) -> int:
        return round((max(_FLOOR_DB, min(0.0, level_db)) / -_FLOOR_DB + 1) * width)

    cells = ["█"] * place(rms_db) + ["·"] * (width - place(rms_db))
    mark = min(place(peak_db), width - 1)
    if peak_db > _FLOOR_DB:
        cells[mark] = "▌"
    bar = Text("".join(cells), style=colour)
    if peak_db > _FLOOR_DB:
        bar.stylize("bold red" if peak_db > -1 else "bold white", mark, mark + 1)
    return bar


def _db(value: float | None) -> str:
    return "  -inf" if value is None else f"{value:6.1f}"


def _floor(value: float | None) -> float:
    return _FLOOR_DB if value is None else value


def draw(state: dict[str, Any], holds: PeakHold, now_s: float, width: int) -> Group:
    """Return the whole picture of one state.

    Args:
        state: {"stats": Stats.to_dict(), "controls": ControlState as a dict,
            "title": what is connected, "messages": the latest lines}.
        holds: remembers the peaks between calls.
        now_s: any clock.
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
        held_db = holds.update(name, _floor(peak_db), now_s)
        chosen = is_stem and name == controls["selected"]
        label = Text(f"{'>' if chosen else ' '} {name}", style="bold reverse" if chosen else "")
        gain, marks = "", ""
        if is_stem:
            gain = f"{_db(controls['gains_db'][name])} dB"
            marks = " ".join(
                word
                for word, names in (("MUTE", controls["muted"]), ("SOLO", controls["soloed"]))
                if name in names
            )
        drawn = meter(_floor(rms_db), held_db, bar, _COLOURS.get(name, "cyan"))
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
        f"{state['title']}   {stats['state']} {_clock(stats['seconds'])}"
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
            f"REC      {_clock(recording['seconds'])} in {recording['folder']}"
            f"   disk for {_clock(recording['left_s'])}"
        )
    lines += [line for line in (recording["message"], stats["advice"]) if line]
    return lines


def _measured(latency_ms: float | None) -> str:
    return "not measured" if latency_ms is None else f"measured {latency_ms:.1f} ms"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


@contextmanager
def _raw_keys() -> Iterator[int | None]:
    """Let single keys come through without being printed; yields what to read, or None."""
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
    """Turn what a terminal sent into names of keys."""
    keys, place = [], 0
    while place < len(text):
        if text[place] == "\x1b" and text[place + 1 : place + 2] in ("[", "O"):
            keys.append(_ESCAPES.get(text[place + 2 : place + 3], ""))
            place += 3
        else:
            keys.append(text[place])
            place += 1
    return [key for key in keys if key]


def show(connection: Connection) -> None:
    """Draw what comes over the connection until it ends; send keys back."""
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
    """Connect to the engine's process and show it; ends when that does."""
    # Ctrl-C is for the engine's process, which ends this one in good order.
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
