"""Distillation: a student learns its teacher's stems, aligned in time, and records the teacher."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import NET, buzzing_corpus, config

from rtmtass.errors import DataError, ModelError
from rtmtass.training.distillation import WEIGHT, Teacher
from rtmtass.training.losses import SILENCE_DB
from rtmtass.training.train import Trainer, train
from rtmtass.weights import describe, open_model

SMALLER = {**NET, "channels": 8}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return buzzing_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def model(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An almost untrained teacher, whose stems are unequal fractions of the mixture."""
    runs = tmp_path_factory.mktemp("teacher")
    return str(train(config(corpus, runs, steps=2), lambda _: None))


def sound() -> tuple[torch.Tensor, torch.Tensor]:
    stems = 0.1 * torch.randn(2, 3, 40 * 256, generator=torch.Generator().manual_seed(0))
    return stems, stems.sum(dim=1)


@pytest.mark.parametrize("lookahead", [0, 2])
def test_a_student_equal_to_its_teacher_is_at_the_loss_floor(model: str, lookahead: int) -> None:
    opened = open_model(model).config
    late = dataclasses.replace(opened, net=dataclasses.replace(opened.net, lookahead=lookahead))
    teacher = Teacher(model, late, torch.device("cpu"))
    _, mixture = sound()
    spec = teacher.stft(mixture)
    teacher_stems = teacher.stems(spec)
    student_stems = torch.cat(
        [torch.zeros_like(teacher_stems[:, :lookahead]), teacher_stems], dim=1
    )[:, : teacher_stems.shape[1]]
    same = float(teacher.loss(student_stems, teacher_stems, mixture))
    earlier = float(teacher.loss(torch.roll(student_stems, -1, dims=1), teacher_stems, mixture))
    assert WEIGHT * SILENCE_DB - 0.1 < same < WEIGHT * (SILENCE_DB + 20)
    assert earlier > same + 10
    assert not any(p.requires_grad for p in teacher.net.parameters())


def test_a_student_approaches_its_teacher_and_the_record_names_it(
    corpus: Path, model: str, tmp_path: Path
) -> None:
    settings = config(
        corpus, tmp_path, net=SMALLER, steps=30, teacher=model, teacher_share=1.0, ema=0.5
    )
    trainer = Trainer(settings, lambda _: None)
    before = {k: v.clone() for k, v in trainer.teacher.net.state_dict().items()}  # type: ignore[union-attr]
    stems, _ = sound()
    losses = [trainer.train_step(stems.numpy())[0] for _ in range(30)]
    print(f"loss against the teacher's stems {losses[0]:.2f} -> {losses[-1]:.2f}")
    assert losses[-1] < losses[0] - 1
    for name, value in trainer.teacher.net.state_dict().items():  # type: ignore[union-attr]
        assert torch.equal(value, before[name])
    best = train(dataclasses.replace(settings, runs=str(tmp_path / "b"), steps=2), lambda _: None)
    assert describe(best)[1]["training"]["teacher"] == "best unreleased"


def test_teacher_share_interpolates_between_both_losses(
    corpus: Path, model: str, tmp_path: Path
) -> None:
    stems = sound()[0].numpy().astype(np.float32)
    values = []
    for share in (0.0, 0.25, 1.0):
        runs = tmp_path / str(share)
        settings = config(corpus, runs, net=SMALLER, teacher=model, teacher_share=share)
        values.append(Trainer(settings, lambda _: None).train_step(stems)[0])
    alone = Trainer(config(corpus, tmp_path / "n", net=SMALLER), lambda _: None)
    assert alone.train_step(stems)[0] == pytest.approx(values[0], rel=1e-6)
    assert values[1] == pytest.approx(0.75 * values[0] + 0.25 * values[2], rel=1e-5)


def test_incompatible_teachers_are_rejected(corpus: Path, model: str, tmp_path: Path) -> None:
    student = open_model(model).config
    shorter = dataclasses.replace(student, stft=dataclasses.replace(student.stft, hop=128))
    with pytest.raises(DataError, match=r"has stft .*, this config has .*; name a teacher"):
        Teacher(model, shorter, torch.device("cpu"))
    with pytest.raises(ModelError):
        Trainer(config(corpus, tmp_path, teacher="nobody"), lambda _: None)
