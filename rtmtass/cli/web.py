"""`rtmtass web`: the page in the browser, with the live engine and the separation of files."""

from __future__ import annotations

import argparse
import asyncio
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rtmtass.cli.arguments import (
    add_model,
    add_passes,
    add_precision,
    count,
    decibels,
    gains,
    megabytes,
    milliseconds,
    model_name,
    sink,
    source,
)
from rtmtass.cli.live_page import add_page_options
from rtmtass.cli.streams import print_json
from rtmtass.errors import UsageError
from rtmtass.live.endpoints import SINKS, SOURCES
from rtmtass.live.endpoints import describe as describe_schemes

if TYPE_CHECKING:
    from rtmtass.cli.arguments import Commands
    from rtmtass.live.controls import ControlState
    from rtmtass.web.engine_process import Listener
    from rtmtass.web.server import Server
    from rtmtass.web.stream import Engine

_PASSED = ("channels", "rate", "block", "extra_buffer", "precision", "passes", "model", "record")
"""Options that are passed on to the engine as they are."""


def register(commands: Commands) -> None:
    """Add `web`."""
    parser = commands.add_parser(
        "web",
        help="see and control the live mix in the browser, and separate files there",
        description="Serves a page on this computer alone, opens it in the browser, and runs the"
        " live\nengine in a process of its own when the page starts it. Ctrl-C ends both.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    add = parser.add_argument_group("page").add_argument
    add_page_options(add)
    add("--json", action="store_true", help="print one JSON object with the address")
    add("--max-upload", type=megabytes, metavar="MB", help="size of the largest file to separate"
        " (default: 8 GiB)")  # fmt: skip
    add = parser.add_argument_group("live").add_argument
    add("--input", metavar="NAME|N", help="input device unless the page chooses another: part of"
        " its name, or its number (default: the system's)")  # fmt: skip
    add("--output", metavar="NAME|N", help="output device, likewise")
    add("--source", type=source, metavar="SOURCE", help=f"instead of an input device:"
        f" {describe_schemes(SOURCES)}")  # fmt: skip
    add("--sink", type=sink, metavar="SINK", help=f"instead of an output device:"
        f" {describe_schemes(SINKS)}")  # fmt: skip
    add("--channels", type=int, choices=(1, 2), default=1, help="separate in mono or stereo"
        " (default: %(default)s)")  # fmt: skip
    add("--rate", type=count, metavar="HZ", help="of the devices (default: theirs)")
    add("--block", type=count, metavar="N", help="samples per callback of the devices")
    add("--extra-buffer", type=milliseconds, metavar="MS", help="latency to add for computers"
        " that are sometimes late")  # fmt: skip
    add("--gain", type=gains, default={}, metavar="STEM=DB,…", help="gains at first, as in"
        " speech=0,music=-20,noise=-inf (default: 0)")  # fmt: skip
    add("--gains", metavar="NAME", help="gains saved under a name, or voice, no-music, no-noise"
        " or quiet; --gain changes single ones")  # fmt: skip
    add("--strength", type=decibels, default=math.inf, metavar="DB", help="turn no stem down"
        " further than this below the loudest (default: no limit)")  # fmt: skip
    add("--record", metavar="DIR", help="record stems and mixture into DIR, from each start on")
    add("--record-mix", action="store_true", help="record the mix too")
    add_model(parser.add_argument)
    add_precision(parser.add_argument)
    add_passes(parser.add_argument)


def run(arguments: argparse.Namespace) -> int:
    """Serve until Ctrl-C; 0 then."""
    from rtmtass.web import check_installed

    check_installed()
    from rtmtass.live.page_controls import initial_state
    from rtmtass.live.presets import load_gains
    from rtmtass.web import server
    from rtmtass.web.files import MAX_UPLOAD_BYTES
    from rtmtass.weights import describe, find

    if arguments.gains is not None:
        arguments.gain = {**load_gains(arguments.gains), **arguments.gain}
    config = describe(find(model_name(arguments)))[0]
    _check(arguments, config.stems)
    setup = server.Setup(
        model_name(arguments),
        config,
        arguments.precision,
        arguments.passes,
        initial_state(config.stems, arguments.gain, arguments.strength),
        functools.partial(_start, arguments),
        has_inputs=not arguments.source,
        has_outputs=not arguments.sink,
        input=arguments.input,
        output=arguments.output,
        max_upload_bytes=arguments.max_upload or MAX_UPLOAD_BYTES,
    )
    on_ready = functools.partial(_print_address, arguments)
    opens_browser = not arguments.no_browser
    asyncio.run(
        server.run(setup, port=arguments.port, opens_browser=opens_browser, on_ready=on_ready)
    )
    return 0


def _check(arguments: argparse.Namespace, stems: Sequence[str]) -> None:
    """Refuse options that exclude each other, before the page is opened."""
    from rtmtass.live.recorder import check_folder

    for option, device, other, endpoint in (
        ("--input", arguments.input, "--source", arguments.source),
        ("--output", arguments.output, "--sink", arguments.sink),
    ):
        if device is not None and endpoint:
            raise UsageError(
                f"{option} is for devices, but {other} {endpoint} takes the place of one;"
                f" leave out {option} or {other}"
            )
    for stem in arguments.gain:
        if stem not in stems:
            raise UsageError(f"unknown stem {stem!r}; choose from {', '.join(stems)}")
    if arguments.record:
        check_folder(Path(arguments.record))


def _print_address(arguments: argparse.Namespace, server: Server) -> None:
    if arguments.json:
        print_json({"address": server.address})
    else:
        print(f"{server.address}\nCtrl-C ends", flush=True)


def _start(
    arguments: argparse.Namespace,
    input: str | None,
    output: str | None,
    controls: ControlState,
    listener: Listener,
) -> Engine:
    """Start an engine with the options of the command line and what the page has chosen.

    Raises:
        UsageError: a device was chosen where there is none.
        DeviceError: the system refuses another process.
    """
    from rtmtass.web.engine_process import EngineProcess
    from rtmtass.web.stream import gain_words, settings_messages

    words = [*gain_words(controls), *_passed(arguments)]
    for option, chosen, default, endpoint in (
        ("--input", input, arguments.input, arguments.source),
        ("--output", output, arguments.output, arguments.sink),
    ):
        if endpoint:
            if chosen is not None:
                raise UsageError(f"a device was chosen, but {endpoint} takes its place")
            words += ["--source" if option == "--input" else "--sink", str(endpoint)]
        elif chosen is not None or default is not None:
            words += [option, default if chosen is None else chosen]
    return EngineProcess(words, settings_messages(controls), listener)


def _passed(arguments: argparse.Namespace) -> list[str]:
    """Return the options for the engine as words."""
    words = []
    for name in _PASSED:
        value = getattr(arguments, name)
        if value is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return [*words, *(["--record-mix"] if arguments.record_mix else [])]
