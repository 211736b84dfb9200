"""Schedules: learning rates, trunks in sessions, and branches."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import buzzing_corpus, config, write_toml
from torch import Tensor

from rtmtass.cli.main import main
from rtmtass.errors import DataError, UsageError
from rtmtass.training.branch import BranchOrder, branch_off
from rtmtass.training.data.batches import MixtureStream
from rtmtass.training.data.corpus import Corpus
from rtmtass.training.distributed import DistributedContext
from rtmtass.training.schedule import Branch, Span, schedule_of
from rtmtass.training.train import TrainConfig, Trainer, train
from rtmtass.weights import describe

TRUNK: dict[str, Any] = {"schedule": "wsd", "decay": 0.0}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings to train on."""
    return buzzing_corpus(tmp_path_factory.mktemp("corpus"))


def rates(settings: TrainConfig, steps: range, **where: Any) -> list[float]:
    schedule = schedule_of(settings, **where)
    return [schedule.learning_rate(step, 0.0) / schedule.rate for step in steps]


def test_wsd_warms_up_stays_constant_and_decays_linearly() -> None:
    settings = TrainConfig(schedule="wsd", decay=0.25, steps=100, warmup_steps=10)
    values = rates(settings, range(101))
    assert values[:10] == pytest.approx([(k + 1) / 10 for k in range(10)])
    assert values[10:76] == [1.0] * 66
    assert values[75:] == pytest.approx([0.01 + 0.99 * (100 - k) / 25 for k in range(75, 101)])
    by_clock = schedule_of(dataclasses.replace(settings, steps=0, minutes=10))
    assert by_clock.learning_rate(50, 7.5 * 60) == by_clock.rate
    assert by_clock.learning_rate(50, 10 * 60) == pytest.approx(0.01 * by_clock.rate)


def test_cosine_schedule_values() -> None:
    values = rates(TrainConfig(steps=100, warmup_steps=10), range(101))
    for step, rate in enumerate(values):
        fall = 0.5 * (1 + math.cos(math.pi * step / 100))
        expected = min(1.0, (step + 1) / 10) * (0.01 + 0.99 * fall)
        assert rate == pytest.approx(expected, rel=1e-12)


def test_a_trunk_has_no_end_but_its_sessions_do() -> None:
    settings = TrainConfig(**TRUNK, steps=50, minutes=10, warmup_steps=10)
    schedule = schedule_of(settings, step=1000, elapsed_s=6000.0)
    assert {schedule.learning_rate(s, 1e9) for s in (10, 1000, 10**9)} == {schedule.rate}
    assert schedule.span.done(1000, 6000.0) == 0
    assert schedule.span.done(1025, 6000.0) == 0.5
    assert schedule.span.done(1000, 6000.0 + 600) == 1
    assert schedule.span.minutes_left(1010, 6000.0 + 300) == pytest.approx(5)
    endless = Span(0, 0, 5, 5.0)
    assert endless.done(10**9, 1e9) == 0
    assert endless.minutes_left(10**9, 1e9) == math.inf


def test_a_branch_decays_from_the_trunks_rate() -> None:
    settings = TrainConfig(**TRUNK, steps=100, warmup_steps=10)
    branch = Branch(step=1000, elapsed_s=1.0, rate=0.5 * settings.learning_rate)
    values = rates(settings, range(1000, 1101), branch=branch)
    assert values == pytest.approx([0.01 + 0.99 * (1 - math.sqrt(k / 100)) for k in range(101)])
    assert schedule_of(settings, branch=branch).rate == branch.rate


def state(runs: str | Path) -> dict[str, Any]:
    return torch.load(Path(runs) / "last.pt", weights_only=True)


def leaves(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, dict):
        values = [values[key] for key in sorted(values, key=str)]
    return [t for v in values for t in leaves(v)] if isinstance(values, list) else []


def assert_same(a: str | Path, b: str | Path) -> None:
    """Check that both runs have the same state, bit for bit."""
    one, other = state(a), state(b)
    assert one["step"] == other["step"]
    for part in ("weights", "average", "optimiser", "memories"):
        both = leaves(one[part]), leaves(other[part])
        assert len(both[0]) == len(both[1]) > 0
        for x, y in zip(*both, strict=True):
            assert torch.equal(x, y), part


def interrupted_after(settings: TrainConfig, steps: int) -> None:
    """Resume a run for some steps and save it, without validation."""
    trainer = Trainer(settings, lambda _: None)
    trainer.resume()
    corpus = Corpus(Path(settings.corpus), Path(settings.cache))
    stream = MixtureStream(corpus, "train", seconds=1.0, batch=4, seed=settings.seed, workers=0)
    for _ in range(steps):
        trainer.train_step(stream.batch(trainer.batches))
    trainer.save()


def test_sessions_and_branches_dont_change_the_trunk(corpus: Path, tmp_path: Path) -> None:
    made = {**TRUNK, "carryover_prob": 0.5, "optimiser": "muon"}
    whole = config(corpus, tmp_path / "whole", **made, steps=6)
    trunk = config(corpus, tmp_path / "trunk", **made, steps=3)
    train(whole, lambda _: None)
    train(trunk, lambda _: None)
    before = (tmp_path / "trunk" / "last.pt").read_bytes()
    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "trunk").rglob("*")}

    order = BranchOrder(steps=4)
    best = train(trunk, lambda _: None, order)
    assert best == tmp_path / "trunk-decay-3" / "best"
    branch = state(best.parent)
    assert branch["step"] == 7
    assert branch["branch"] == {
        "step": 3, "elapsed_s": state(trunk.runs)["elapsed_s"], "rate": trunk.learning_rate,
    }  # fmt: skip
    record = describe(best)[1]["training"]
    assert (record["steps"], record["branch"]["step"]) == (7, 3)
    rate = float((best.parent / "dev.csv").read_text().splitlines()[-1].split(",")[2])
    assert rate == pytest.approx(0.01 * trunk.learning_rate)

    other = dataclasses.replace(order, runs=str(tmp_path / "other"))
    interrupted_after(branch_off(trunk, other, DistributedContext("cpu")), 2)
    train(trunk, lambda _: None, other)
    assert_same(tmp_path / "other", best.parent)

    assert (tmp_path / "trunk" / "last.pt").read_bytes() == before
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "trunk").rglob("*")} == files
    train(trunk, lambda _: None)  # three more steps
    assert_same(trunk.runs, whole.runs)
    again = train(trunk, lambda _: None, dataclasses.replace(order, runs=str(tmp_path / "other")))
    assert state(again.parent)["step"] == 7  # a finished branch doesn't train on


def test_invalid_branches_are_rejected(corpus: Path, tmp_path: Path) -> None:
    trunk, alone = config(corpus, tmp_path / "trunk", **TRUNK), DistributedContext("cpu")
    order = BranchOrder(steps=1)
    with pytest.raises(DataError, match=r"no .*trunk/last.pt to branch off from; train the trunk"):
        branch_off(trunk, order, alone)
    Trainer(trunk, lambda _: None).save()
    with pytest.raises(UsageError, match="a branch needs a length; add --minutes"):
        branch_off(trunk, BranchOrder(), alone)
    with pytest.raises(UsageError, match="trunk's folder; name another one"):
        branch_off(trunk, dataclasses.replace(order, runs=trunk.runs), alone)
    Trainer(config(corpus, tmp_path / "run"), lambda _: None).save()
    with pytest.raises(DataError, match="run holds a run that isn't a branch"):
        branch_off(trunk, dataclasses.replace(order, runs=str(tmp_path / "run")), alone)
    with pytest.raises(DataError, match="trunk-decay-0 is itself a branch"):
        branch_off(branch_off(trunk, order, alone), order, alone)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("schedule = 'linear'", "schedule = 'linear'; give one of: cosine, wsd"),
        ("examples = 'gpu'", "examples = 'gpu'; give one of: host, device"),
        ("decay = 1.5", "decay = 1.5; give 0 to 1"),
        ("carryover_prob = -1", "carryover_prob = -1; give 0 to 1"),
        ("carry = 2", "carryover_prob = 2; give 0 to 1"),
        ("schedule = 'wsd'\nsteps = 0", "neither minutes nor steps"),
    ],
)
def test_invalid_schedules_are_rejected(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(f"[train]\n{text}\n" + ("" if "steps" in text else "steps = 3\n"))
    with pytest.raises(UsageError, match=message):
        TrainConfig.read(path)
    path.write_text("[train]\nschedule = 'wsd'\ndecay = 0\n")
    assert TrainConfig.read(path).is_trunk  # a trunk needs no length


def test_the_command_trains_sessions_and_branches(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(tmp_path / "c.toml")
    write_toml(tmp_path / "c.toml", config(corpus, tmp_path / "run", **TRUNK, steps=2, batch=1))
    for arguments, folder, step in (
        (["--steps", "1"], "run", 1),
        ([], "run", 3),
        (["--branch", "decay", "--steps", "2"], "run-decay-3", 5),
        (["--branch", "decay", "--steps", "1", "--runs", str(tmp_path / "b")], "b", 4),
    ):
        assert main(["train", file, *arguments]) == 0
        line, best = capsys.readouterr().out.splitlines()
        assert line.startswith(f"100.0%  step {step:6}")
        assert best == str(tmp_path / folder / "best")
    assert state(tmp_path / "run")["step"] == 3
    assert main(["train", file, "--branch", "decay"]) == 2
    assert "a branch needs a length" in capsys.readouterr().err
