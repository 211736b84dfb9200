"""Ctrl-C and SIGTERM in training: the first is answered, the second obeyed, and nothing is lost."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from runs import buzzing_corpus, config, write_toml

from rtmtass.cli.console import TrainingTable
from rtmtass.signals import Terminated
from rtmtass.training.log import Messages
from rtmtass.training.stop import StopSignals
from rtmtass.training.train import Trainer, train
from rtmtass.weights import open_model

AGAIN = "; Ctrl-C again to stop now"


class Recorded(StopSignals):
    """Keeps its answers, and the exit code instead of leaving."""

    def __init__(self) -> None:
        self.answers: list[str] = []
        self.codes: list[int] = []
        self.has_answered, self.has_left = threading.Event(), threading.Event()
        super().__init__(self.answer, self.leave)

    def answer(self, text: str) -> None:
        self.answers.append(text)
        self.has_answered.set()

    def leave(self, code: int) -> None:
        self.codes.append(code)
        self.has_left.set()


def test_the_first_signal_waits_for_the_step_and_the_second_does_not() -> None:
    stop = Recorded()

    def step() -> None:
        signal.raise_signal(signal.SIGINT)
        assert stop.is_requested
        assert stop.has_answered.wait(60)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the second was swallowed")

    with pytest.raises(KeyboardInterrupt), stop.installed(), stop.deferred("this step"):
        step()
    assert stop.answers[0] == "stopping after this step" + AGAIN
    assert not stop.codes


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_outside_of_a_step_the_first_signal_is_obeyed(number: signal.Signals) -> None:
    stop = Recorded()
    stop.kept = "step 3 is saved"
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt) as caught, stop.installed():
        signal.raise_signal(number)
    assert isinstance(caught.value, Terminated) == (number == signal.SIGTERM)
    assert not stop.is_requested
    assert set(stop.answers) <= {"stopping now; step 3 is saved"}
    assert signal.getsignal(number) is before


def test_a_signal_is_answered_and_obeyed_within_a_call_that_python_cannot_leave() -> None:
    """A step of torch: no handler runs before it ends."""
    stop = Recorded()

    def work() -> None:
        rounds = 50_000
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        while not stop.has_left.is_set():
            rounds *= 2
            hashlib.pbkdf2_hmac("sha256", b"", b"", rounds)  # without the GIL

    with stop.installed(), pytest.raises(KeyboardInterrupt):
        work()
    assert stop.answers == ["stopping now; no checkpoint was written yet"]
    assert stop.codes in ([], [143])  # [] only if the computer was so slow that it was not needed


def test_what_an_obeyed_signal_breaks_is_no_error() -> None:
    stop = Recorded()

    def half_imported() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("numpy is half imported") from None

    with pytest.raises(KeyboardInterrupt), stop.installed():
        half_imported()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return buzzing_corpus(tmp_path_factory.mktemp("corpus"))


def last_step(run: Path) -> int:
    return int(torch.load(run / "last.pt", weights_only=True)["step"])


def test_ctrl_c_in_a_step_ends_after_it_with_a_validated_model(
    corpus: Path, tmp_path: Path
) -> None:
    reports: list[dict[str, Any]] = []
    run, stop = tmp_path / "run", Recorded()
    launch = Trainer.launch

    def interrupted(self: Trainer, batch: Any) -> None:
        launch(self, batch)
        if self.step == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Trainer, "launch", interrupted)
        train(config(corpus, run, steps=1000), reports.append, stop=stop)
    assert last_step(run) == 3
    assert [(r["kind"], r["step"]) for r in reports] == [("dev", 3)]
    assert stop.answers == ["stopping after this step" + AGAIN]
    assert open_model(str(run / "best")).about["training"]["steps"] == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_a_validation_is_obeyed_and_its_steps_are_saved(
    number: signal.Signals, corpus: Path, tmp_path: Path
) -> None:
    stop, seen = Recorded(), []

    def progress(name: str, done: float, of: float) -> None:
        seen.append((name, done, of))
        if (name, done) == ("validating", 1):
            signal.raise_signal(number)

    settings = config(corpus, tmp_path / "run", dev_clips=3, steps=2)
    with pytest.raises(KeyboardInterrupt):
        train(settings, lambda _: None, messages=Messages(progress), stop=stop)
    assert ("mixing the dev set", 3, 3) in seen
    assert [row[1:] for row in seen if row[0] == "validating"] == [(0, 3), (1, 3)]
    assert last_step(tmp_path / "run") == 2
    assert stop.kept.endswith("last.pt, step 2")


def test_a_signal_while_the_dev_set_is_mixed_or_the_first_step_compiles_is_obeyed(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda function: function)  # which takes a minute

    def progress(name: str, *_: float) -> None:
        if name == "mixing the dev set":
            signal.raise_signal(signal.SIGINT)

    def note(text: str) -> None:
        if "compiling" in text:
            signal.raise_signal(signal.SIGINT)

    for messages in (Messages(progress), Messages(note=note)):
        settings = config(corpus, tmp_path / "run", compile=True)
        with pytest.raises(KeyboardInterrupt):
            train(settings, lambda _: None, messages=messages, stop=Recorded())
    assert not (tmp_path / "run" / "last.pt").exists()


def test_the_command_tells_on_stderr_what_it_does_and_that_it_stops(
    corpus: Path, tmp_path: Path
) -> None:
    """As typed: one Ctrl-C while it trains, another one as soon as it was answered."""
    write_toml(tmp_path / "c.toml", config(corpus, tmp_path / "run", steps=10**6, dev_minutes=1e-3))
    command = [sys.executable, "-m", "rtmtass", "train", str(tmp_path / "c.toml")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    lines: list[str] = []
    for line in process.stdout:  # once it trains
        if "dev SI-SDRi" in line:
            break
    process.send_signal(signal.SIGINT)
    for line in process.stderr:
        lines.append(line)
        if "stopping" in line:
            process.send_signal(signal.SIGINT)
    code = process.wait(60)
    process.stdout.close()
    process.stderr.close()
    text = "".join(lines)
    assert "mixing the dev set: 1/1" in text
    assert "validating: 0/1" in text
    assert "rtmtass: stopping " in text
    assert "Traceback" not in text
    # 0 if it had finished the step and the validation; killed by it if Python was ending already.
    assert code in (0, 130, -signal.SIGINT)
    assert last_step(tmp_path / "run") > 0


def test_the_table_shows_what_is_done_now() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, color_system=None)
    with TrainingTable(console) as table:
        table.progress("validating", 12, 100)
        assert "validating 12/100" in out.getvalue()
        before = len(out.getvalue())
        table.progress("validating", 100, 100)
        assert "validating" not in out.getvalue()[before:]
        table.note("stopping after this step" + AGAIN)
        assert "stopping after this step" in out.getvalue()[before:]
