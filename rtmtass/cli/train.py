"""`rtmtass train` and `rtmtass average`: train a model, average the weights of two."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtmtass.cli.arguments import count, fraction
from rtmtass.cli.data import require_training_tools
from rtmtass.cli.progress import Lines, open_steps

if TYPE_CHECKING:
    from rtmtass.cli.arguments import Commands
    from rtmtass.training.config import TrainConfig
    from rtmtass.training.data.corpus import Corpus
    from rtmtass.training.log import Messages, OnReport
    from rtmtass.training.stop import StopSignals


def register(commands: Commands) -> None:
    """Add `train` and `average`."""
    train = commands.add_parser(
        "train",
        help="train a separator on your own data",
        description="Trains a separator, or resumes from its last checkpoint.",
    )
    add = train.add_argument
    add("config", type=Path, metavar="CONFIG", help="a TOML file; see the README")
    add("--minutes", type=float, help="total length of the run over all resumes, overrides the"
        " file; of a trunk (wsd with decay = 0): minutes from its last checkpoint; with --branch:"
        " length of the branch"
        )  # fmt: skip
    add("--steps", type=int, help="likewise in steps; the run ends at whichever comes first")
    add("--runs", type=Path, metavar="DIR", help="the run's folder, overrides the file; with"
        " --branch: the branch's (default: the trunk's name and -decay-STEP)"
        )  # fmt: skip
    add("--branch", choices=("decay",), help="decay a copy of the last checkpoint: its"
        " learning rate falls to 1 %% within --minutes; the run itself is unchanged"
        )  # fmt: skip
    add("--device", help="cpu (default) or cuda")
    add("--profile", type=count, metavar="N", help="instead of training, time N steps of a"
        " fresh network and print the time per part of a step"
        )  # fmt: skip
    add("--json", action="store_true", help="one JSON object per report")
    train.set_defaults(run=run_train)

    average = commands.add_parser(
        "average",
        help="average the weights of two models, one trained from the other",
        description="Writes a model whose weights are the weighted mean of two others'.",
    )
    average.add_argument("model", metavar="MODEL", help="a name or a folder, such as RUNS/best")
    average.add_argument("other", metavar="OTHER", help="likewise; what MODEL was trained from")
    average.add_argument(
        "--share", type=fraction, default=0.5, help="of OTHER (default: %(default)s)"
    )
    average.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    average.set_defaults(run=run_average)


def run_train(arguments: argparse.Namespace) -> int:
    """Run `rtmtass train`."""
    from rtmtass.training.stop import StopSignals

    with StopSignals(_note).installed() as stop:
        require_training_tools("torch")
        if arguments.profile:
            _run_profile(arguments)
        else:
            _run_training(arguments, stop)
    _leave_group()
    return 0


def _leave_group() -> None:
    """End this process if it is one of several that torchrun started.

    Python's own way out has once hung in such a process, after all was written; probably on
    threads of torch's process group.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _run_training(arguments: argparse.Namespace, stop: StopSignals) -> None:
    from rtmtass.training.data.loader import corpus_of
    from rtmtass.training.train import BranchOrder, train

    length = {"minutes": arguments.minutes, "steps": arguments.steps}
    runs = None if arguments.runs is None else str(arguments.runs)
    branch = None
    if arguments.branch:
        branch = BranchOrder(arguments.minutes or 0.0, arguments.steps or 0, runs or "")
        overrides = {}  # those of the file are the trunk's, and set its learning rate
    else:
        overrides = {**length, "runs": runs}
    config = _config(arguments, **overrides)
    with _display(arguments) as (show, messages):
        stop.note = messages.note
        try:
            # torchrun's other processes wait meanwhile for this one to unpack.
            corpus = corpus_of(config, messages.progress) if _is_first() else None
            best = train(config, show, branch, corpus, messages, stop)
        finally:
            stop.note = _note
    if _is_first():
        print(best)


def _config(arguments: argparse.Namespace, **overrides: Any) -> TrainConfig:
    """Return the config reduced to what this computer supports; print what is left out."""
    from rtmtass.training.config import TrainConfig
    from rtmtass.training.preflight import check_run
    from rtmtass.training.requirements import fitted

    config = TrainConfig.read(arguments.config, device=arguments.device, **overrides)
    check_run(config)
    if config.uses_compile:
        _note("compiling a test function, to find out whether torch.compile works here …")
    config, left_out = fitted(config)
    for line in left_out:
        _note(line)
    return config


def _note(text: str) -> None:
    """Print a line on stderr, in the first process only."""
    if _is_first():
        print(f"rtmtass: {text}", file=sys.stderr, flush=True)


def _run_profile(arguments: argparse.Namespace) -> None:
    """Run `rtmtass train --profile`."""
    from rtmtass.training.step_profile import profile

    steps = arguments.profile
    config = _config(arguments, steps=steps)
    corpus = _unpacked(config, arguments) if config.packs and _is_first() else None
    result = profile(config, steps, corpus)
    if _is_first():
        _print_profile(dataclasses.asdict(result), arguments.json)


def _print_profile(result: dict[str, Any], is_json: bool) -> None:
    if is_json:
        print(json.dumps(result))
        return
    for title, parts in (
        ("part of a step", result["parts_ms"]),
        ("without the CUDA graph", result["parts_without_graph_ms"]),
    ):
        total = sum(parts.values())
        if parts:
            print(f"{title:22}        ms   share")
            for part, part_ms in parts.items():
                print(f"{part:22}{part_ms:10.2f}{part_ms / total:8.1%}")
            print(f"{'all':22}{total:10.2f}\n")
    how = "as a CUDA graph" if result["is_captured"] else "kernel by kernel"
    print(
        f"{result['device']}, {result['steps']} steps of {result['batch']} x"
        f" {result['seconds']:g} s {how}: {result['steps_per_s']:.2f} steps a second,"
        f" {result['x_real_time']:.0f}x real time, {result['peak_memory_mb']:.0f} MB at most"
    )


def _is_first() -> bool:
    """Return whether this process prints: rank 0 of torchrun, or a process by itself."""
    return not int(os.environ.get("RANK", "0"))


def _unpacked(config: TrainConfig, arguments: argparse.Namespace) -> Corpus:
    """Unpack the config's packs, with a progress bar, and return their corpus.

    torchrun's other processes wait for this one meanwhile.
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


@contextlib.contextmanager
def _display(arguments: argparse.Namespace) -> Iterator[tuple[OnReport, Messages]]:
    """Show a run within this context: as a table on a terminal, else as lines, or as JSON.

    Yields:
        What shows reports, and what shows the rest; the latter on stderr.
    """
    from rtmtass.training.log import Messages

    if arguments.json or not _is_first():
        yield (_print_json if arguments.json else _print_report), Messages(note=_note)
        return
    if sys.stdout.isatty() and sys.stderr.isatty():
        try:
            from rtmtass.cli.console import TrainingTable
        except ModuleNotFoundError:
            _note("rich isn't installed: lines instead of a table")
        else:
            with TrainingTable() as table:
                yield table, Messages(table.progress, table.note)
            return
    yield _print_report, Messages(Lines(), _note)


def _print_json(report: dict[str, Any]) -> None:
    # JSON has no NaN, which the loss of a skipped batch can be.
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
