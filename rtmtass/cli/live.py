"""`rtmtass live`: separates a device, a file or a UDP stream, and plays or sends the mix."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
import sys
from pathlib import Path
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
    model_name,
    seconds,
    sink,
    source,
)
from rtmtass.cli.live_page import (
    add_page_options,
    check_page_options,
    connect_page,
    is_controlled,
    open_tap,
    serve_page,
)
from rtmtass.cli.live_session import Session
from rtmtass.cli.live_stop import Stops
from rtmtass.cli.live_text import format_gains
from rtmtass.cli.live_watch import Printer, Watch
from rtmtass.errors import DeviceError, UsageError
from rtmtass.live.endpoints import SINKS, SOURCES, describe

if TYPE_CHECKING:
    from rtmtass.cli.arguments import Commands
    from rtmtass.io.protocols import Sink, Source
    from rtmtass.live.controls import Controls
    from rtmtass.live.devices.device_io import DeviceIO
    from rtmtass.live.devices.stream_config import StreamRequest
    from rtmtass.live.display import Display
    from rtmtass.live.engine import Engine
    from rtmtass.live.events import EventLog
    from rtmtass.separator import Separator

RECIPES = """\
rtmtass live --gain music=-20,noise=-inf
rtmtass live --gains voice --record takes --record-mix
rtmtass live --source udp:9000 --sink udp:192.168.1.20:9001
rtmtass devices lists the devices, rtmtass doctor checks the system

into other programs:
  PipeWire, PulseAudio  add --virtual-mic, choose the microphone rtmtass-microphone there
  JACK                  add --output "system, jack", then jack_connect PortAudio:out_0 OTHER:PORT
  macOS                 brew install blackhole-2ch, add --output BlackHole, choose BlackHole there
  Windows               install VB-Cable (vb-audio.com/Cable), add --output "CABLE Input", choose
                        CABLE Output there
"""


def register(commands: Commands) -> None:
    """Add `live`."""
    parser = commands.add_parser(
        "live",
        help="separate a live input and output a mix of the stems",
        description="Separates a microphone, a file or a UDP stream into speech, music and"
        " noise\nand outputs a mix of them, 32 ms later plus buffers. Keys change the mix.",
        epilog=RECIPES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
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


def run(arguments: argparse.Namespace) -> int:
    """Run until the source or --duration ends, a quit or a signal; 0 in each case."""
    from rtmtass.live.devices.portaudio import end_with_abandoned
    from rtmtass.live.os_priority import gc_disabled

    if arguments.list_gains:
        return _list_gains()
    _check(arguments)
    session = Session(Printer(is_json=arguments.json))
    with Stops() as stops, gc_disabled():
        if arguments.record:
            from rtmtass.live.recorder import check_folder

            check_folder(Path(arguments.record))
        try:
            with contextlib.ExitStack() as stack:
                if arguments.virtual_mic:
                    from rtmtass.live.devices.virtual_mic import VirtualMicrophone

                    microphone = stack.enter_context(VirtualMicrophone())
                    stops.on_exit.append(lambda: microphone.__exit__(None, None, None))
                    arguments.output = arguments.output or "pulse"
                _run(arguments, session, stops, stack)
        finally:
            session.summarise(arguments.model)
        if arguments.save_gains:
            session.save_gains(arguments.save_gains)
    failure = session.failure()
    if failure:
        print(f"rtmtass: {failure}", file=sys.stderr)
    end_with_abandoned(int(bool(failure)))
    return int(bool(failure))


def _list_gains() -> int:
    """Print the gains that have names."""
    from rtmtass.cli.console import print_table
    from rtmtass.errors import RtmtassError
    from rtmtass.live.presets import load_gains, names

    rows = []
    for name in names():
        try:
            rows.append((name, format_gains(load_gains(name))))
        except RtmtassError as error:
            rows.append((name, str(error)))
    print_table(("name", "gains in dB"), rows)
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Refuse options that exclude each other, and gains that don't exist."""
    from rtmtass.live.presets import check_name, load_gains

    if arguments.plain and arguments.json:
        raise UsageError("--plain and --json exclude each other; give one")
    check_page_options(arguments)
    can_start = _has_keys(arguments) or arguments.web or is_controlled()
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


def _run(
    arguments: argparse.Namespace, session: Session, stops: Stops, stack: contextlib.ExitStack
) -> None:
    """Run the stream; the stack closes it."""
    import rtmtass
    from rtmtass.cli.separate import print_compiling
    from rtmtass.live import os_priority
    from rtmtass.live.engine import Engine
    from rtmtass.live.full_band import HopSchedule
    from rtmtass.live.mixer import Mixer
    from rtmtass.live.page_controls import PageControls
    from rtmtass.live.recorder import TakeRecorder
    from rtmtass.weights import hop_of

    request, model = request_of(arguments), model_name(arguments)
    separator = rtmtass.load(
        model,
        precision=arguments.precision,
        passes=arguments.passes,
        block=hop_of(model),
        channels=arguments.channels,
        on_compile=print_compiling,
    )
    events = session.events
    measured_ms = _measured_ms(request, separator, events) if arguments.measure else None
    mixer = Mixer(
        separator.stems,
        separator.sample_rate,
        arguments.channels,
        gains_db=arguments.gain,
        strength_db=arguments.strength,
        is_split=arguments.stems_out is not None,
        when_late=arguments.when_late,
    )
    ends = _open_ends(arguments, request, separator, mixer.n_rows, events, stack)
    if ends.devices:
        ends.devices.measured_ms = measured_ms
    recorder = TakeRecorder(
        Path(arguments.record or "."), separator.stems,
        HopSchedule(separator, ends.source.sample_rate), arguments.channels,
        has_mix=arguments.record_mix, is_realtime=True,
    )  # fmt: skip
    stack.callback(recorder.close)
    controls, tap = PageControls(mixer, recorder), open_tap(arguments, separator)
    engine = Engine(
        separator, ends.source, ends.sink, mixer=mixer, recorder=recorder, tap=tap,
        on_event=events.add, is_realtime=True, is_monitored=arguments.monitor,
    )  # fmt: skip
    grants = [stack.enter_context(os_priority.realtime_interpreter()), os_priority.lock_memory()]
    os_priority.request_priority(os_priority.OTHER_PRIORITY)
    page = None
    if is_controlled():
        page = connect_page(ends.name, tap, separator, controls, stack)
        mixer.reset()  # what is set there applies from the first sample on
    session.mixer, session.recorder, session.engine = mixer, recorder, engine
    stack.callback(engine.stop)
    stops.on_exit += [recorder.close, session.takes]
    stops.begin()
    if arguments.record:
        recorder.start()
    events.begin()
    engine.start()
    # Of several threads' requests for one thing, a refusal is the one to report.
    by_name = {g.name: g for g in sorted([*grants, *engine.grants], key=lambda g: not g.is_granted)}
    for grant in by_name.values():
        events.add(f"{grant.name}: {grant.detail}")
    display = _open_display(arguments, engine, ends, controls, session.printer, stack)
    page = page or serve_page(arguments, ends.name, tap, separator, events, stack)
    session.watch = Watch(engine, recorder, controls, events, session.printer, display, page)
    stack.callback(stops.notice)
    session.watch.run(stops, arguments.duration)


def _open_display(
    arguments: argparse.Namespace,
    engine: Engine,
    ends: _Ends,
    controls: Controls,
    printer: Printer,
    stack: contextlib.ExitStack,
) -> Display | None:
    """Open the display if there is a terminal, else print the title unless it is JSON."""
    from rtmtass.live.display import Display

    if _has_keys(arguments):
        return stack.enter_context(Display(controls, ends.name))
    if not arguments.json:
        latency_ms = engine.stats().device.latency.total_ms
        printer.text(f"{ends.title}, {latency_ms:.1f} ms; Ctrl-C ends")
    return None


def _has_keys(arguments: argparse.Namespace) -> bool:
    """Return whether there is a display, which reads keys."""
    streams = (sys.stdin, sys.stdout)
    is_terminal = all(stream is not None and stream.isatty() for stream in streams)
    return is_terminal and not (arguments.plain or arguments.json)


@dataclasses.dataclass(frozen=True)
class _Ends:
    """The open source and sink; `devices` is among them unless neither is a device."""

    source: Source
    sink: Sink
    devices: DeviceIO | None
    title: str
    name: str
    """Both in short, for the display."""


def _open_ends(
    arguments: argparse.Namespace,
    request: StreamRequest,
    separator: Separator,
    n_rows: int,
    events: EventLog,
    stack: contextlib.ExitStack,
) -> _Ends:
    """Open --source and --sink, and devices for what isn't given."""
    from rtmtass.live.devices.device_io import DeviceIO
    from rtmtass.live.endpoints import StreamFormat

    stream_format = StreamFormat(
        arguments.rate or separator.sample_rate,
        arguments.channels,
        arguments.extra_buffer or 0.0,
        events.add,
    )
    source: Source | None = None
    sink: Sink | None = None
    if arguments.source:
        source = arguments.source.open(stream_format)
        stack.callback(source.close)
        if arguments.channels not in (1, source.channels):
            raise UsageError(
                f"{arguments.source} has {source.channels} channels, but --channels"
                f" {arguments.channels} was given; give --channels 1"
            )
    if arguments.sink:
        sink = arguments.sink.open(stream_format)
        stack.callback(sink.close)
    devices, titles, names = None, [], []
    if source is None or sink is None:
        # One object for both devices: they are one stream if they share a clock.
        devices = DeviceIO(
            request,
            separator,
            n_rows=n_rows,
            source_rate=source.sample_rate if source else None,
            on_message=events.add,
        )
        config = devices.connection.config
        ends = [device for device in (config.capture, config.playback) if device]
        titles, names = [str(device) for device in ends], [device.name for device in ends]
    for position, endpoint in ((0, arguments.source), (1, arguments.sink)):
        if endpoint:
            titles.insert(position, str(endpoint))
            names.insert(position, str(endpoint))
    chosen_source, chosen_sink = source or devices, sink or devices
    assert chosen_source, "without --source there is an input device"
    assert chosen_sink, "without --sink there is an output device"
    return _Ends(chosen_source, chosen_sink, devices, " → ".join(titles), " → ".join(names))


def _measured_ms(request: StreamRequest, separator: Separator, events: EventLog) -> float | None:
    """Return the latency as measured with a chirp, or None and an event if it isn't found."""
    from rtmtass.live.devices.round_trip import measure

    try:
        trip = measure(dataclasses.replace(request, more_outputs=()), separator.fork())
    except DeviceError as error:
        events.add(f"the latency wasn't measured: {error}")
        return None
    return 1000 * trip.with_engine / trip.sample_rate


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
