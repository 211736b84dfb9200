"""The profile of a training step: its parts add up, and the run's folder isn't touched."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs import buzzing_corpus, config, write_toml

from rtmtass.cli.main import main
from rtmtass.runtime.torch.steps import Body
from rtmtass.training import step_profile
from rtmtass.training.train import Trainer

PARTS = ["examples", "data copy", "forward", "backward", "clip, optimiser", "EMA", "state, metrics"]


def test_the_command_prints_the_parts_and_doesnt_touch_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = config(buzzing_corpus(tmp_path), tmp_path / "run", carryover_prob=0.5)
    write_toml(tmp_path / "c.toml", settings)
    command = ["train", str(tmp_path / "c.toml"), "--profile", "2"]
    assert main(command) == 0
    head, *rows, _, last = capsys.readouterr().out.splitlines()
    assert head.split() == ["part", "of", "a", "step", "ms", "share"]
    assert [row.rsplit(maxsplit=2)[0] for row in rows[:-1]] == PARTS
    assert rows[-1].split()[0] == "all"
    assert last.startswith("cpu, 2 steps of 4 x 1 s kernel by kernel: ")
    assert last.endswith(" MB at most")
    assert not (tmp_path / "run").exists()

    assert main([*command, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert list(result["parts_ms"]) == PARTS
    assert result["step_ms"] == pytest.approx(sum(result["parts_ms"].values()))
    assert result["x_real_time"] == pytest.approx(4.0 * result["steps_per_s"])
    assert result["peak_memory_mb"] > 10
    assert result["parts_without_graph_ms"] == {}


def test_a_captured_step_is_also_timed_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Captured(Trainer):
        def __init__(self, settings: Any, progress: Callable[..., None], distributed: Any) -> None:
            super().__init__(settings, progress, distributed, capture=silent)

    def silent(body: Body) -> Body:
        """Replay like a CUDA graph: without marks for the parts."""
        return lambda: None

    monkeypatch.setattr(step_profile, "Trainer", Captured)
    settings = config(buzzing_corpus(tmp_path), tmp_path / "run")
    result = step_profile.profile(settings, 2)
    assert result.is_captured
    assert list(result.parts_ms) == ["examples", "data copy", "whole step"]
    assert list(result.parts_without_graph_ms) == PARTS
