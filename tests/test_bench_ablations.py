"""Ablations: variants of equal size and data, each trained once, compared clip by clip."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from corpora import make_corpus

from benchmarks import ablations
from benchmarks.ablations import BASE, QUESTIONS, VARIANTS
from rtmtass.training.train import TrainConfig


def test_variants_have_equal_size() -> None:
    sizes = {}
    for name in VARIANTS:
        config = TrainConfig(preset="gated", net=ablations.net_of(name)).model()
        sizes[name] = ablations.describe(config)["parameters"]
    for name, size in sizes.items():
        assert abs(size / sizes[BASE] - 1) < 0.03, name


def test_every_variant_belongs_to_a_question() -> None:
    assert set(VARIANTS) == {name for names in QUESTIONS.values() for name in names}
    assert all(names[0] in (BASE, "Muon") for names in QUESTIONS.values())


def test_variants_train_on_equal_amounts_of_audio(tmp_path: Path) -> None:
    arguments = ablations.parse([str(tmp_path), "--cache", str(tmp_path)])
    for name in VARIANTS:
        config = ablations.config_of(name, arguments)
        assert config.steps * config.batch == arguments.steps * ablations.FIXED["batch"], name
    assert ablations.config_of("Muon, batches of 4", arguments).batch == 4


def test_variants_are_trained_once_and_compared_clip_by_clip(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ablations, "FIXED", {**ablations.FIXED, "seconds": 1.0, "batch": 2})
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
    stdout = capsys.readouterr().out
    assert "look-ahead 2" in stdout
    assert "64" in stdout.split("look-ahead 2")[1]
    ours, other = (
        np.array(result["variants"][k]["clips"]["si_sdri"]) for k in (BASE, "look-ahead 2")
    )
    difference = ablations.difference_to(result["variants"], "look-ahead 2", BASE)
    assert difference is not None
    assert difference["mean"] == pytest.approx((other - ours).mean(), abs=1e-3)
    assert ablations.difference_to(result["variants"], BASE, BASE) is None
    assert (ours != other).any()
    with pytest.raises(SystemExit, match=r"another budget \(steps differ\)"):
        ablations.main([*words, "--steps", "3"])


def test_verdict_follows_from_the_interval() -> None:
    for low, high, word in ((0.1, 0.2, "better"), (-2, -1, "worse"), (-1, 1, "inconclusive")):
        assert ablations.verdict({"mean": 0.0, "low": low, "high": high}) == word
