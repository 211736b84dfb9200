"""`rtmtass data`: build, synthesise, mix and pack data for training and evaluation."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rtmtass.cli.arguments import clip_seconds, count, fraction, minutes, opus_bitrate, seed
from rtmtass.cli.progress import open_steps
from rtmtass.errors import MissingPartError

if TYPE_CHECKING:
    from rtmtass.cli.arguments import Commands
    from rtmtass.training.data.recordings import Recordings


def register(commands: Commands) -> None:
    """Add `data` and its commands."""
    data = commands.add_parser("data", help="prepare data for training and evaluation")
    kinds = data.add_subparsers(title="commands", metavar="COMMAND", required=True)

    build = kinds.add_parser("build", help="create or extend a 16 kHz corpus")
    build.add_argument("corpus", type=Path, metavar="CORPUS")
    source = build.add_mutually_exclusive_group(required=True)
    source.add_argument("--folders", type=Path, help="with speech/, music/, noise/ (and singing/)")
    source.add_argument("--list", type=Path, help="CSV of packages to fetch recordings from")
    source.add_argument("--mtass", type=Path, help="with AISHELL-1, DiDi, DSD100, DNS noise")
    build.add_argument(
        "--manifest", type=Path, help="selects files of the packages and their split"
    )
    build.add_argument("--downloads", type=Path, default=Path("downloads"))
    build.add_argument("--dev-share", type=fraction, default=0.1)
    build.set_defaults(run=run_build)

    synthesise = kinds.add_parser(
        "synthesise",
        help="synthesise singing, noise and room responses",
        description="Synthesises sounds for training that are too slow to make in training."
        " Stopped with Ctrl-C, it resumes where it stopped.",
    )
    synthesise.add_argument("corpus", type=Path, metavar="CORPUS")
    synthesise.add_argument("--cache", type=Path, required=True)
    synthesise.add_argument(
        "--minutes",
        type=minutes,
        metavar="N",
        help="synthesise N minutes for each split: singing, revoiced speech and noise together,"
        " and rooms in proportion (default: 140, and 300 rooms); existing ones are kept",
    )
    synthesise.set_defaults(run=run_synthesise)

    mix = kinds.add_parser("mix", help="write a fixed evaluation set")
    mix.add_argument("corpus", type=Path, metavar="CORPUS")
    mix.add_argument("output", type=Path, metavar="SET")
    mix.add_argument("--cache", type=Path, required=True)
    mix.add_argument("--n", type=count, default=200)
    mix.add_argument("--seconds", type=clip_seconds, default=10.0)
    mix.add_argument("--seed", type=seed, default=0)
    mix.add_argument("--split", choices=("dev", "train"), default="dev")
    mix.add_argument("--singing", action="store_true", help="add singing to every piece of music")
    mix.set_defaults(run=run_mix)

    pack = kinds.add_parser("pack", help="pack a corpus into small tar files of Opus")
    pack.add_argument("corpus", type=Path, metavar="CORPUS")
    pack.add_argument("output", type=Path, metavar="DIR")
    pack.add_argument("--cache", type=Path, help="also pack its banks for training")
    pack.add_argument(
        "--bitrate",
        type=opus_bitrate,
        default=24.0,
        metavar="KBIT",
        help="of Opus in kbit/s: a shard holds 5 hours at 24, 7 at 16, 4 at 32 (default:"
        " %(default)g)",
    )
    pack.add_argument(
        "--shards",
        type=count,
        metavar="N",
        help="pack only N shards of 56 MB: the whole dev split, and an equal fraction of each"
        " kind of the rest",
    )
    pack.set_defaults(run=run_pack)


def require_training_tools(*packages: str) -> None:
    """Raise MissingPartError if packages aren't installed; default: those of training."""
    try:
        for name in packages or ("scipy", "torch"):
            importlib.import_module(name)
    except ImportError as error:
        raise MissingPartError(
            f"training tools need {error.name}: pip install 'rtmtass[train]'"
        ) from None


def run_build(arguments: argparse.Namespace) -> int:
    """Run `rtmtass data build`."""
    require_training_tools()
    from rtmtass.training.data import build

    with open_steps() as steps:
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
    require_training_tools()
    from rtmtass.training.data.corpus import SPLITS, Corpus
    from rtmtass.training.data.synthesis import BankPlan, prepare_banks

    plan = BankPlan.of(arguments.minutes) if arguments.minutes else BankPlan()
    with open_steps() as steps:
        corpus = Corpus(arguments.corpus, arguments.cache, steps)
        for split in SPLITS:
            prepare_banks(corpus, split, plan, progress=steps)
    for bank in plan.counts():
        lengths = [f"{_length_of(corpus.bank(bank, split))} for {split}" for split in SPLITS]
        print(f"{bank}: {', '.join(lengths)}")
    return 0


def _length_of(bank: Recordings | None) -> str:
    return "none" if bank is None else f"{len(bank)} of {bank.seconds / 60:.1f} min"


def run_mix(arguments: argparse.Namespace) -> int:
    """Run `rtmtass data mix`."""
    require_training_tools()
    from rtmtass.training.data.corpus import Corpus
    from rtmtass.training.data.mixing import write_evaluation_set

    with open_steps() as steps:
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
    require_training_tools()
    from rtmtass.training.data.pack import pack
    from rtmtass.training.data.pack_format import describe

    with open_steps() as steps:
        packed = pack(
            arguments.corpus,
            arguments.output,
            cache=arguments.cache,
            kbits=arguments.bitrate,
            most_shards=arguments.shards,
            progress=steps,
        )
    for line in (*map(str, packed.shards), *describe(arguments.output)):
        print(line)
    for path in packed.unreadable:
        print(f"left out, unreadable: {path}", file=sys.stderr)
    return 0
