"""`rtmtass train`: from a config to weights; `average`: from two models' weights to one's."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtmtass.cli.arguments import count
from rtmtass.cli.data import require_training_tools
from rtmtass.cli.progress import open_steps

if TYPE_CHECKING:
    from rtmtass.training.config import TrainConfig
    from rtmtass.training.data.corpus import Corpus

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def register(commands: Commands) -> None:
    """Add the commands `train` and `average`."""
    train = commands.add_parser(
        "train",
        help="train a separator on your own data",
        description="Trains a separator, or goes on where its last checkpoint stands.",
    )
    add = train.add_argument
    add("config", type=Path, metavar="CONFIG", help="a TOML file; see the README")
    add("--minutes", type=float, help="length of the run, whatever the file says, all sittings"
        " together; of a trunk (wsd with decay = 0): minutes more from where it stands; with"
        " --branch: length of the branch"
        )  # fmt: skip
    add("--steps", type=int, help="the same in steps; whichever is reached first")
    add("--runs", type=Path, metavar="DIR", help="the run's folder, whatever the file says; with"
        " --branch: the branch's (default: the trunk's with -decay-STEP after it)"
        )  # fmt: skip
    add("--branch", choices=("decay",), help="bring a copy of the last checkpoint to a finish:"
        " its learning rate falls to 1 %% within --minutes; the run itself stays as it is"
        )  # fmt: skip
    add("--device", help="cpu (default) or cuda")
    add("--profile", type=count, metavar="N", help="instead of training, time N steps"
        " of a fresh network and print where a step's time goes"
        )  # fmt: skip
    add("--json", action="store_true", help="one JSON object a report")
    train.set_defaults(run=run_train)

    average = commands.add_parser(
        "average",
        help="the mean of two models, one of which began from the other",
        description="Writes a model whose weights are the mean of two others'.",
    )
    average.add_argument("model", metavar="MODEL", help="a name or a folder, such as RUNS/best")
    average.add_argument("other", metavar="OTHER", help="likewise; what MODEL began from")
    average.add_argument("--share", type=float, default=0.5, help="of OTHER (default: %(default)s)")
    average.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    average.set_defaults(run=run_average)


def run_train(arguments: argparse.Namespace) -> int:
    """Run `rtmtass train`."""
    require_training_tools("torch")
    from rtmtass.training.train import BranchOrder, train

    if arguments.profile:
        return _run_profile(arguments)
    length = {"minutes": arguments.minutes, "steps": arguments.steps}
    runs = None if arguments.runs is None else str(arguments.runs)
    branch = None
    if arguments.branch:
        branch = BranchOrder(arguments.minutes or 0.0, arguments.steps or 0, runs or "")
        overrides = {}  # the file's are the trunk's, which its learning rate depends on
    else:
        overrides = {**length, "runs": runs}
    config = _config(arguments, **overrides)
    corpus = _unpacked(config, arguments) if config.packs and _is_first() else None
    with _watching(arguments) as watch:
        best = train(config, watch, branch, corpus)
    if _is_first():
        print(best)
    return 0


def _config(arguments: argparse.Namespace, **overrides: Any) -> TrainConfig:
    """Return the config, as far as this machine can follow it, and say what it goes without."""
    from rtmtass.training.config import TrainConfig
    from rtmtass.training.requirements import fitted

    config = TrainConfig.read(arguments.config, device=arguments.device, **overrides)
    config, goes_without = fitted(config)
    if _is_first():
        for line in goes_without:
            print(f"rtmtass: {line}", file=sys.stderr)
    return config


def _run_profile(arguments: argparse.Namespace) -> int:
    """Run `rtmtass train --profile`."""
    from rtmtass.training.step_profile import profile

    steps = arguments.profile
    config = _config(arguments, steps=steps)
    corpus = _unpacked(config, arguments) if config.packs and _is_first() else None
    found = profile(config, steps, corpus)
    if _is_first():
        _print_profile(dataclasses.asdict(found), arguments.json)
    return 0


def _print_profile(found: dict[str, Any], is_json: bool) -> None:
    if is_json:
        print(json.dumps(found))
        return
    for title, parts in (
        ("part of a step", found["parts_ms"]),
        ("without the CUDA graph", found["parts_without_graph_ms"]),
    ):
        whole = sum(parts.values())
        if parts:
            print(f"{title:22}        ms   share")
            for part, took in parts.items():
                print(f"{part:22}{took:10.2f}{took / whole:8.1%}")
            print(f"{'all':22}{whole:10.2f}\n")
    how = "as a CUDA graph" if found["is_captured"] else "kernel by kernel"
    print(
        f"{found['device']}, {found['steps']} steps of {found['batch']} x {found['seconds']:g} s"
        f" {how}: {found['steps_per_s']:.2f} steps a second, {found['x_real_time']:.0f}x real"
        f" time, {found['peak_memory_mb']:.0f} MB at most"
    )


def _is_first() -> bool:
    """Whether this is the one of torchrun's processes that speaks for all; usually it is alone."""
    return not int(os.environ.get("RANK", "0"))


def _unpacked(config: TrainConfig, arguments: argparse.Namespace) -> Corpus:
    """Return what lies in the packs, with a bar as long as they are unpacked.

    torchrun's other processes wait meanwhile for this one to join them.
    """
    from rtmtass.training.data.loader import corpus_of

    with open_steps(quiet=arguments.json) as bar:
        return corpus_of(config, bar)


def run_average(arguments: argparse.Namespace) -> int:
    """Run `rtmtass average`."""
    from rtmtass.training.weight_average import average_weights

    average_weights(arguments.model, arguments.other, arguments.share, arguments.output)
    print(arguments.output)
    return 0


def _watching(
    arguments: argparse.Namespace,
) -> contextlib.AbstractContextManager[Callable[[dict[str, Any]], None]]:
    """Return who shows the reports: a table on a terminal, lines elsewhere, or JSON."""
    if arguments.json:
        return contextlib.nullcontext(_print_json)
    if not (sys.stdout.isatty() and sys.stderr.isatty()) or not _is_first():
        return contextlib.nullcontext(_print_report)
    try:
        from rtmtass.cli.console import TrainingTable
    except ModuleNotFoundError:
        print("rtmtass: rich isn't installed: lines instead of a table", file=sys.stderr)
        return contextlib.nullcontext(_print_report)
    return TrainingTable()


def _print_json(report: dict[str, Any]) -> None:
    # JSON knows no NaN, and a skipped batch's loss is one.
    plain = {
        k: v if not isinstance(v, float) or math.isfinite(v) else None for k, v in report.items()
    }
    print(json.dumps(plain), flush=True)


def _print_report(report: dict[str, Any]) -> None:
    from rtmtass.training.log import minutes_left

    if report["kind"] == "skipped":
        print(
            f"{report['done']:6.1%}  step {report['step']:6}  skipped: the loss or its gradient"
            f" isn't finite ({report['loss']:g}, {report['gradient']:g});"
            f" {report['skipped']} so far",
            flush=True,
        )
        return
    head = f"{report['done']:6.1%}  step {report['step']:6}  {report['minutes']:7.1f} min"
    if report["kind"] == "dev":
        print(
            f"{head}  dev SI-SDRi {report['si_sdri']:.2f} dB, SDRi {report['sdri']:.2f} dB",
            flush=True,
        )
    else:
        left = minutes_left(report)
        end = "    no end set" if math.isinf(left) else f"{left:6.0f} min left"
        print(
            f"{head}  {end}  loss {report['loss']:7.3f}"
            f"  {report['speed']:5.0f}x real time  rate {report['rate']:.1e}",
            flush=True,
        )
