"""Draws the state of a live stream for a terminal of any size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group
from rich.text import Text

from rtmtass.cli.console import clock
from rtmtass.cli.live_text import printable
from rtmtass.live.controls import KEYS

FLOOR_DB = -60.0
_HOLD_S = 1.5
_MARKS_DB = (-60, -40, -20, -10, 0)
_COLOURS = {"speech": "green", "music": "blue", "noise": "yellow"}
_NARROW = 80
"""Columns below which gains and marks are shortened."""
_N_EVENTS = 3
_N_OTHER_ROWS = 14
"""Rows that the rest may take before the keys' explanations go."""
_SHORT_KEYS = (
    "←→ stem",
    "↑↓ gain",
    "m mute",
    "s solo",
    "[ ] strength",
    "b bypass",
    "r record",
    "0 reset",
    "q quit",
)
"""The keys in few columns."""


class PeakHold:
    """Holds the recent maximum of each meter's peak for 1.5 s."""

    def __init__(self) -> None:
        self._peaks: dict[str, tuple[float, float]] = {}

    def update(self, name: str, peak_db: float, now_s: float) -> float:
        """Update with the newest peak and return the one to show, in dB."""
        held_db, since_s = self._peaks.get(name, (FLOOR_DB, 0.0))
        if peak_db >= held_db or now_s - since_s > _HOLD_S:
            self._peaks[name] = peak_db, now_s
            return peak_db
        return held_db


def column(level_db: float, width: int) -> int:
    """Return the column of a level on a scale from -60 to 0 dB."""
    return round((max(FLOOR_DB, min(0.0, level_db)) / -FLOOR_DB + 1) * width)


def meter(
    rms_db: float, peak_db: float, width: int, colour: str, removed_db: float = FLOOR_DB
) -> Text:
    """Draw a level from -60 to 0 dB with a mark at the held peak.

    Args:
        rms_db: the level.
        peak_db: its peak.
        width: in columns.
        colour: of the level.
        removed_db: the level before the gain; what the gain removes of it is drawn dimly.
    """
    level, before = column(rms_db, width), column(removed_db, width)
    cells = ["█"] * level + ["░"] * (before - level)
    cells += ["·"] * (width - len(cells))
    mark = min(column(peak_db, width), width - 1)
    if peak_db > FLOOR_DB:
        cells[mark] = "▌"
    bar = Text("".join(cells), style=colour)
    if peak_db > FLOOR_DB:
        bar.stylize("bold red" if peak_db > -1 else "bold white", mark, mark + 1)
    return bar


def scale(width: int) -> Text:
    """Draw the scale of a meter: each number ends, or lies, where its level is."""
    cells = [" "] * width
    free_from = 0
    for mark_db in _MARKS_DB:
        text = str(mark_db)
        start = min(max(column(mark_db, width) - len(text) // 2, 0), width - len(text))
        if start >= free_from:
            cells[start : start + len(text)] = text
            free_from = start + len(text) + 1
    return Text("".join(cells)[:width], style="dim")


def _db(value: float | None) -> str:
    return "  -inf" if value is None else f"{value:6.1f}"


def _or_floor(value: float | None) -> float:
    return FLOOR_DB if value is None else value


def draw(
    state: dict[str, Any], holds: PeakHold, now_s: float, width: int, height: int = 40
) -> Group:
    """Draw one state in at most `width` columns and `height` rows; nothing wraps.

    Where there is little room the keys and meters stay, and the facts go.

    Args:
        state: {"stats": Stats.to_dict(), "controls": ControlState as a dict, "title": of the
            streams, "messages": the latest lines}.
        holds: peaks held between calls.
        now_s: of any monotonic clock.
        width: of the terminal in columns.
        height: of the terminal in rows.
    """
    keys = [_line(text, width, "dim") for text in _key_lines(width, height)][: max(height, 1)]
    n_free = height - len(keys)
    rows = [_line(_title(state), width), *_meters(state, holds, now_s, width)][: max(n_free, 0)]
    n_free -= len(rows)
    facts = _facts(state)
    gaps = [Text()] if n_free >= len(facts) + 2 else []
    # The most urgent facts are kept, and all keep their order.
    kept = sorted(sorted(facts)[: max(n_free - 2 * len(gaps), 0)], key=facts.index)
    rows += [*gaps, *(_line(text, width) for _, text in kept), *gaps, *keys]
    return Group(*rows)


def _line(text: str, width: int, style: str = "") -> Text:
    return _cut(Text(printable(text), style=style), width)


def _cut(line: Text, width: int) -> Text:
    """Return a line that is cut at the terminal's edge instead of wrapped."""
    line.no_wrap, line.overflow = True, "crop"
    line.truncate(max(width, 1), overflow="ellipsis")
    return line


def _key_lines(width: int, height: int) -> list[str]:
    """Return the keys, with explanations if there is room for them."""
    long = _joined([f"{key}: {what}" for key, what in KEYS], width, "   ")
    if width >= _NARROW and len(long) + _N_OTHER_ROWS <= height:
        return long
    return _joined(_SHORT_KEYS, width, "  ")


def _joined(words: Sequence[str], width: int, gap: str) -> list[str]:
    """Join words into lines of at most `width` columns."""
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + len(gap) + len(word) <= width:
            lines[-1] += gap + word
        else:
            lines.append(word)
    return lines


def _meters(state: dict[str, Any], holds: PeakHold, now_s: float, width: int) -> list[Text]:
    """Draw a row per meter, and the scale."""
    levels, controls = state["stats"]["levels"], state["controls"]
    is_narrow = width < _NARROW
    bar = max(4, width - (28 if is_narrow else 44))
    rows = []
    for name in (*levels["stems"], "mixture", "output"):
        is_stem = name in levels["stems"]
        rms_db, peak_db = levels["stems"][name] if is_stem else levels[name]
        before_db = levels["separated"].get(name, (None,))[0]
        held_db = holds.update(name, _or_floor(peak_db), now_s)
        is_selected = is_stem and name == controls["selected"]
        label = f"{'>' if is_selected else ' '} {name:7}"
        row = Text(label, style="bold reverse" if is_selected else "")
        row = Text.assemble(row, " ")
        row.append_text(
            meter(_or_floor(rms_db), held_db, bar, _COLOURS.get(name, "cyan"), _or_floor(before_db))
        )
        gain = f"{_db(controls['gains_db'][name])}{'' if is_narrow else ' dB'}" if is_stem else ""
        if not is_narrow:
            row.append(f" {_db(before_db) if is_stem else '':6}")
        row.append(f" {_db(rms_db)} ")
        if is_stem:
            row.append(f"{gain:{6 if is_narrow else 9}} ")
        row.append(_marks(name, state, is_narrow=is_narrow), "bold red")
        rows.append(_cut(row, width))
    headings = "    out   gain" if is_narrow else " before  after      gain"
    rows.append(_cut(Text.assemble(" " * 10, scale(bar), (headings, "dim")), width))
    return rows


def _marks(name: str, state: dict[str, Any], *, is_narrow: bool) -> str:
    """Return what is set, or has happened in the last seconds: mute, solo, clipping."""
    controls = state["controls"]
    words = (
        ("MUTE", name in controls["muted"]),
        ("SOLO", name in controls["soloed"]),
        ("CLIP", name in state["stats"]["levels"]["clipped"]),
    )
    shown = [word for word, is_set in words if is_set]
    return " ".join(word[0] if is_narrow and word != "CLIP" else word for word in shown)


def _title(state: dict[str, Any]) -> str:
    stats, controls = state["stats"], state["controls"]
    strength_db = controls["strength_db"]
    strength = "no limit" if strength_db is None else f"{strength_db:.0f} dB"
    return (
        f"{stats['state']} {clock(stats['seconds'])}"
        f"   {'BYPASS' if controls['is_bypassed'] else 'mix'}   strength {strength}"
        f"   {state['title']}"
    )


def _facts(state: dict[str, Any]) -> list[tuple[int, str]]:
    """Return the lines below the meters, each with its rank: the lowest are kept longest."""
    stats = state["stats"]
    steps, device, recording = stats["steps"], stats["device"], stats["recording"]
    latency = device["latency"]
    facts = [
        (6, f"latency  {latency['total_ms']:.1f} ms = device in {latency['device_in_ms']:.1f}"
            f" + algorithm {latency['algorithm_ms']:.1f} + buffers {latency['buffer_ms']:.1f}"
            f" + device out {latency['device_out_ms']:.1f}   {_measured(latency['measured_ms'])}"),
        (7, f"step     p50 {steps['p50_ms']:.2f}  p99 {steps['p99_ms']:.2f}"
            f"  max {steps['max_ms']:.2f} of {steps['deadline_ms'] or 0:.0f} ms"
            f"   CPU {100 * stats['cpu_share']:.0f} %"),
        (5, f"lost     late hops {stats['deadline_misses']}  skipped {stats['skipped']}"
            f"  overruns {device['overruns']}  underruns {device['underruns']}"
            f"  xruns {device['xruns']}  drift {device['drift_ppm']:+.0f} ppm"
            f"  reopened {device['reopened']}"),
    ]  # fmt: skip
    if recording["is_running"]:
        facts.append((
            1, f"REC      {clock(recording['seconds'])} in {recording['folder']}"
            f"   disk for {clock(recording['left_s'])}",
        ))  # fmt: skip
    if recording["message"]:
        facts.append((0, recording["message"]))
    if stats["advice"]:
        facts.append((2, stats["advice"]))
    events = list(state.get("messages", ()))[-_N_EVENTS:]
    newest = len(events) - 1
    return facts + [(3 if i == newest else 8, text) for i, text in enumerate(events)]


def _measured(latency_ms: float | None) -> str:
    return "not measured" if latency_ms is None else f"measured {latency_ms:.1f} ms"
