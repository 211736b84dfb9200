"""`rtmtass export`: write a model for other programs: ONNX, C library, plugins, a web page."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from rtmtass.config import PRECISIONS
from rtmtass.errors import UsageError
from rtmtass.native.targets import TARGETS, WASM

if TYPE_CHECKING:
    from rtmtass.cli.arguments import Commands
    from rtmtass.native.export import Report, Settings

_OUTPUTS = ("native", "plugin", "wasm", "page", "rtm", "onnx")


def register(commands: Commands) -> None:
    """Add `export`."""
    parser = commands.add_parser(
        "export",
        help="write a model for other programs: ONNX, C library, plugin, WebAssembly, web page",
        description="Writes a model for programs without Python. The C library, the plugins and"
        " the WebAssembly module (alone, or in a web page) contain the kernels that rtmtass"
        " itself runs, compiled for any of five systems from here; building them takes a minute,"
        " and the compiler package:"
        ' pip install "rtmtass[native]". ONNX contains the network alone: the mixture\'s spectrum'
        " in, the stems' out, each state tensor as an input and an output; the file is kept only"
        " if its output with onnxruntime matches that of rtmtass.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("model", metavar="MODEL", help="a released model's name, or a folder")
    _add_outputs(parser)
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FOLDER", help="of --plugin: where hosts look for it"
    )
    parser.add_argument(
        "--target",
        metavar="TARGET",
        help=f"one of {', '.join(TARGETS)} (default: this machine; {WASM} for --wasm, --page)",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="of the weights, except for --onnx (default: int8)",
    )
    parser.add_argument(
        "--frames",
        choices=("any", "1"),
        help="of --onnx: frames per call, any number up to 512, or 1 (default: any)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    outputs = parser.add_mutually_exclusive_group(required=True)
    outputs.add_argument(
        "--native", type=Path, metavar="FOLDER",
        help="write the C library, its header, an example and the model",
    )  # fmt: skip
    outputs.add_argument(
        "--plugin", metavar="FORMAT", help="write a plugin: clap, lv2 or ladspa; needs -o"
    )
    outputs.add_argument(
        "--wasm", type=Path, metavar="FOLDER",
        help="write the library as WebAssembly, with its JavaScript and the model",
    )  # fmt: skip
    outputs.add_argument(
        "--page", type=Path, metavar="FOLDER",
        help="write a web page that separates in the visitor's browser, for any web server",
    )  # fmt: skip
    outputs.add_argument(
        "--rtm", type=Path, metavar="FILE", help="write the model alone, for the C library"
    )
    outputs.add_argument(
        "--onnx", type=Path, metavar="FILE", help="write the network, for onnxruntime"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run `rtmtass export`."""
    _check_options(arguments)
    return _run_native(arguments) if arguments.onnx is None else _run_onnx(arguments)


def _check_options(arguments: argparse.Namespace) -> None:
    """Refuse options that the chosen output doesn't have.

    Raises:
        UsageError: there is one, or a plugin's folder is missing.
    """
    chosen = next(name for name in _OUTPUTS if getattr(arguments, name) is not None)
    unused = {
        "-o": arguments.output is not None and chosen != "plugin",
        "--target": arguments.target is not None and chosen in ("onnx", "rtm"),
        "--precision": arguments.precision is not None and chosen == "onnx",
        "--frames": arguments.frames is not None and chosen != "onnx",
    }
    for option, is_unused in unused.items():
        if is_unused:
            raise UsageError(f"{option} doesn't go with --{chosen}; leave it out")
    if chosen == "plugin" and arguments.output is None:
        raise UsageError(
            f"--plugin {arguments.plugin} needs a folder; give one that hosts search, such as"
            f" -o ~/.{arguments.plugin}"
        )


def _run_native(arguments: argparse.Namespace) -> int:
    from rtmtass.cli.loading import run_interruptibly
    from rtmtass.cli.progress import open_steps
    from rtmtass.native.export import Settings

    with open_steps(quiet=arguments.json) as steps:
        report = _export(
            arguments,
            Settings(
                target=arguments.target,
                precision=arguments.precision or "int8",
                overwrite=arguments.overwrite,
                on_step=steps,
                run=run_interruptibly,
            ),
        )
    if arguments.json:
        print(json.dumps(report.as_dict()))
        return 0
    _print_report(report)
    return 0


def _export(arguments: argparse.Namespace, settings: Settings) -> Report:
    from rtmtass.native import export

    if arguments.native is not None:
        return export.export_library(arguments.model, arguments.native, settings)
    if arguments.plugin is not None:
        folder = arguments.output.expanduser()
        return export.export_plugin(arguments.model, arguments.plugin, folder, settings)
    if arguments.wasm is not None:
        return export.export_wasm(arguments.model, arguments.wasm, settings)
    if arguments.page is not None:
        return export.export_page(arguments.model, arguments.page, settings)
    return export.export_model_file(arguments.model, arguments.rtm, settings)


def _print_report(report: Report) -> None:
    from rtmtass.cli.console import print_table

    rows = [(str(path), _size(n_bytes)) for path, n_bytes in report.files.items()]
    print_table(("written", "size"), rows)
    about = f"{report.model}, {report.precision}"
    if report.target:
        about += f"; {report.target.name}; builds of the kernels: {', '.join(report.variants)}"
    print(f"\n{about}\nnext: {report.next}")


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes >= 1e6 else f"{n_bytes / 1e3:.1f} kB"


def _run_onnx(arguments: argparse.Namespace) -> int:
    from rtmtass.cli.console import print_table
    from rtmtass.runtime.onnx.export import as_dict, export_onnx

    report = export_onnx(
        arguments.model,
        arguments.onnx,
        frames=arguments.frames or "any",
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
