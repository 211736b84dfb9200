"""`rtmtass data`, `train`, `evaluate`, `release`: the workshop's doors."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtmtass.errors import MissingPartError, OutputError

if TYPE_CHECKING:
    from rtmtass.separator import Separator
    from rtmtass.tui import Steps

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def register(commands: Commands) -> None:
    """Add the workshop's commands."""
    _register_data(commands)
    train = commands.add_parser(
        "train", help="train a separator on your own data", description="Trains a separator."
    )
    train.add_argument("config", type=Path, metavar="CONFIG", help="a TOML file; see the README")
    train.add_argument("--minutes", type=float, help="stop after so long, whatever the file says")
    train.add_argument("--steps", type=int, help="stop after so many steps")
    train.add_argument("--device", help="cpu (default) or cuda")
    train.add_argument("--json", action="store_true", help="one JSON object a report")
    train.set_defaults(run=run_train)

    evaluate = commands.add_parser(
        "evaluate",
        help="measure a model on a set of mixtures",
        description="Measures a model on an evaluation set, through Separator.separate.",
    )
    evaluate.add_argument("model", metavar="MODEL", help="a released model's name, or a folder")
    evaluate.add_argument("set", type=Path, metavar="SET", help="a folder of `rtmtass data mix`")
    evaluate.add_argument("--runtime", default="numba", choices=("numba", "torch"))
    evaluate.add_argument("--json", action="store_true", help="all figures as JSON")
    evaluate.add_argument("--html", type=Path, metavar="FILE", help="a page to look and listen")
    evaluate.add_argument("--clips", type=_count, metavar="N", help="only the first N of the set")
    evaluate.add_argument(
        "--perceptual",
        action=argparse.BooleanOptionalAction,
        help="PESQ, STOI and BSS-eval SDRi, a second a clip; default: those that are installed",
    )
    evaluate.set_defaults(run=run_evaluate)

    release = commands.add_parser(
        "release",
        help="turn a trained model into one that ships",
        description="Measures a trained model and writes weights, figures, card and golden output.",
    )
    release.add_argument("trained", type=Path, metavar="TRAINED", help="RUNS/best of `train`")
    release.add_argument("set", type=Path, metavar="SET", help="a folder of `rtmtass data mix`")
    release.add_argument("--corpus", type=Path, required=True, help="what it was trained on")
    release.add_argument("--version-of-weights", required=True, metavar="V", help="such as 1.0")
    release.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    release.set_defaults(run=run_release)


def _register_data(commands: Commands) -> None:
    data = commands.add_parser("data", help="prepare sound to train and evaluate on")
    kinds = data.add_subparsers(title="commands", metavar="COMMAND", required=True)

    build = kinds.add_parser("build", help="make or extend a 16 kHz corpus")
    build.add_argument("corpus", type=Path, metavar="CORPUS")
    source = build.add_mutually_exclusive_group(required=True)
    source.add_argument("--folders", type=Path, help="holds speech/, music/ and noise/")
    source.add_argument("--list", type=Path, help="CSV of packages to fetch sound from")
    source.add_argument("--mtass", type=Path, help="holds AISHELL-1, DiDi, DSD100, DNS noise")
    build.add_argument("--manifest", type=Path, help="picks files of the packages, and the split")
    build.add_argument("--downloads", type=Path, default=Path("downloads"))
    build.add_argument("--dev-share", type=float, default=0.1)
    build.set_defaults(run=run_build)

    synthesise = kinds.add_parser("synthesise", help="make singing, noise and rooms for training")
    synthesise.add_argument("corpus", type=Path, metavar="CORPUS")
    synthesise.add_argument("--cache", type=Path, required=True)
    synthesise.set_defaults(run=run_synthesise)

    mix = kinds.add_parser("mix", help="write a fixed evaluation set")
    mix.add_argument("corpus", type=Path, metavar="CORPUS")
    mix.add_argument("output", type=Path, metavar="SET")
    mix.add_argument("--cache", type=Path, required=True)
    mix.add_argument("--n", type=_at_least_one, default=200)
    mix.add_argument("--seconds", type=float, default=10.0)
    mix.add_argument("--seed", type=int, default=0)
    mix.add_argument("--split", choices=("dev", "train"), default="dev")
    mix.add_argument("--singing", action="store_true", help="sing over every piece of music")
    mix.set_defaults(run=run_mix)

    pack = kinds.add_parser("pack", help="pack a corpus into small tar files of Opus")
    pack.add_argument("corpus", type=Path, metavar="CORPUS")
    pack.add_argument("output", type=Path, metavar="DIR")
    pack.set_defaults(run=run_pack)


def _at_least_one(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word!r} is no count; give 1 or more")
    return int(word)


def _need_workshop() -> None:
    try:
        import scipy  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingPartError(
            f"the workshop needs {error.name}: pip install 'rtmtass[train]'"
        ) from None


def run_build(arguments: argparse.Namespace) -> int:
    """Run `rtmtass data build`."""
    _need_workshop()
    from rtmtass.training import build
    from rtmtass.tui import Steps

    with Steps() as steps:
        if arguments.folders:
            report = build.build_from_folders(
                arguments.folders, arguments.corpus, dev_share=arguments.dev_share, progress=steps
            )
        elif arguments.list:
            report = build.build_from_list(
                arguments.list,
                arguments.corpus,
                downloads=arguments.downloads,
                manifest=arguments.manifest,
                dev_share=arguments.dev_share,
                progress=steps,
            )
        else:
            report = build.build_from_mtass(
                arguments.mtass, arguments.corpus, dev_share=arguments.dev_share, progress=steps
            )
    print("\n".join(report.lines()))
    return 0


def run_synthesise(arguments: argparse.Namespace) -> int:
    """Run `rtmtass data synthesise`."""
    _need_workshop()
    from rtmtass.training.sources import Corpus
    from rtmtass.training.synthesis import prepare_banks
    from rtmtass.tui import Steps

    with Steps() as steps:
        corpus = Corpus(arguments.corpus, arguments.cache, steps)
        for split in ("train", "dev"):
            prepare_banks(corpus, split, progress=steps)
    return 0


def run_mix(arguments: argparse.Namespace) -> int:
    """Run `rtmtass data mix`."""
    _need_workshop()
    from rtmtass.training.mixing import write_evaluation_set
    from rtmtass.training.sources import Corpus
    from rtmtass.tui import Steps

    with Steps() as steps:
        path = write_evaluation_set(
            Corpus(arguments.corpus, arguments.cache, steps),
            arguments.output,
            arguments.n,
            seconds=arguments.seconds,
            seed=arguments.seed,
            split=arguments.split,
            singing=arguments.singing,
            progress=steps,
        )
    print(path)
    return 0


def run_pack(arguments: argparse.Namespace) -> int:
    """Run `rtmtass data pack`."""
    _need_workshop()
    from rtmtass.training.pack import pack
    from rtmtass.tui import Steps

    with Steps() as steps:
        for shard in pack(arguments.corpus, arguments.output, progress=steps):
            print(shard)
    return 0


def run_train(arguments: argparse.Namespace) -> int:
    """Run `rtmtass train`."""
    _need_workshop()
    from rtmtass.training.train import TrainConfig, train

    config = TrainConfig.read(
        arguments.config,
        minutes=arguments.minutes,
        steps=arguments.steps,
        device=arguments.device,
    )
    best = train(config, _print_json if arguments.json else _print_report)
    print(best)
    return 0


def _print_json(report: dict[str, Any]) -> None:
    print(json.dumps(report), flush=True)


def _print_report(report: dict[str, Any]) -> None:
    left = report["minutes"] * (1 / max(report["done"], 1e-9) - 1)
    head = f"{report['done']:6.1%}  step {report['step']:6}  {report['minutes']:7.1f} min"
    if report["kind"] == "dev":
        print(
            f"{head}  dev SI-SDRi {report['si_sdri']:.2f} dB, SDRi {report['sdri']:.2f} dB",
            flush=True,
        )
    else:
        print(
            f"{head}  {left:6.0f} min left  loss {report['loss']:7.3f}"
            f"  {report['speed']:5.0f}x real time",
            flush=True,
        )


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number from 1 is wanted, not {text!r}")
    return int(text)


def run_evaluate(arguments: argparse.Namespace) -> int:
    """Run `rtmtass evaluate`."""
    _need_workshop()
    from rtmtass.separator import load
    from rtmtass.training.evaluate import evaluate, read_set, set_names
    from rtmtass.tui import Steps

    measures, left_out = _measures(arguments.perceptual)
    page: Path | None = arguments.html
    if page and not page.absolute().parent.is_dir():
        raise OutputError(f"{page} can't be written: no folder {page.parent}; make it first")
    names = set_names(arguments.set)[: arguments.clips]
    separator = load(arguments.model, runtime=arguments.runtime)
    with Steps(quiet=arguments.json) as steps:
        clips = read_set(arguments.set, separator.stems, first=arguments.clips)
        figures = evaluate(separator, clips, len(names), steps, measures)
    if left_out:
        figures["left_out"] = left_out
    if arguments.json:
        print(json.dumps(figures), flush=True)
    else:
        _print_figures(figures)
    if page:  # last, so that a full disk doesn't cost the figures
        with Steps(quiet=arguments.json) as steps:
            _write_page(arguments, separator, figures, names, steps)
    return 0


def _measures(wanted: bool | None) -> tuple[tuple[str, ...], str]:
    """Return the slow figures to measure, and what to say of those that can't be."""
    from rtmtass.training import perceptual

    if wanted is False:
        return (), ""
    if wanted:
        perceptual.require(perceptual.MEASURES)
    there, missing = perceptual.available()
    return there, perceptual.describe_missing(missing) if missing else ""


def _write_page(
    arguments: argparse.Namespace,
    separator: Separator,
    figures: dict[str, Any],
    names: list[str],
    steps: Steps,
) -> None:
    from rtmtass import __version__
    from rtmtass.training.evaluate import describe_set, read_set
    from rtmtass.training.report_html import choose_clips, write_html
    from rtmtass.weights import open_model

    folder = arguments.set
    made_of = ", ".join(f"{k} {v}" for k, v in describe_set(folder).items())
    about = {
        "model": separator.config.name,
        "weights": str(open_model(arguments.model).about.get("version", "unreleased")),
        "set": f"{folder.absolute().name} ({made_of})",
        "rtmtass": __version__,
    }
    chosen = choose_clips(figures, names)
    clips = read_set(folder, separator.stems, names=chosen)
    write_html(arguments.html, figures, separator, clips, chosen, about, steps)


def _print_figures(figures: dict[str, Any]) -> None:
    from rtmtass.tui import print_table

    def words(value: dict[str, float] | None, digits: int = 2) -> str:
        if not value:
            return ""
        mean, low, high = (f"{value[k]:.{digits}f}" for k in ("mean", "low", "high"))
        return f"{mean} ({low} … {high})"

    columns = {
        "si_sdri": "SI-SDRi, dB",
        "sdri": "SDRi, dB",
        "bss_sdri": "BSS-eval SDRi, dB",
        "leakage_db": "leakage, dB",
    }
    kinds = [kind for kind in columns if kind in figures]
    rows = [
        [stem, *(words(figures[kind].get(stem)) for kind in kinds)] for stem in figures["si_sdri"]
    ]
    print_table(["stem", *(columns[kind] for kind in kinds)], rows)
    scores = {"pesq": "PESQ", "stoi": "STOI"}
    of_speech = [
        [name, *(words(figures[kind][k], 3) for k in ("mixture", "output", "improvement"))]
        for kind, name in scores.items()
        if kind in figures
    ]
    if of_speech:
        print_table(["speech", "mixture", "output", "improvement"], of_speech)
    print(f"{figures['clips']} clips; in brackets the 95 % interval of the mean")
    worst = ", ".join(row["clip"] for row in figures["worst"])
    print(f"worst clips: {worst}")
    if "left_out" in figures:
        print(f"left out: {figures['left_out']}", file=sys.stderr)


def run_release(arguments: argparse.Namespace) -> int:
    """Run `rtmtass release`."""
    _need_workshop()
    from rtmtass.separator import load
    from rtmtass.training.release import release
    from rtmtass.tui import Steps

    with Steps() as steps:
        figures = release(
            arguments.trained,
            arguments.set,
            arguments.corpus,
            arguments.output,
            arguments.version_of_weights,
            load(str(arguments.trained)),
            steps,
        )
    _print_figures(figures)
    return 0
