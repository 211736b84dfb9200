"""The ablations compare like with like: equal sizes, equal data, nothing measured twice."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from corpora import make_corpus

from benchmarks import ablations
from benchmarks.ablations import BASE, QUESTIONS, VARIANTS
from rtmtass.training.train import TrainConfig


def test_all_variants_are_of_one_size() -> None:
    sizes = {}
    for name in VARIANTS:
        config = TrainConfig(net=ablations.net_of(name)).model()
        sizes[name] = ablations.describe(config)["parameters"]
    for name, size in sizes.items():
        assert abs(size / sizes[BASE] - 1) < 0.03, name


def test_every_variant_answers_a_question() -> None:
    assert set(VARIANTS) == {name for names in QUESTIONS.values() for name in names}
    assert all(names[0] in (BASE, "Muon") for names in QUESTIONS.values())


def test_variants_hear_equally_many_hours(tmp_path: Path) -> None:
    arguments = ablations.parse([str(tmp_path), "--cache", str(tmp_path)])
    for name in VARIANTS:
        config = ablations.config_of(name, arguments)
        assert config.steps * config.batch == arguments.steps * ablations.FIXED["batch"], name
    assert ablations.config_of("Muon, batches of 4", arguments).batch == 4


def test_variants_are_trained_once_and_compared_clip_by_clip(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = make_corpus(tmp_path / "corpus")
    words = [str(corpus), "--cache", str(tmp_path / "cache"), "--steps", "2", "--clips", "3"]
    words += ["--runs", str(tmp_path / "runs"), "--output", str(tmp_path / "a.json")]
    words += ["--no-compile", "--only", "ours"]
    ablations.main(words)
    first = json.loads((tmp_path / "a.json").read_text())
    capsys.readouterr()
    ablations.main([*words, "look-ahead 2", "multi-scale backbone"])
    result = json.loads((tmp_path / "a.json").read_text())
    assert result["variants"][BASE] == first["variants"][BASE]
    said = capsys.readouterr().out
    assert "look-ahead 2" in said
    assert "64" in said.split("look-ahead 2")[1]
    ours, other = (
        np.array(result["variants"][k]["clips"]["si_sdri"]) for k in (BASE, "look-ahead 2")
    )
    over = ablations.over(result["variants"], "look-ahead 2", BASE)
    assert over is not None
    assert over["mean"] == pytest.approx((other - ours).mean(), abs=1e-3)
    assert ablations.over(result["variants"], BASE, BASE) is None
    assert (ours != other).any()
    with pytest.raises(SystemExit, match=r"another budget \(steps differ\)"):
        ablations.main([*words, "--steps", "3"])


def test_verdicts_are_those_of_the_interval() -> None:
    for low, high, word in ((0.1, 0.2, "better"), (-2, -1, "worse"), (-1, 1, "not told apart")):
        assert ablations.verdict({"mean": 0.0, "low": low, "high": high}) == word
