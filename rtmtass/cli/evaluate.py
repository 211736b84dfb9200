"""`rtmtass evaluate` and `release`: measure a model, and write a release with its metrics."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtmtass.cli.arguments import add_passes, count
from rtmtass.cli.data import require_training_tools
from rtmtass.cli.metrics_table import print_figures
from rtmtass.errors import OutputError

if TYPE_CHECKING:
    from rtmtass.cli.arguments import Commands
    from rtmtass.cli.console import Steps
    from rtmtass.separator import Separator

SINGING = "the same set mixed with --singing, to measure its effect on the music stem"


def register(commands: Commands) -> None:
    """Add `evaluate` and `release`."""
    evaluate = commands.add_parser(
        "evaluate",
        help="measure a model on a set of mixtures",
        description="Measures a model on an evaluation set, through Separator.separate.",
    )
    evaluate.add_argument("model", metavar="MODEL", help="a released model's name, or a folder")
    evaluate.add_argument(
        "set",
        type=Path,
        metavar="SET",
        help="a folder of `rtmtass data mix`, or with CLIP/mixture.wav, CLIP/speech.wav, … or"
        " mixture/CLIP.wav, speech/CLIP.wav, …",
    )
    evaluate.add_argument("--runtime", default="numba", choices=("numba", "torch"))
    add_passes(evaluate.add_argument)
    evaluate.add_argument("--json", action="store_true", help="print all metrics as JSON")
    evaluate.add_argument(
        "--html", type=Path, metavar="FILE", help="a page of spectrograms and audio"
    )
    evaluate.add_argument("--clips", type=count, metavar="N", help="only the first N of the set")
    evaluate.add_argument(
        "--perceptual",
        action=argparse.BooleanOptionalAction,
        help="PESQ, STOI and BSS-eval SDRi, about 1 s per clip; default: those installed",
    )
    evaluate.add_argument("--singing", type=Path, metavar="SET", help=SINGING)
    evaluate.set_defaults(run=run_evaluate)

    release = commands.add_parser(
        "release",
        help="write a release of a trained model",
        description="Measures a trained model and writes weights, metrics, card and golden output.",
    )
    release.add_argument("trained", type=Path, metavar="TRAINED", help="RUNS/best of `train`")
    release.add_argument("set", type=Path, metavar="SET", help="a folder of `rtmtass data mix`")
    release.add_argument("--corpus", type=Path, required=True, help="its training corpus")
    release.add_argument("--version-of-weights", required=True, metavar="V", help="as in 1.0")
    release.add_argument(
        "--licence",
        default="",
        metavar="TEXT",
        help="licence of the weights, as in MIT or CC-BY-4.0 (default: the one in its config.json)",
    )
    release.add_argument(
        "--name",
        default="",
        metavar="NAME",
        help="of the model (default: its own, or the folder's name if it still has a preset's)",
    )
    release.add_argument("--singing", type=Path, metavar="SET", help=SINGING)
    release.add_argument(
        "--experiments",
        type=Path,
        metavar="FILE",
        help="Markdown or JSON for the card's section on experiments",
    )
    release.add_argument(
        "--started-from",
        default="",
        metavar="MODEL",
        help="the model that training started from, if its lineage doesn't record it",
    )
    release.add_argument(
        "--half",
        action="store_true",
        help="store the matrices as 16-bit floats, half the size; that is what is measured",
    )
    release.add_argument(
        "--expander",
        type=float,
        metavar="DB",
        help="lower a stem whose share of the mixture's power is below this: less leakage for"
        " some SI-SDR; try -15, 0 turns it off (default: the model's own)",
    )
    release.add_argument(
        "--expander-ratio",
        type=int,
        metavar="N",
        help="how far a stem falls below that, in dB per dB: 2 lowers it by as much again, 3 by"
        " twice as much (default: the model's own)",
    )
    release.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    release.set_defaults(run=run_release)


def run_evaluate(arguments: argparse.Namespace) -> int:
    """Run `rtmtass evaluate`."""
    require_training_tools()
    from rtmtass.cli.console import Steps
    from rtmtass.evaluation.evaluate import evaluate, read_set, set_names
    from rtmtass.evaluation.singing import compare_sets
    from rtmtass.separator import load

    measures, left_out = _measures(arguments.perceptual)
    page: Path | None = arguments.html
    if page and not page.absolute().parent.is_dir():
        raise OutputError(f"{page} can't be written: no folder {page.parent}; make it first")
    names = set_names(arguments.set)[: arguments.clips]
    separator = load(arguments.model, runtime=arguments.runtime, passes=arguments.passes)
    set_names(arguments.set, ("mixture", *separator.stems))  # all, before any is measured
    with Steps(quiet=arguments.json) as steps:
        clips = read_set(arguments.set, separator.stems, first=arguments.clips)
        figures = evaluate(separator, clips, len(names), steps, measures)
        if arguments.singing:
            figures["singing"] = compare_sets(
                separator, arguments.set, arguments.singing, steps, first=arguments.clips
            )
    if left_out:
        figures["left_out"] = left_out
    if arguments.json:
        print(json.dumps(figures, allow_nan=False), flush=True)
    else:
        print_figures(figures)
    if page:  # last, so that the metrics are printed even if the disk is full
        with Steps(quiet=arguments.json) as steps:
            _write_page(arguments, separator, figures, names, steps)
    return 0


def _measures(requested: bool | None) -> tuple[tuple[str, ...], str]:
    """Return the perceptual metrics to measure, and a message about those not installed."""
    from rtmtass.evaluation import perceptual

    if requested is False:
        return (), ""
    if requested:
        perceptual.require(perceptual.MEASURES)
    available, missing = perceptual.available()
    return available, perceptual.describe_missing(missing) if missing else ""


def _write_page(
    arguments: argparse.Namespace,
    separator: Separator,
    figures: dict[str, Any],
    names: list[str],
    steps: Steps,
) -> None:
    from rtmtass import __version__
    from rtmtass.evaluation.evaluate import describe_set, read_set
    from rtmtass.evaluation.html_report import choose_clips, write_html
    from rtmtass.weights import open_model

    folder = arguments.set
    made_of = describe_set(folder) or {"clips": len(names)}
    contents = ", ".join(f"{k} {v}" for k, v in made_of.items())
    about = {
        "model": separator.config.name,
        "weights": str(open_model(arguments.model).about.get("version", "unreleased")),
        "set": f"{folder.absolute().name} ({contents})",
        "rtmtass": __version__,
    }
    chosen = choose_clips(figures, names)
    clips = read_set(folder, separator.stems, names=chosen)
    write_html(arguments.html, figures, separator, clips, chosen, about, steps)


def run_release(arguments: argparse.Namespace) -> int:
    """Run `rtmtass release`."""
    require_training_tools()
    from rtmtass.cli.console import Steps
    from rtmtass.separator import load
    from rtmtass.training.release import Extras, release, rework

    extras = Extras(
        arguments.singing,
        arguments.experiments,
        arguments.started_from,
        " ".join(arguments.licence.split()),
        " ".join(arguments.name.split()),
    )
    trained: Path = arguments.trained
    with Steps() as steps, tempfile.TemporaryDirectory() as folder:
        chosen = {
            "expander_db": arguments.expander,
            "expander_ratio": arguments.expander_ratio,
        }
        expander = {name: value for name, value in chosen.items() if value is not None}
        if arguments.half or expander:
            trained = Path(folder, trained.resolve().name)
            rework(arguments.trained, trained, arguments.half, expander)
        figures = release(
            trained,
            arguments.set,
            arguments.corpus,
            arguments.output,
            arguments.version_of_weights,
            load(str(trained)),
            steps,
            extras,
        )
    print_figures(figures)
    return 0
