"""`rtmtass data`, `train`, `evaluate`, `release`: the workshop's doors."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtmtass.errors import MissingPartError

if TYPE_CHECKING:
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
    mix.add_argument("--n", type=int, default=200)
    mix.add_argument("--seconds", type=float, default=10.0)
    mix.add_argument("--seed", type=int, default=0)
    mix.add_argument("--split", choices=("dev", "train"), default="dev")
    mix.add_argument("--singing", action="store_true", help="sing over every piece of music")
    mix.set_defaults(run=run_mix)

    pack = kinds.add_parser("pack", help="pack a corpus into small tar files of Opus")
    pack.add_argument("corpus", type=Path, metavar="CORPUS")
    pack.add_argument("output", type=Path, metavar="DIR")
    pack.set_defaults(run=run_pack)


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


def run_evaluate(arguments: argparse.Namespace) -> int:
    """Run `rtmtass evaluate`."""
    _need_workshop()
    from rtmtass.separator import load
    from rtmtass.training.evaluate import describe_set, evaluate, read_set
    from rtmtass.tui import Steps

    separator = load(arguments.model, runtime=arguments.runtime)
    n = int(describe_set(arguments.set).get("n", 0))
    with Steps(quiet=arguments.json) as steps:
        figures = evaluate(separator, read_set(arguments.set, separator.stems), n, steps)
    if arguments.json:
        print(json.dumps(figures))
    else:
        _print_figures(figures)
    return 0


def _print_figures(figures: dict[str, Any]) -> None:
    from rtmtass.tui import print_table

    def words(value: dict[str, float] | None) -> str:
        return f"{value['mean']:.2f} ({value['low']:.2f} … {value['high']:.2f})" if value else ""

    rows = [
        [stem, *(words(figures[k].get(stem)) for k in ("si_sdri", "sdri", "leakage_db"))]
        for stem in figures["si_sdri"]
    ]
    print_table(["stem", "SI-SDRi, dB", "SDRi, dB", "leakage, dB"], rows)
    print(f"{figures['clips']} clips; in brackets the 95 % interval of the mean")
    worst = ", ".join(row["clip"] for row in figures["worst"])
    print(f"worst clips: {worst}")


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
