"""`rtmtass train`: from a config to weights."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtmtass.cli_data import need_workshop

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def register(commands: Commands) -> None:
    """Add the command `train`."""
    train = commands.add_parser(
        "train", help="train a separator on your own data", description="Trains a separator."
    )
    train.add_argument("config", type=Path, metavar="CONFIG", help="a TOML file; see the README")
    train.add_argument("--minutes", type=float, help="stop after so long, whatever the file says")
    train.add_argument("--steps", type=int, help="stop after so many steps")
    train.add_argument("--device", help="cpu (default) or cuda")
    train.add_argument("--json", action="store_true", help="one JSON object a report")
    train.set_defaults(run=run_train)


def run_train(arguments: argparse.Namespace) -> int:
    """Run `rtmtass train`."""
    need_workshop()
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
