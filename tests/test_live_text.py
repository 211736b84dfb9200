"""What `rtmtass live` prints: plain lines, events and summaries without control characters."""

from __future__ import annotations

import io
import json
import math
import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile

from rtmtass.cli.arguments import gains
from rtmtass.cli.live_text import (
    Summary,
    audible_gains,
    event_object,
    format_gains,
    plain_line,
    printable,
)
from rtmtass.cli.live_watch import Printer
from rtmtass.cli.main import main
from rtmtass.live.events import Event
from rtmtass.live.meters import RunLevels
from rtmtass.live.mixer import Levels
from rtmtass.live.recorder import Take
from rtmtass.live.stats import DeviceStats, Latency, Stats, StepTimes

SILENT = (-math.inf, -math.inf)
LEVELS = Levels(
    stems={"speech": (-20.0, -10.0), "music": (-40.2, -30.0), "noise": SILENT},
    mixture=(-12.0, 0.0),
    output=(-18.0, -7.0),
    separated={"speech": (-20.3, -10.0), "music": (-20.2, -10.0), "noise": (-31.0, -22.0)},
    clipped=("mixture",),
)
RUN = RunLevels(
    {"speech": (-22.0, -9.0), "music": SILENT, "mixture": (-20.0, -3.0), "output": (-21.0, -4.0)},
    {"mixture": 2, "output": 0},
)
STATS = Stats(
    "running", 754.0, 47000, 3, 4, steps=StepTimes(0.3, 0.5, 1.9, 16.0, 0.3), levels=LEVELS,
    run_levels=RUN,
    device=DeviceStats(2, 5, 1, reopened=1, latency=Latency(1.0, 32.0, 8.0, 4.0, 45.5)),
)  # fmt: skip


def test_a_line_has_levels_before_and_after_the_gains():
    line = plain_line(STATS, [Event(61.0, "the card is back"), Event(75.0, "late", 3)])
    assert "  dB: in -12 CLIP  speech -20  music -20>-40  noise -31>-inf  out -18  " in line
    assert line.endswith("  | 01:01 the card is back  | 01:15 late (3 times)")
    assert plain_line(Stats()).startswith("new 0 s  dB: in -inf  out -inf  ")


def test_a_summary_has_all_facts(tmp_path):
    take = Take(tmp_path / "my take", 61.5, ("speech", "music", "noise", "mixture"))
    text = "\n".join(Summary(STATS, [take], {"speech": 0.0, "noise": -math.inf}, "big").lines())
    for fact in (
        "ended after 12:34",
        "7 of 47000 hops, 0.015 %; xruns 1; lost 2 samples in, 5 out; reopened 1",
        "45.0 ms (measured 45.5 ms); step p50 0.30, p99 0.50, max 1.90 of 16 ms",
        "mixture -20.0 dB (peak -3.0), speech -22.0 dB (peak -9.0), music -inf dB (peak -inf),"
        " output -21.0 dB (peak -4.0), mixture clipped 2 times",
        f"{tmp_path}/my take: 01:01 of speech, music, noise, mixture",
        f"rtmtass separate '{tmp_path}/my take/mixture.wav' --model big --stems none",
        "--gain speech=0,noise=-inf",
    ):
        assert fact in text
    long = Take(tmp_path, 20000.0, ("speech",), is_rf64=True)
    assert "of speech, as RF64: over 4 GB" in "\n".join(Summary(STATS, [long], {}).lines())
    values = Summary(STATS, [take], {"speech": 0.0}).to_dict()
    assert json.loads(json.dumps(values))["takes"][0]["seconds"] == 61.5


@pytest.mark.parametrize("folder", ["takes", "my 'takes'", "-takes"])
def test_the_command_of_a_summary_works_as_printed(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    take = Take(Path(folder) / "take-1", 1.0, ("speech", "music", "noise", "mixture"))
    take.folder.mkdir(parents=True)
    x = (0.1 * np.random.default_rng(0).standard_normal(8000)).astype(np.float32)
    soundfile.write(take.folder / "mixture.wav", x, 16000, "FLOAT")
    command = Summary(STATS, [take], dict.fromkeys(("speech", "music", "noise"), 0.0)).command(take)
    program, *words = shlex.split(command)
    assert program == "rtmtass"
    assert main(words) == 0
    remix = soundfile.read(take.folder / "remix.wav", dtype="float32")[0]
    np.testing.assert_allclose(remix, x, atol=1e-5)


def test_gains_are_formatted_as_they_are_parsed():
    gains_db = {"speech": 0.0, "music": -20.5, "noise": -math.inf}
    assert format_gains(gains_db) == "speech=0,music=-20.5,noise=-inf"
    assert gains(format_gains(gains_db)) == gains_db


def test_mutes_and_solos_are_gains():
    gains_db = {"speech": 0.0, "music": -3.0, "noise": -6.0}
    none: frozenset[str] = frozenset()
    assert audible_gains(gains_db, none, none) == gains_db
    assert audible_gains(gains_db, frozenset({"music"}), none)["music"] == -math.inf
    soloed = audible_gains(gains_db, frozenset({"speech"}), frozenset({"speech", "noise"}))
    assert soloed == {"speech": -math.inf, "music": -math.inf, "noise": -6.0}


def test_events_for_json_have_the_same_facts():
    assert event_object(Event(75.5, "late", 3)) == {
        "event": "late", "at": "01:15", "at_s": 75.5, "count": 3,
    }  # fmt: skip


@pytest.mark.parametrize(("text", "encoding", "shown"), [
    ("Scarlett → out", "utf-8", "Scarlett → out"),
    ("Scarlett → out", "ascii", "Scarlett ? out"),
    ("a\x1b[31mb\r\nc\x00\x7f\x85\u202e\ud800", "utf-8", "a?[31mb??c?????"),
    ("日本", None, "日本"),
])  # fmt: skip
def test_control_characters_are_replaced(text, encoding, shown):
    assert printable(text, encoding) == shown


def test_a_printer_stops_when_its_reader_has_gone(monkeypatch):
    class Gone(io.StringIO):
        def write(self, _text):
            raise BrokenPipeError

        def fileno(self):
            raise OSError

    monkeypatch.setattr("sys.stdout", Gone())
    printer = Printer(is_json=False)
    printer.text("line")
    assert not printer.is_open
    printer.text("line")


def test_a_printer_without_stdout_prints_nothing(monkeypatch):
    monkeypatch.setattr("sys.stdout", None)
    printer = Printer(is_json=True)
    printer.json({"a": 1})
    assert printer.is_open
