"""The display: levels on a scale, what is removed, clipping, and the keys at any size."""

from __future__ import annotations

import io
import math

import pytest
from rich.cells import cell_len
from rich.console import Console

from rtmtass.cli.live_screen import PeakHold, column, draw, meter, scale
from rtmtass.live.mixer import Levels
from rtmtass.live.stats import RecordingStats, Stats, StepTimes

SILENT = (-math.inf, -math.inf)
LEVELS = Levels(
    stems={"speech": (-20.0, -10.0), "music": (-40.0, -30.0), "noise": SILENT},
    mixture=(-12.0, 0.0),
    output=(-18.0, -7.0),
    separated={"speech": (-20.0, -10.0), "music": (-20.0, -10.0), "noise": (-31.0, -22.0)},
    clipped=("mixture",),
)
EVENTS = ["00:01 first", "00:02 second", "12:33 stems were late: " + 9 * "long " + "(3 times)"]


def state_of(levels=LEVELS, *, title="Scarlett 2i2 USB → 日本語\x1b[31m", message=""):
    stats = Stats(
        "running", 754.0, 47000, 3, 0, steps=StepTimes(0.3, 0.5, 1.9, 16.0, 0.3), levels=levels,
        recording=RecordingStats(True, "takes/take-1", 12.0, 9999.0, message),
        advice="this computer is too slow: close other programs",
    )  # fmt: skip
    controls = {
        "selected": "music", "gains_db": {"speech": 0.0, "music": -20.0, "noise": None},
        "muted": ["noise"], "soloed": ["music"], "strength_db": None, "is_bypassed": False,
    }  # fmt: skip
    return {
        "stats": stats.to_dict(), "controls": controls, "title": title, "messages": EVENTS,
    }  # fmt: skip


def lines_of(width, height, **options):
    console = Console(width=width, height=height, file=io.StringIO(), color_system=None)
    console.print(draw(state_of(**options), PeakHold(), 0.0, width, height))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("size", [(200, 60), (120, 40), (80, 24), (79, 24), (60, 14), (40, 10),
                                  (25, 8), (10, 3), (3, 2), (1, 1)])  # fmt: skip
@pytest.mark.parametrize("levels", [LEVELS, Levels(dict.fromkeys(LEVELS.stems, SILENT))])
def test_nothing_wraps_or_overflows(size, levels):
    width, height = size
    lines = lines_of(width, height, levels=levels, message="the disk is full")
    if width > 20:  # below it single keys are longer
        assert max(map(cell_len, lines)) <= width
        assert len(lines) <= height
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("size", [(120, 40), (80, 24), (60, 14), (40, 10)])
def test_the_keys_and_all_meters_are_shown(size):
    lines = lines_of(*size)
    shown = "\n".join(lines)
    for word in ("gain", "mute", "solo", "strength", "bypass", "record", "quit"):
        assert word in shown
    for name in (*LEVELS.stems, "mixture", "output", "-60"):
        assert name in shown
    assert lines[-1].endswith("quit")
    assert "running 0:12:34" in lines[0]


def test_the_most_urgent_facts_stay_in_a_small_terminal():
    shown = "\n".join(lines_of(60, 13, message="the disk is full"))
    assert "the disk is full" in shown
    assert "REC" in shown
    assert "this computer is too slow" in shown
    assert "latency" not in shown
    assert "00:01 first" not in shown


def test_what_a_gain_removes_is_shown():
    lines = lines_of(104, 40)
    music = next(line for line in lines if "music" in line)
    # 60 columns for 60 dB.
    bar = music[10:70]
    assert bar.count("█") + bar[:20].count("▌") == 20
    assert bar[20:40].count("░") == 19  # and the mark of the peak
    assert " -20.0  -40.0  -20.0 dB SOLO" in music
    noise = next(line for line in lines if "noise" in line)
    assert "█" not in noise
    assert " -31.0   -inf   -inf dB MUTE" in noise


def test_clipping_is_shown_at_any_size():
    for size in ((120, 40), (60, 14), (40, 10)):
        lines = lines_of(*size)
        assert "CLIP" in next(line for line in lines if "mixture" in line)
        assert "CLIP" not in next(line for line in lines if "output" in line)


@pytest.mark.parametrize("width", [11, 30, 60, 100])
def test_the_scale_stands_where_its_levels_are(width):
    text = scale(width).plain
    assert len(text) == width
    assert text.startswith("-60")
    assert text.endswith("0")
    for level_db in (-40, -20, -10):
        if str(level_db) in text:
            middle = text.index(str(level_db)) + 1
            assert abs(middle - column(level_db, width)) <= 1
    assert width < 60 or all(str(level_db) in text for level_db in (-40, -20, -10))


def test_meters_hold_peaks():
    holds = PeakHold()
    assert holds.update("a", -6.0, 1.0) == -6.0
    assert holds.update("a", -30.0, 2.0) == -6.0
    assert holds.update("a", -30.0, 3.0) == -30.0
    assert meter(-30.0, -60.0, 20, "green").plain == "█" * 10 + "·" * 10
    assert meter(-30.0, -60.0, 20, "green", -15.0).plain == "█" * 10 + "░" * 5 + "·" * 5
    assert meter(-60.0, -3.0, 20, "green").plain.index("▌") == 19
