"""`rtmtass bench`: how fast this computer separates, in less than a minute."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from rtmtass.cli.arguments import add_model, model_name, seconds

if TYPE_CHECKING:
    from rtmtass.cli.arguments import Commands


def register(commands: Commands) -> None:
    """Add `bench`."""
    parser = commands.add_parser(
        "bench",
        help="measure how fast this computer separates",
        description="Times hops back to back, hops at the pace of a live stream, and whole"
        " recordings, on one core and in each precision, and advises on the result.",
    )
    parser.set_defaults(run=run)
    add_model(parser.add_argument)
    parser.add_argument("--seconds", type=seconds, default=40.0, metavar="S",
        help="approximate duration (default: %(default)g)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Run `rtmtass bench`."""
    import os

    # One core, as live: keep libraries from using a second one for matmuls.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    from rtmtass.benchmark import advice, measure
    from rtmtass.cli.console import print_table
    from rtmtass.cli.loading import print_compiling

    result = measure(model_name(arguments), seconds=arguments.seconds, on_compile=print_compiling)
    conclusion = advice(result)
    if arguments.json:
        print(json.dumps({**result, "advice": conclusion}))
        return 0
    deadline_ms = result["deadline_ms"]
    print(f"{result['cpu']}, one core of {result['cores']}; {result['model']}")
    print(f"deadline per hop: {deadline_ms:.0f} ms\n")
    columns = ("precision", "weights", "hop p50", f"every {deadline_ms:.0f} ms: p50", "p99",
               "max", "late", "recordings")  # fmt: skip
    print_table(columns, [_row(result, name) for name in result["hot"]])
    print(f"\n{conclusion}")
    return 0


def _row(result: dict[str, Any], name: str) -> tuple[str, ...]:
    hot, paced, files = (result[kind][name] for kind in ("hot", "paced", "files"))
    return (
        f"{name} (default)" if name == result["auto"] else name,
        f"{result['weight_bytes'][name] / 1e6:.1f} MB",
        f"{hot['p50_us'] / 1000:.2f} ms",
        *(f"{paced[key] / 1000:.2f} ms" for key in ("p50_us", "p99_us", "max_us")),
        f"{paced['late']:.0f} of {paced['n']:.0f}",
        f"{files['p50']:.0f}x real time",
    )
