"""The options of `rtmtass live`: how they are read, and which exclude each other."""

from __future__ import annotations

import argparse
import math
import sys
from typing import TYPE_CHECKING

from rtmtass.cli.arguments import (
    add_model,
    add_passes,
    add_precision,
    count,
    counts,
    decibels,
    gains,
    milliseconds,
    seconds,
    sink,
    source,
)
from rtmtass.cli.live_page import add_page_options, check_page_options, is_controlled
from rtmtass.errors import UsageError
from rtmtass.live.endpoints import SINKS, SOURCES, describe

if TYPE_CHECKING:
    from rtmtass.live.devices.stream_config import StreamRequest


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add all arguments of `live`."""
    _add_device_options(parser)
    add = parser.add_argument_group("mix").add_argument
    add("--gain", type=gains, default={}, metavar="STEM=DB,…", help="as in"
        " speech=0,music=-20,noise=-inf (default: 0)")  # fmt: skip
    add("--gains", metavar="NAME", help="gains saved under a name, or voice, no-music, no-noise"
        " or quiet; --gain changes single ones")  # fmt: skip
    add("--save-gains", metavar="NAME", help="save the gains under NAME in the end, as the keys"
        " have left them")  # fmt: skip
    add("--list-gains", action="store_true", help="list the gains that have names, and exit")
    add("--strength", type=decibels, default=math.inf, metavar="DB", help="turn no stem down"
        " further than this below the loudest (default: no limit)")  # fmt: skip
    add("--stems-out", nargs="?", const="", metavar="A,B,C", help="output the stems, not the"
        " mix: side by side on the output's channels, or each on a device of its own")  # fmt: skip
    add("--monitor", action=argparse.BooleanOptionalAction, default=True, help="output the mix;"
        " --no-monitor is silent, for recording only")  # fmt: skip
    add("--when-late", choices=("dry", "silence"), default="dry", help="what to output while the"
        " computer is too slow to separate: the input or nothing (default: %(default)s)"
        )  # fmt: skip
    add("--record", metavar="DIR", help="record stems and mixture into DIR, from the start")
    add("--record-mix", action="store_true", help="record the mix too, as it is output; with"
        " --record or the key r")  # fmt: skip
    add("--virtual-mic", action="store_true", help="create a microphone that other programs"
        " can choose (PipeWire, PulseAudio)")  # fmt: skip
    add = parser.add_argument_group("display").add_argument
    add("--plain", action="store_true", help="one line a second instead of a display; levels in"
        " dBFS, of a stem before>after its gain")  # fmt: skip
    add("--json", action="store_true", help="one JSON object a second, one per event, and one"
        " with a summary at the end")  # fmt: skip
    add("--duration", type=seconds, metavar="S", help="stop after S seconds")
    add("--web", action="store_true", help="show the stream on a page in the browser too, and"
        " control it there")  # fmt: skip
    add_page_options(add)
    add_model(parser.add_argument)
    add_precision(parser.add_argument)
    add_passes(parser.add_argument)


def _add_device_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("input and output").add_argument
    add("--input", metavar="NAME|N", help="input device: part of its name, or its number"
        " (default: the system's)")  # fmt: skip
    add("--output", metavar="NAME|N", help="output device, likewise")
    add("--source", type=source, metavar="SOURCE", help=f"instead of an input device:"
        f" {describe(SOURCES)}; udp is at --rate (default: the model's) with --channels"
        )  # fmt: skip
    add("--sink", type=sink, metavar="SINK", help=f"instead of an output device:"
        f" {describe(SINKS)}, at the rate of the input with --channels, stems side by side"
        )  # fmt: skip
    add("--input-channels", type=counts, default=(), metavar="N,…", help="channels of"
        " the input device to use, from 1; averaged for --channels 1 (default: the first)"
        )  # fmt: skip
    add("--channels", type=int, choices=(1, 2), default=1, help="separate in mono or stereo"
        " (default: %(default)s)")  # fmt: skip
    add("--rate", type=count, metavar="HZ", help="of the devices (default: theirs; 16000 saves"
        " 3 ms, but the output ends at 8 kHz)")  # fmt: skip
    add("--block", type=count, metavar="N", help="samples per callback of the devices")
    add("--extra-buffer", type=milliseconds, metavar="MS", help="latency to add for computers"
        " that are sometimes late (default: what small blocks need)")  # fmt: skip
    add("--slack", dest="extra_buffer", type=milliseconds, help=argparse.SUPPRESS)
    add("--measure", action="store_true", help="play a chirp first and show the measured latency"
        " too; the output must reach the input: cable, loopback device, air")  # fmt: skip


def check(arguments: argparse.Namespace) -> None:
    """Refuse options that exclude each other, and gains that don't exist."""
    from rtmtass.live.presets import check_name, load_gains

    if arguments.plain and arguments.json:
        raise UsageError("--plain and --json exclude each other; give one")
    check_page_options(arguments)
    can_start = has_keys(arguments) or arguments.web or is_controlled()
    if arguments.record_mix and not arguments.record and not can_start:
        raise UsageError(
            "--record-mix goes with a recording, and without a display no key can start one;"
            " add --record takes"
        )
    if arguments.save_gains is not None:
        check_name(arguments.save_gains)
    if arguments.gains is not None:
        arguments.gain = {**load_gains(arguments.gains), **arguments.gain}
    of_input = {"--input": arguments.input, "--input-channels": arguments.input_channels}
    of_output = {
        "--output": arguments.output,
        "--stems-out with devices": arguments.stems_out,
        "--virtual-mic": arguments.virtual_mic,
    }
    for option, endpoint, others in (
        ("--source", arguments.source, of_input),
        ("--sink", arguments.sink, of_output),
    ):
        for other, value in {**others, "--measure": arguments.measure}.items():
            if endpoint and value:
                raise UsageError(
                    f"{other} is for devices, but {option} {endpoint} takes the place of one;"
                    f" leave out {other.split()[0]} or {option}"
                )


def has_keys(arguments: argparse.Namespace) -> bool:
    """Return whether there is a display, which reads keys."""
    streams = (sys.stdin, sys.stdout)
    is_terminal = all(stream is not None and stream.isatty() for stream in streams)
    return is_terminal and not (arguments.plain or arguments.json)


def request_of(arguments: argparse.Namespace) -> StreamRequest:
    """Return the devices that the command line asks for."""
    from rtmtass.config import STEMS
    from rtmtass.live.devices.stream_config import StreamRequest

    outputs = (arguments.stems_out or "").split(",") if arguments.stems_out else []
    if outputs and (len(outputs) != len(STEMS) or arguments.output):
        raise UsageError(
            f"--stems-out takes {len(STEMS)} devices, for {', '.join(STEMS)}, and no --output;"
            f" {len(outputs)} were given: see rtmtass devices"
        )
    return StreamRequest(
        input=arguments.input,
        output=outputs[0] if outputs else arguments.output,
        more_outputs=tuple(outputs[1:]),
        input_channels=arguments.input_channels,
        sample_rate=arguments.rate,
        block=arguments.block,
        extra_buffer_ms=arguments.extra_buffer,
        has_input=not arguments.source,
        has_output=not arguments.sink,
    )
