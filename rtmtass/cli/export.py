"""`rtmtass export`: write a model as ONNX for other programs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rtmtass.cli.arguments import Commands


def register(commands: Commands) -> None:
    """Add `export`."""
    parser = commands.add_parser(
        "export",
        help="write a model as ONNX, for other programs",
        description="Writes a model's network as ONNX: the mixture's spectrum in, the stems' out,"
        " each state tensor as an input and an output; sample rate, window, delay, stems and"
        " licence are in the metadata. The file is kept only if its output with onnxruntime"
        " matches that of rtmtass.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("model", metavar="MODEL", help="a released model's name, or a folder")
    parser.add_argument("--onnx", required=True, metavar="FILE", help="the file to write")
    parser.add_argument(
        "--frames",
        choices=("any", "1"),
        default="any",
        help="frames per call: any number up to 512, or 1 (default: any)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run `rtmtass export`."""
    from rtmtass.cli.console import print_table
    from rtmtass.runtime.onnx.export import as_dict, export_onnx

    report = export_onnx(
        arguments.model,
        Path(arguments.onnx),
        frames=arguments.frames,
        overwrite=arguments.overwrite,
    )
    if arguments.json:
        print(json.dumps(as_dict(report)))
        return 0
    rows = [
        ("written", f"{report.path}, {report.n_bytes / 1e6:.1f} MB"),
        ("ONNX opset", f"{report.opset}"),
        ("state tensors", f"{report.memories}: state.X in, next.X out, initially zeros"),
        ("compared", f"{report.hops} hops, onnxruntime against rtmtass"),
        ("largest difference", f"{report.largest:.1e} of the largest sample"),
        ("mean difference", f"{report.mean:.1e} of the mean sample"),
    ]
    print_table(("", ""), rows)
    return 0
