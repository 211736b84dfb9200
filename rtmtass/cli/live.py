"""`rtmtass live`: separates a device, a file or a UDP stream, and plays or sends the mix."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rtmtass.cli.arguments import model_name
from rtmtass.cli.live_options import add_options, check, has_keys, request_of
from rtmtass.cli.live_page import (
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
    add_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run until the source or --duration ends, a quit or a signal; 0 in each case."""
    from rtmtass.live.devices.portaudio import end_with_abandoned
    from rtmtass.live.os_priority import gc_disabled

    if arguments.list_gains:
        return _list_gains()
    check(arguments)
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


def _run(
    arguments: argparse.Namespace, session: Session, stops: Stops, stack: contextlib.ExitStack
) -> None:
    """Run the stream; the stack closes it."""
    import rtmtass
    from rtmtass.cli.loading import print_compiling
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
    unbuffered_ms = _measure(request, separator, events) if arguments.measure else None
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
        ends.devices.unbuffered_ms = unbuffered_ms
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

    if has_keys(arguments):
        return stack.enter_context(Display(controls, ends.name))
    if not arguments.json:
        latency_ms = engine.stats().device.latency.total_ms
        printer.text(f"{ends.title}, {latency_ms:.1f} ms; Ctrl-C ends")
    return None


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


def _measure(request: StreamRequest, separator: Separator, events: EventLog) -> float | None:
    """Return `RoundTrip.unbuffered_ms`, or None and an event if the chirp isn't found."""
    from rtmtass.live.devices.round_trip import measure

    try:
        alone = dataclasses.replace(request, more_outputs=())
        return measure(alone, separator.fork()).unbuffered_ms
    except DeviceError as error:
        events.add(f"the latency wasn't measured: {error}")
        return None
