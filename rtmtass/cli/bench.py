"""`rtmtass bench`: how fast this computer separates, in less than a minute."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from rtmtass.cli.arguments import seconds

if TYPE_CHECKING:
    # argparse has no public name for it.
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def register(commands: Commands) -> None:
    """Add `bench`."""
    parser = commands.add_parser(
        "bench",
        help="measure how fast this computer separates",
        description="Times a hop, one after the other and one every 16 ms as live, and whole"
        " recordings, on one core and in each precision, and says what that means.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("--model", default="rtmtass-small", metavar="NAME", help="see rtmtass"
        " models (default: %(default)s)")  # fmt: skip
    parser.add_argument("--seconds", type=seconds, default=40.0, metavar="S",
        help="how long to measure, about (default: %(default)g)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Measure and print."""
    import os

    # One core, as live: no library may take a second one for its products.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    from rtmtass.benchmark import advice, measure
    from rtmtass.cli.console import print_table
    from rtmtass.cli.separate import say_compiling

    result = measure(arguments.model, seconds=arguments.seconds, on_compile=say_compiling)
    said = advice(result)
    if arguments.json:
        print(json.dumps({**result, "advice": said}))
        return 0
    deadline_ms = result["deadline_ms"]
    print(f"{result['cpu']}, one core of {result['cores']}; {result['model']}")
    print(f"a hop must be done within {deadline_ms:.0f} ms\n")
    columns = ("precision", "weights", "a hop, p50", f"every {deadline_ms:.0f} ms: p50", "p99",
               "max", "late", "recordings")  # fmt: skip
    print_table(columns, [_row(result, name) for name in result["hot"]])
    print(f"\n{said}")
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
