"""Releases: the card agrees with the metrics, the training record and the lineage."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpora import make_corpus
from matplotlib import image

from rtmtass.cli.main import main
from rtmtass.config import STEMS
from rtmtass.errors import InputError
from rtmtass.training.card import read_experiments
from rtmtass.training.data.corpus import Corpus
from rtmtass.training.data.mixing import write_evaluation_set
from rtmtass.training.data.recordings import PendingRecording, store
from rtmtass.training.lineage import lineage_of, runs_of, totals
from rtmtass.weights import describe, find

RUN = {"steps": 10, "mixture_hours": 1.5, "machine_hours": 0.25, "device": "cpu", "threads": 2}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release of the default model, measured on two evaluation sets of a small corpus."""
    folder = tmp_path_factory.mktemp("release")
    corpus = Corpus(make_corpus(folder / "corpus"), folder / "cache")
    voice = PendingRecording(
        "singing", "a", "0", lambda: corpus.recordings("speech", "dev").whole(0)
    )
    store(folder / "cache" / "singing-dev", [voice], "test")
    for name, singing in (("set", False), ("sung", True)):
        write_evaluation_set(corpus, folder / name, 2, seconds=2.0, singing=singing)
    (folder / "tried.md").write_text("# Tried\n\n| what | dB |\n|---|---|\n| wider | 1 |\n")
    trained = folder / "trained"  # without a lineage in its record
    shutil.copytree(find("rtmtass-small"), trained)
    about = json.loads((trained / "config.json").read_text())
    about["training"].pop("earlier", None)
    (trained / "config.json").write_text(json.dumps(about))
    words = ["release", str(trained), str(folder / "set")]
    words += ["--corpus", str(corpus.folder), "--version-of-weights", "9.9"]
    words += ["--singing", str(folder / "sung"), "--experiments", str(folder / "tried.md")]
    assert main([*words, "--started-from", "rtmtass-small", "-o", str(folder / "out")]) == 0
    return folder / "out"


def test_a_release_is_complete(made: Path) -> None:
    assert sorted(path.name for path in made.iterdir()) == [
        "CARD.md", "config.json", "golden.npz", "metrics.json", "model.safetensors",
        "spectrograms.png",
    ]  # fmt: skip
    assert describe(made)[1]["version"] == "9.9"
    rows, columns = image.imread(made / "spectrograms.png").shape[:2]
    assert 300 < rows < 800
    assert 300 < columns < 800
    assert (made / "spectrograms.png").stat().st_size < 500_000
    assert "](spectrograms.png)" in (made / "CARD.md").read_text()


def test_every_figure_of_the_card_is_in_the_metrics(made: Path) -> None:
    card = (made / "CARD.md").read_text(encoding="utf-8")
    metrics = json.loads((made / "metrics.json").read_text())
    reached = card.split("## Results")[1].split("\n## ")[0]

    def words(value: dict[str, float]) -> str:
        return f"{value['mean']:.2f} ({value['low']:.2f} … {value['high']:.2f})"

    shown = re.findall(r"-?\d+\.\d\d \(-?\d+\.\d\d … -?\d+\.\d\d\)", reached)
    measured = [words(metrics[k][s]) for k in ("si_sdri", "sdri") for s in (*STEMS, "average")]
    measured += [words(metrics["leakage_db"][s]) for s in STEMS]
    measured += [words(v) for case in metrics["leakage_by_case_db"].values() for v in case.values()]
    singing = metrics["singing"]
    measured += [words(singing[k]) for k in ("with_singing", "instrumental", "difference")]
    assert sorted(shown) == sorted(measured)
    assert f"{metrics['silence_dbfs']['from_start']:.0f} dBFS" in reached


def test_the_card_adds_up_the_lineage(made: Path) -> None:
    own = describe(find("rtmtass-small"))[1]["training"]
    record = describe(made)[1]["training"]
    assert record["earlier"] == lineage_of("rtmtass-small")
    assert totals(record)["steps"] == own["steps"] + totals(own)["steps"]
    card = (made / "CARD.md").read_text(encoding="utf-8")
    sums = totals(record)
    assert f"{sums['mixture_hours']:g} hours of mixtures" in card
    assert f": {sums['machine_hours']:g} hours on" in card
    assert f"over {1 + len(record['earlier'])} runs" in card


def test_lineage_adds_up_over_generations() -> None:
    first = dict(RUN)
    second: dict[str, Any] = {**RUN, "steps": 5, "dev": {"si_sdri": 1.0}}
    second["earlier"] = runs_of(first, "0.1")
    third = {**RUN, "steps": 1, "earlier": runs_of(second, "0.2")}
    assert [run["version"] for run in runs_of(third)] == ["0.1", "0.2", ""]
    assert [run["steps"] for run in runs_of(third)] == [10, 5, 1]
    assert totals(third) == {"steps": 16, "mixture_hours": 4.5, "machine_hours": 0.75}
    assert all("dev" not in run for run in runs_of(third))


def test_experiments_are_read_from_markdown_or_json(made: Path, tmp_path: Path) -> None:
    assert "## Experiments\n\n| what | dB |\n|---|---|\n| wider | 1 |" in (
        made / "CARD.md"
    ).read_text(encoding="utf-8")
    path = tmp_path / "e.json"
    path.write_text(json.dumps([{"tried": "a", "dB": 1.5}, {"tried": "b", "kept": "no"}]))
    assert read_experiments(path).splitlines() == [
        "| tried | dB | kept |", "| --- | --- | --- |", "| a | 1.5 | |", "| b | | no |",
    ]  # fmt: skip
    for text, shown in (("{}", "not a list"), ("[1]", "not iterable"), ("[", "JSON: a list")):
        path.write_text(text)
        with pytest.raises(InputError, match=shown):
            read_experiments(path)
    with pytest.raises(InputError, match="can't be read"):
        read_experiments(tmp_path / "none.md")


def test_the_golden_output_matches_the_released_one(made: Path) -> None:
    with np.load(made / "golden.npz") as ours, np.load(find("rtmtass-small") / "golden.npz") as old:
        np.testing.assert_allclose(ours["stems"], old["stems"], atol=1e-5)
