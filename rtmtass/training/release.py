"""`rtmtass release`: writes a trained model with its card, metrics and golden output."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rtmtass.errors import OutputError
from rtmtass.evaluation import perceptual
from rtmtass.evaluation.evaluate import describe_set, evaluate, read_set
from rtmtass.evaluation.singing import compare_sets
from rtmtass.io.decode import decode
from rtmtass.io.paths import quoted
from rtmtass.presets import PRESETS
from rtmtass.separator import Separator, load
from rtmtass.spectrogram import write_report
from rtmtass.training.card import CardFacts, read_experiments, write_card
from rtmtass.training.checkpoints import put_in_place
from rtmtass.training.data.corpus import read_index
from rtmtass.training.lineage import lineage_of
from rtmtass.types import Progress
from rtmtass.weights import as_safetensors, demo_clip, models_folders, open_model, save_model

GOLDEN_START_S, GOLDEN_S = 4.0, 1.0
"""Section of the demo clip whose stems are the golden output that later versions must reproduce."""
PICTURE = "spectrograms.png"
OUR_NAMES = {make().name for make in PRESETS.values()}
"""Names of this project's models, which a network of a preset has until it gets its own."""


@dataclass(frozen=True)
class Extras:
    """Optional inputs of a release.

    Attributes:
        singing: a set written by `rtmtass data mix --singing`, to measure sung music on.
        experiments: a file for the card, see `card.read_experiments`.
        started_from: the model that training started from, if its record doesn't say.
        licence: of the weights, in one line; empty for the one that the trained model states.
        name: of the model; empty for the trained model's own, or, where that is the name of
            a released model of this project, the output folder's.
    """

    singing: Path | None = None
    experiments: Path | None = None
    started_from: str = ""
    licence: str = ""
    name: str = ""


def release(
    trained: Path,
    evaluation_set: Path,
    corpus: Path,
    out: Path,
    version: str,
    separator: Separator,
    progress: Progress | None = None,
    extras: Extras | None = None,
) -> dict[str, Any]:
    """Measure a trained model and write it to `out` as a release.

    Args:
        trained: folder of the best weights, written by `rtmtass train`.
        evaluation_set: folder of a set written by `rtmtass data mix`.
        corpus: the training corpus, for the card's table of sources.
        out: the model's folder, models/NAME.
        version: of the weights.
        separator: `load(trained)` with default settings; this is what is measured.
        progress: see `evaluate`.
        extras: optional inputs.

    Returns:
        the figures, as written to metrics.json.

    Raises:
        DataError: a set holds no clips.
        InputError: the experiments can't be read.
        OutputError: the release can't be written; `out` is as it was.
    """
    extras = extras or Extras()
    experiments = read_experiments(extras.experiments) if extras.experiments else ""
    index = read_index(corpus / "index.csv")
    model = open_model(str(trained))
    about = {k: v for k, v in model.about.items() if k != "model"}
    about |= {"version": version, "training": _record(model.about, extras)}
    about["licence"] = extras.licence or about.get("licence", "")
    config = dataclasses.replace(model.config, name=_name(model.config.name, out, extras))
    is_ours = config.name in OUR_NAMES and out.resolve().parent in models_folders()
    made_of = describe_set(evaluation_set)
    clips = read_set(evaluation_set, model.config.stems)
    n = int(made_of.get("n", 0))
    figures = {"set": made_of, **evaluate(separator, clips, n, progress, perceptual.available()[0])}
    if extras.singing:
        figures["singing"] = compare_sets(separator, evaluation_set, extras.singing, progress)
    opened_as = config.name if is_ours else quoted(out)
    facts = CardFacts(
        config, about, model.n_parameters, figures, index, experiments, PICTURE, opened_as, is_ours
    )  # fmt: skip
    try:
        _write(trained, out.resolve(), separator, facts)
    except OSError as error:
        raise OutputError(
            f"{out} can't be written: {error.strerror}; nothing in it was changed; free some space"
            " or give another folder with -o"
        ) from None
    return figures


def rework(trained: Path, out: Path, is_half: bool, expander: dict[str, Any]) -> None:
    """Write a copy of a model as it is to be released.

    Args:
        trained: the model's folder.
        out: the copy's.
        is_half: store the matrices as float16: half the size, and 11 exact bits.
        expander: new values of `expander_db` or `expander_ratio`, see `NetConfig`.

    Raises:
        ModelError: there is no such model, or a value is out of range.
        OutputError: the copy can't be written.
    """
    model = open_model(str(trained))
    config, weights = model.config, model.weights
    config = dataclasses.replace(config, net=dataclasses.replace(config.net, **expander))
    if is_half:
        weights = {k: v.astype(np.float16) if v.ndim == 2 else v for k, v in weights.items()}
    save_model(out, config, as_safetensors(weights), model.about)


def _write(trained: Path, out: Path, separator: Separator, facts: CardFacts) -> None:
    """Write all files of a release beside `out`, and put them in its place when all are there."""
    part = out.with_name(f"{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a killed run
    try:
        save_model(part, facts.config, (trained / "model.safetensors").read_bytes(), facts.about)
        text = json.dumps(facts.figures, indent=2) + "\n"
        (part / "metrics.json").write_text(text, encoding="utf-8")
        write_golden(load(str(trained), precision="f32"), part / "golden.npz")
        draw(separator, part / PICTURE)
        (part / "CARD.md").write_text(write_card(facts), encoding="utf-8")
        put_in_place(part, out)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _record(about: Mapping[str, Any], extras: Extras) -> dict[str, Any]:
    """Return the training record with its earlier runs."""
    training = dict(about.get("training") or {})
    if extras.started_from and not training.get("earlier"):
        training["earlier"] = lineage_of(extras.started_from)
    return training


def _name(trained: str, out: Path, extras: Extras) -> str:
    """Return the name of a release: no other model is called like one of this project."""
    return extras.name or (out.resolve().name if trained in OUR_NAMES else trained)


def write_golden(separator: Separator, path: Path) -> None:
    """Write a second of the demo clip and the stems a float32 model separates from it."""
    clip = decode(demo_clip())
    start = round(GOLDEN_START_S * separator.sample_rate)
    mixture = clip[start : start + round(GOLDEN_S * separator.sample_rate)]
    np.savez_compressed(path, mixture=mixture, stems=separator.separate(mixture))


def draw(separator: Separator, path: Path) -> None:
    """Draw spectrograms of the demo clip and its separated stems, small enough for a card."""
    clip = decode(demo_clip())
    stems = dict(zip(separator.stems, separator.separate(clip), strict=True))
    write_report(path, {"mixture": clip, **stems}, separator.sample_rate, is_small=True)
