"""`rtmtass data`: lengths on request, and progress with the time left, also off a terminal."""

from __future__ import annotations

from pathlib import Path

import pytest
from corpora import make_corpus

from rtmtass.cli.main import main
from rtmtass.cli.progress import Lines
from rtmtass.training.data.corpus import Corpus
from rtmtass.training.data.synthesis import BankPlan


@pytest.mark.parametrize("minutes", [0.1, 1, 35, 140, 1400])
def test_a_plan_of_minutes_keeps_the_proportions(minutes: float) -> None:
    plan, usual = BankPlan.of(minutes), BankPlan()
    total = plan.singing_minutes + plan.revoiced_minutes + plan.generated_minutes
    assert total == pytest.approx(minutes)
    assert plan.generated_minutes / plan.singing_minutes == pytest.approx(1.5)
    assert plan.rooms == pytest.approx(usual.rooms * minutes / 140, abs=1)
    assert all(count >= 1 for count in plan.counts().values())
    assert BankPlan.of(140) == usual


def test_minutes_are_synthesised_with_progress_off_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rtmtass.training.data.synthesis.ITEM_S", 1.0)
    corpus = make_corpus(tmp_path / "corpus")
    command = ["data", "synthesise", str(corpus), "--cache", str(tmp_path / "cache")]
    assert main([*command, "--minutes", "0.1"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0].startswith("singing: ")
    assert "rooms: 1 of " in out
    for name in ("generated-train", "singing-dev", "rooms-train"):
        assert f"{name}: 1/" in err
    bank = Corpus(corpus, tmp_path / "cache").bank("generated", "dev")
    assert bank is not None
    assert len(bank) == 3  # of 0.1 min / 140 min * 60 min, in seconds
    assert main([*command, "--minutes", "0.1"]) == 0
    assert "generated" not in capsys.readouterr().err  # nothing left to do


@pytest.mark.parametrize("text", ["0", "-3", "nan", "inf", "x", "1e9", ""])
def test_wrong_minutes_are_a_usage_error(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["data", "synthesise", str(tmp_path), "--cache", str(tmp_path), f"--minutes={text}"])
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert f"argument --minutes: {text!r} is not a time in minutes; give more than 0" in err
    assert len(err.splitlines()) == 1


def test_lines_say_how_long_the_rest_takes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now_s)
    lines = Lines()
    for done in range(10, 101):  # 10 were done by an earlier run; 2 s each
        lines("singing-train", done, 100)
        now_s += 2.0
    shown = capsys.readouterr().err.splitlines()
    assert shown[0] == "singing-train: 10/100"
    assert "singing-train: 16/100, 0:02:48 left" in shown
    assert shown[-1] == "singing-train: 100/100"
    assert 25 < len(shown) < 40  # every 6 s, not every step


def test_a_work_whose_steps_have_names_is_one_work(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now_s)
    lines = Lines()
    for done in range(1, 1001):
        lines(f"speech/own/{done}.wav", done, 1000)
        now_s += 0.1
    lines("music-dev", 1, 2)
    shown = capsys.readouterr().err.splitlines()
    assert shown[0] == "speech/own/1.wav: 1/1000"
    assert shown[-1] == "music-dev: 1/2"
    assert len(shown) < 25
    assert any(" left" in line for line in shown)


def test_a_build_shows_its_progress_off_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_corpus(tmp_path / "source")
    for role in ("speech", "music", "noise"):
        (tmp_path / "sound" / role).mkdir(parents=True)
        for path in source.glob(f"{role}-*.wav"):
            path.rename(tmp_path / "sound" / role / path.name)
    assert (
        main(["data", "build", str(tmp_path / "corpus"), "--folders", str(tmp_path / "sound")]) == 0
    )
    out, err = capsys.readouterr()
    assert "/12" in err
    assert "12/12" in err
    assert "speech: " in out


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "1e99", "x", ""])
@pytest.mark.parametrize(
    "words",
    [
        "data build c --folders f --dev-share",
        "data mix c s --cache k --seconds",
        "data mix c s --cache k --seed",
        "average a b -o c --share",
    ],
)
def test_wrong_numbers_are_a_usage_error(
    words: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    *command, option = words.split()
    with pytest.raises(SystemExit) as caught:
        main([*command, f"{option}={text}"])
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"argument {option}: {text!r} is not " in line
    assert "; give " in line
