"""`rtmtass release`: from a trained model to one that ships, with figures it measured itself."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from rtmtass.separator import Separator
from rtmtass.training import perceptual
from rtmtass.training.evaluate import Progress, describe_set, evaluate, read_set
from rtmtass.training.sources import IndexRow, decode, read_index
from rtmtass.weights import demo_clip, open_model, save_model

GOLDEN_START_S, GOLDEN_S = 4.0, 1.0
"""The part of the demo clip whose stems are kept, to be found again by every later version."""


def release(
    trained: Path,
    evaluation_set: Path,
    corpus: Path,
    out: Path,
    version: str,
    separator: Separator,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure a trained model and write it to `out` as a release.

    Args:
        trained: the folder `rtmtass train` left its best weights in.
        evaluation_set: folder of `rtmtass data mix`.
        corpus: what it was trained on, for the card's table of sources.
        out: the model's folder, models/NAME.
        version: of the weights.
        separator: `load(trained)`.
        progress: see `evaluate`.

    Returns:
        the figures, as written to metrics.json.
    """
    model = open_model(str(trained))
    made_of = describe_set(evaluation_set)
    clips = read_set(evaluation_set, model.config.stems)
    n = int(made_of.get("n", 0))
    figures = {"set": made_of, **evaluate(separator, clips, n, progress, perceptual.available()[0])}
    about = {**model.about, "version": version}
    save_model(out, model.config, (trained / "model.safetensors").read_bytes(), about)
    (out / "metrics.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    write_golden(separator, out / "golden.npz")
    card = write_card(
        model.config.name, about, model.n_parameters, figures, read_index(corpus / "index.csv")
    )
    (out / "CARD.md").write_text(card, encoding="utf-8")
    return figures


def write_golden(separator: Separator, path: Path) -> None:
    """Keep what the model makes of a second of the demo clip."""
    clip = decode(demo_clip())
    start = round(GOLDEN_START_S * separator.sample_rate)
    mixture = clip[start : start + round(GOLDEN_S * separator.sample_rate)]
    np.savez_compressed(path, mixture=mixture, stems=separator.separate(mixture))


def _interval(value: dict[str, float]) -> str:
    return f"{value['mean']:.2f} ({value['low']:.2f} … {value['high']:.2f})"


def write_card(
    name: str,
    about: dict[str, Any],
    n_parameters: int,
    figures: dict[str, Any],
    index: list[IndexRow],
) -> str:
    """Return the model card; every figure in it comes from the arguments."""
    training, made_of = about["training"], figures["set"]
    stems = [k for k in figures["si_sdri"] if k != "average"]
    rows = [
        f"| {stem} | {_interval(figures['si_sdri'][stem])} | {_interval(figures['sdri'][stem])} |"
        f" {_interval(figures['leakage_db'][stem]) if stem in figures['leakage_db'] else ''} |"
        for stem in (*stems, "average")
    ]
    minutes: dict[tuple[str, str, str], float] = defaultdict(float)
    for row in index:
        if row.split == "train":
            minutes[row.role, row.source, row.licence] += row.seconds / 60
    sources = [
        f"| {role} | {source} | {total:.1f} | {licence} |"
        for (role, source, licence), total in sorted(minutes.items())
    ]
    return "\n".join(
        [
            f"# {name}, version {about['version']}",
            "",
            f"A causal separator of speech, music and noise: {n_parameters / 1e6:.2f} M parameters,"
            " 16 kHz, 512-sample window, 256-sample hop, 32 ms algorithmic latency. Licence of the"
            f" weights: {about['licence']}.",
            "",
            "## What it reaches",
            "",
            f"{figures['clips']} mixtures of {made_of['seconds']:g} s from recordings, speakers and"
            " pieces that training never heard, mixed by the rule of arXiv 2107.06467 (music and"
            " noise each at U(-5, 5) dB against speech), through `Separator.separate`. In"
            " brackets: 95 % bootstrap intervals of the mean. Leakage: level of a stem's output"
            " when the stem is absent, dB below the mixture.",
            "",
            "| stem | SI-SDRi, dB | SDRi, dB | leakage, dB |",
            "|---|---|---|---|",
            *rows,
            "",
            "The same figures: `metrics.json`. Measured with",
            "",
            "```",
            f"rtmtass data mix CORPUS SET --cache CACHE --n {made_of['n']}"
            f" --seconds {made_of['seconds']:g}"
            f" --seed {made_of['seed']}",
            f"rtmtass evaluate {name} SET",
            "```",
            "",
            "## How it was trained",
            "",
            f"{training['mixture_hours']:g} hours of mixtures, made on the fly, in"
            f" {training['steps']} steps: {training['machine_hours']:g} hours on"
            f" {training['threads']} CPU cores"
            + (f" and {training['device']}" if training["device"] != "cpu" else "")
            + ". Loss: level-aware SNR and compressed spectra, both stages. Besides the recordings"
            " below: generated noise, synthetic rooms, and speech re-synthesised as singing, which"
            " counts as music.",
            "",
            "## Limits",
            "",
            "- Little real singing was heard in training: sung vocals may come out as speech.",
            "- Languages of the training speech: mostly English and German, some French, Russian,"
            " Spanish, Italian, Czech and others; no tonal language from real speakers.",
            "- Music is mostly instrumental game music; reverberant speech was rare.",
            "- Sounds that are hard to name (a beep, a ringtone, a hum) may go to music or noise.",
            "- The model hears up to 8 kHz; what lies above follows its highest band.",
            "",
            "## Training sources and their terms",
            "",
            "| role | source | minutes | licence |",
            "|---|---|---|---|",
            *sources,
            "",
        ]
    )
