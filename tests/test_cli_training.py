"""Output of a training run: a table on a terminal, lines elsewhere, JSON on request."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from rtmtass.cli.console import TrainingTable
from rtmtass.cli.train import _print_json, _print_report
from rtmtass.training.log import minutes_left

TRAIN = {
    "kind": "train", "done": 0.25, "step": 20, "minutes": 30.0, "rate": 1e-3, "skipped": 0,
    "loss": 1.5, "gradient": 0.7, "speed": 55.0,
}  # fmt: skip
DEV = {
    "kind": "dev", "done": 0.25, "step": 20, "minutes": 30.0, "rate": 1e-3, "skipped": 0,
    "si_sdri": 3.25, "sdri": 6.5, "si_sdri_speech": 4.0, "si_sdri_music": 3.0,
    "si_sdri_noise": 2.75, "sdri_speech": 7.0,
}  # fmt: skip
SKIPPED = {
    "kind": "skipped", "done": 0.3, "step": 33, "skipped": 2, "loss": float("nan"), "gradient": 1.0,
}  # fmt: skip


def test_the_table_shows_the_latest_reports() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, color_system=None)
    with TrainingTable(console) as table:
        for report in (TRAIN, DEV, {**DEV, "step": 40, "si_sdri": 3.0}, SKIPPED):
            table(report)
    last = out.getvalue()[out.getvalue().rindex("done ") :]
    for words in ("25.0%, step 20", "0:30:00, 1:30:00 left", "1.500", "55x real time", "1.00e-03",
                  "2 batches without a finite loss, the last at step 33",
                  "3.00 dB at step 40; best 3.25 dB at step 20", "speech 4.00, music 3.00",
                  "6.50 dB"):  # fmt: skip
        assert words in last


def test_the_lines_have_the_figures_of_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    for report in (TRAIN, DEV, SKIPPED):
        _print_report(report)
    train, dev, skipped = capsys.readouterr().out.splitlines()
    assert "90 min left  loss   1.500     55x real time  rate 1.0e-03" in train
    assert "dev SI-SDRi 3.25 dB, SDRi 6.50 dB" in dev
    assert (
        "step     33  skipped: the loss or its gradient isn't finite (nan, 1); 2 so far" in skipped
    )
    assert minutes_left(TRAIN) == pytest.approx(90)


def test_json_lines_are_json(capsys: pytest.CaptureFixture[str]) -> None:
    for report in (TRAIN, SKIPPED):
        _print_json(report)
    train, skipped = map(json.loads, capsys.readouterr().out.splitlines())
    assert train == TRAIN
    assert skipped == {**SKIPPED, "loss": None}
