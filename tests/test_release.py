"""Releases: the card agrees with the metrics, the training record and the lineage."""

from __future__ import annotations

import dataclasses
import errno
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
from rtmtass.config import STEMS, ModelConfig
from rtmtass.errors import InputError
from rtmtass.training import release
from rtmtass.training.card import LIMITS_OF_OURS, CardFacts, _listed, read_experiments, write_card
from rtmtass.training.data.corpus import Corpus, IndexRow
from rtmtass.training.data.mixing import write_evaluation_set
from rtmtass.training.data.recordings import PendingRecording, store
from rtmtass.training.lineage import lineage_of, runs_of, totals
from rtmtass.training.release import Extras, _name
from rtmtass.weights import as_safetensors, describe, find, open_model, save_model

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
    words += ["--licence", "CC-BY-4.0"]
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


@pytest.mark.parametrize(
    ("licences", "cell"),
    [
        (["MIT"], "MIT"),
        (["CC0", "", "CC0"], "CC0; not stated"),
        (["GPL|LGPL"], r"GPL\|LGPL"),
        ([f"CC-BY (clip {i} by A)" for i in range(9)] + ["CC0 (B)"], "CC-BY, CC0, by recording"),
    ],
)
def test_a_source_is_one_row_of_the_card(licences: list[str], cell: str) -> None:
    assert _listed(licences) == cell


def test_a_release_may_be_halved_and_get_an_expander(made: Path, tmp_path: Path) -> None:
    folder = made.parent
    ours = open_model(str(folder / "trained"))  # its matrices are halved already
    exact = {name: np.float32(1.0001) * value for name, value in ours.weights.items()}
    save_model(tmp_path / "trained", ours.config, as_safetensors(exact), ours.about)
    words = ["release", str(tmp_path / "trained"), str(folder / "set"), "--half"]
    words += ["--expander", "-15", "--expander-ratio", "3"]
    words += ["--corpus", str(folder / "corpus"), "--version-of-weights", "9.9", "--licence", "MIT"]
    assert main([*words, "-o", str(tmp_path / "half")]) == 0
    half, full = (open_model(str(tmp_path / name)) for name in ("half", "trained"))
    assert half.config.net == dataclasses.replace(
        full.config.net, expander_db=-15.0, expander_ratio=3
    )
    card = (half.folder / "CARD.md").read_text()
    assert "mixture's power is below -15 dB is lowered by 2 times as much (" in card
    for name, value in full.weights.items():
        rounded = value.astype(np.float16) if value.ndim == 2 else value
        np.testing.assert_array_equal(half.weights[name], rounded.astype(np.float32))
    sizes = [(model.folder / "model.safetensors").stat().st_size for model in (half, full)]
    assert 0.5 < sizes[0] / sizes[1] < 0.51


def test_the_card_of_another_model_says_nothing_about_ours(made: Path) -> None:
    card = (made / "CARD.md").read_text(encoding="utf-8")
    config, about = describe(made)
    assert config.name == "out"  # the trained model still had a preset's name
    assert card.startswith("# out, version 9.9\n")
    assert "Licence of the weights: CC-BY-4.0." in card
    assert about["licence"] == "CC-BY-4.0"
    assert f"rtmtass evaluate {made} SET" in card
    ours = [
        line for line in LIMITS_OF_OURS.splitlines() if "German" in line or "game music" in line
    ]
    assert len(ours) == 2
    assert not any(line in card for line in (*ours, "rtmtass-small"))
    assert "| speech | made | 0.1 | CC0 |" in card  # of its own corpus


def facts(**changes: Any) -> CardFacts:
    """Return the facts of a small model, measured on a plain folder."""
    level = {"mean": -20.0, "low": -21.0, "high": -19.0}
    figures = {
        "set": {},
        "clips": 3,
        **{kind: dict.fromkeys((*STEMS, "average"), level) for kind in ("si_sdri", "sdri")},
        "leakage_db": dict.fromkeys(STEMS, level),
    }
    rows = [
        IndexRow("speech", "own", "ann", "train", "a.flac", 90.0),
        IndexRow("speech", "own", "bob", "train", "b.flac", 30.0, "CC0"),
        IndexRow("music", "own", "c", "train", "c.flac", 60.0),
        IndexRow("noise", "own", "d", "dev", "d.flac", 60.0),
    ]
    about = {"version": "1.0", "training": dict(RUN)}
    config = ModelConfig(name="mine")
    return CardFacts(**{"config": config, "about": about, "n_parameters": 9, "figures": figures,
                        "index": rows, **changes})  # fmt: skip


def test_the_limits_come_from_the_corpus() -> None:
    limits = write_card(facts()).split("## Limits\n\n")[1].split("\n\n## ")[0]
    assert limits.splitlines() == [
        "- Trained on 2.0 minutes of speech, 2 speakers: other kinds may be separated less well.",
        "- Trained on 1.0 minutes of music, 1 pieces: other kinds may be separated less well.",
        "- Trained on 0.0 minutes of noise, 0 recordings: other kinds may be separated less well.",
        "- No recorded singing in the training data: sung vocals may come out as speech.",
        "- The model works up to 8 kHz; higher frequencies get the mask of its highest band.",
    ]
    sung = IndexRow("singing", "own", "e", "train", "e.flac", 120.0)
    assert "- 2.0 minutes of recorded singing in" in write_card(facts(index=[sung]))


def test_what_is_not_known_is_not_claimed() -> None:
    card = write_card(facts())
    assert "Licence of the weights: not stated." in card
    assert "| speech | own | 2.0 | CC0; not stated |" in card
    assert "3 mixtures of a folder of recordings, taken as they are, and separated by" in card
    assert "arXiv 2107.06467" not in card
    assert "In addition to the recordings below" not in card
    assert "rtmtass data mix" not in card
    assert "is not recorded" in write_card(facts(about={"version": "1"}))
    banks = {**RUN, "bank_sizes": {"rooms": 3, "singing": 0}}
    card = write_card(facts(about={"version": "1", "training": banks}))
    assert "In addition to the recordings below: synthetic rooms.\n" in card
    mixed = {**facts().figures, "set": {"n": 3, "seconds": 2.0, "seed": 7, "split": "train"}}
    card = write_card(facts(figures=mixed))
    assert "pieces also used in training" in card
    assert "--n 3 --seconds 2 --seed 7 --split train\n" in card


def test_only_our_models_get_our_text_and_name(tmp_path: Path) -> None:
    assert LIMITS_OF_OURS in write_card(facts(is_ours=True))
    for trained, given, expected in (
        ("rtmtass-small", "", "mine"), ("rtmtass-base", "A 1", "A 1"), ("owl", "", "owl"),
    ):  # fmt: skip
        assert _name(trained, tmp_path / "mine", Extras(name=given)) == expected


def test_a_failed_release_leaves_the_one_before_it(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path(shutil.copytree(made, tmp_path / "out"))
    (out / "CREDITS.md").write_text("ours")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    config, about = describe(out)
    written = facts(config=config, about={**about, "version": "10"})

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def no_picture(separator: Any, path: Path) -> None:
        path.write_bytes(b"")

    monkeypatch.setattr(release, "draw", full)
    with pytest.raises(OSError, match="No space"):
        release._write(made, out, None, written)  # type: ignore[arg-type]
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    monkeypatch.setattr(release, "draw", no_picture)
    release._write(made, out, None, written)  # type: ignore[arg-type]
    assert describe(out)[1]["version"] == "10"
    assert (out / "CREDITS.md").read_text() == "ours"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


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
