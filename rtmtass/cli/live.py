"""`rtmtass live`: separates a device, a file or a UDP stream, and plays or sends the mix."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import sys
import time
from collections import deque
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
from rtmtass.errors import DeviceError, UsageError
from rtmtass.live.endpoints import SINKS, SOURCES, describe

if TYPE_CHECKING:
    from rtmtass.cli.arguments import Commands
    from rtmtass.io.protocols import Sink, Source
    from rtmtass.live.controls import Controls
    from rtmtass.live.devices.device_io import DeviceIO
    from rtmtass.live.devices.stream_config import StreamRequest
    from rtmtass.live.engine import Engine
    from rtmtass.live.stats import Stats
    from rtmtass.separator import Separator

_DISPLAY_S, _LINE_S, _LOOK_S = 0.1, 1.0, 0.02

RECIPES = """\
rtmtass live --gain music=-20,noise=-inf
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
        description="Separates a microphone, a file or a UDP stream into speech, music and noise"
        " and outputs a mix of them, 32 ms later plus buffers. Keys change the mix.",
        epilog=RECIPES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    _add_device_options(parser)
    add = parser.add_argument_group("mix").add_argument
    add("--gain", type=gains, default={}, metavar="STEM=DB,…", help="as in"
        " speech=0,music=-20,noise=-inf (default: 0)")  # fmt: skip
    add("--strength", type=decibels, default=math.inf, metavar="DB", help="turn no stem down"
        " further than this below the loudest (default: no limit)")  # fmt: skip
    add("--stems-out", nargs="?", const="", metavar="A,B,C", help="output the stems, not the"
        " mix: side by side on the output's channels, or each on a device of its own")  # fmt: skip
    add("--monitor", action=argparse.BooleanOptionalAction, default=True, help="output the mix;"
        " --no-monitor is silent, for recording only")  # fmt: skip
    add("--record", metavar="DIR", help="record stems and mixture into DIR, from the start")
    add("--virtual-mic", action="store_true", help="create a microphone that other programs"
        " can choose (PipeWire, PulseAudio)")  # fmt: skip
    add = parser.add_argument_group("display").add_argument
    add("--plain", action="store_true", help="one line a second instead of a display")
    add("--json", action="store_true", help="one JSON object a second")
    add("--duration", type=seconds, metavar="S", help="stop after S seconds")
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

    _check(arguments)
    with contextlib.ExitStack() as stack:
        stack.enter_context(gc_disabled())
        if arguments.record:
            from rtmtass.live.recorder import check_folder

            check_folder(Path(arguments.record))
        if arguments.virtual_mic:
            from rtmtass.live.devices.virtual_mic import VirtualMicrophone

            stack.enter_context(VirtualMicrophone())
            arguments.output = arguments.output or "pulse"
        # Ctrl-C is the usual way to end a live stream: not an error.
        with contextlib.suppress(KeyboardInterrupt):
            _run(arguments, stack)
    end_with_abandoned()
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Refuse options that exclude each other."""
    if arguments.plain and arguments.json:
        raise UsageError("--plain and --json exclude each other; give one")
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


def _run(arguments: argparse.Namespace, stack: contextlib.ExitStack) -> None:
    import rtmtass
    from rtmtass.cli.separate import print_compiling
    from rtmtass.live import os_priority
    from rtmtass.live.controls import Controls
    from rtmtass.live.engine import Engine
    from rtmtass.live.full_band import HopSchedule
    from rtmtass.live.mixer import Mixer
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
    messages: deque[str] = deque(maxlen=50)
    measured_ms = _measured_ms(request, separator, messages) if arguments.measure else None
    mixer = Mixer(
        separator.stems,
        separator.sample_rate,
        arguments.channels,
        gains_db=arguments.gain,
        strength_db=arguments.strength,
        is_split=arguments.stems_out is not None,
    )
    if not arguments.monitor:
        mixer.fade_out()
    ends = _open_ends(arguments, request, separator, mixer.n_rows, messages, stack)
    if ends.devices:
        ends.devices.measured_ms = measured_ms
    folder = Path(arguments.record or ".")
    schedule = HopSchedule(separator, ends.source.sample_rate)
    recorder = TakeRecorder(folder, separator.stems, schedule, arguments.channels, is_realtime=True)
    if arguments.record:
        recorder.start()
    engine = Engine(
        separator, ends.source, ends.sink, mixer=mixer, recorder=recorder,
        on_event=messages.append, is_realtime=True,
    )  # fmt: skip
    grants = [stack.enter_context(os_priority.realtime_interpreter()), os_priority.lock_memory()]
    os_priority.request_priority(os_priority.OTHER_PRIORITY)
    stack.callback(_stop, engine)
    engine.start()
    messages.extend(f"{grant.name}: {grant.detail}" for grant in [*grants, *engine.grants])
    _watch(arguments, engine, ends, Controls(mixer, recorder), messages, stack)


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
    messages: deque[str],
    stack: contextlib.ExitStack,
) -> _Ends:
    """Open --source and --sink, and devices for what isn't given."""
    from rtmtass.live.devices.device_io import DeviceIO
    from rtmtass.live.endpoints import StreamFormat

    stream_format = StreamFormat(
        arguments.rate or separator.sample_rate,
        arguments.channels,
        arguments.extra_buffer or 0.0,
        messages.append,
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
            on_message=messages.append,
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


def _measured_ms(
    request: StreamRequest, separator: Separator, messages: deque[str]
) -> float | None:
    """Return the latency as measured with a chirp, or None and a message if it isn't found."""
    from rtmtass.live.devices.round_trip import measure

    try:
        trip = measure(dataclasses.replace(request, more_outputs=()), separator.fork())
    except DeviceError as error:
        messages.append(f"the latency wasn't measured: {error}")
        return None
    return 1000 * trip.with_engine / trip.sample_rate


def _stop(engine: Engine) -> None:
    from rtmtass.signals import defer_signals

    with contextlib.suppress(KeyboardInterrupt), defer_signals():
        engine.stop()


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


def _watch(
    arguments: argparse.Namespace,
    engine: Engine,
    ends: _Ends,
    controls: Controls,
    messages: deque[str],
    stack: contextlib.ExitStack,
) -> None:
    """Show the engine's state until it ends."""
    from rtmtass.live.display import Display

    display = None
    if not (arguments.plain or arguments.json) and sys.stdout.isatty() and sys.stdin.isatty():
        display = stack.enter_context(Display(controls, ends.name))
    elif not arguments.json:
        latency_ms = engine.stats().device.latency.total_ms
        print(f"{ends.title}, {latency_ms:.1f} ms; Ctrl-C ends", flush=True)
    every_s = _DISPLAY_S if display else _LINE_S
    started = shown = time.monotonic()
    while not controls.has_quit and engine.is_running:
        now = time.monotonic()
        if arguments.duration and now - started >= arguments.duration:
            break
        if now - shown >= every_s:
            shown = max(shown + every_s, now - every_s)  # after a suspend: no burst of lines
            stats = engine.stats()
            if display and display.is_alive:
                display.update(stats, messages)
            else:
                _print_stats(arguments, stats, messages)
                every_s = _LINE_S
        time.sleep(_LOOK_S)


def _print_stats(arguments: argparse.Namespace, stats: Stats, messages: deque[str]) -> None:
    if arguments.json:
        events = [messages.popleft() for _ in range(len(messages))]
        print(json.dumps({**stats.to_dict(), "messages": events}, ensure_ascii=False), flush=True)
        return
    while messages:
        print(f"{time.strftime('%H:%M:%S')}  {messages.popleft()}", flush=True)
    print(f"{time.strftime('%H:%M:%S')}  {plain_line(stats)}", flush=True)


def plain_line(stats: Stats) -> str:
    """Return the engine's state in one line."""
    levels, steps, device = stats.levels, stats.steps, stats.device
    meters = {"in": levels.mixture, **levels.stems, "out": levels.output}
    levels_db = "  ".join(f"{name} {rms:.0f}" for name, (rms, _peak) in meters.items())
    recording = f"  rec {stats.recording.seconds:.0f} s" if stats.recording.is_running else ""
    measured_ms = device.latency.measured_ms
    measured = "" if measured_ms is None else f" (measured {measured_ms:.1f})"
    notes = "".join(f"  {note}" for note in (stats.recording.message, stats.advice) if note)
    return (
        f"{stats.state} {stats.seconds:.0f} s  dB: {levels_db}"
        f"  step {steps.p50_ms:.2f}/{steps.p99_ms:.2f}/{steps.max_ms:.2f} of"
        f" {steps.deadline_ms:.0f} ms  late {stats.deadline_misses + stats.skipped}"
        f"  lost {device.overruns}+{device.underruns}  xruns {device.xruns}"
        f"  drift {device.drift_ppm:+.0f} ppm  latency {device.latency.total_ms:.1f} ms{measured}"
        f"  cpu {100 * stats.cpu_share:.0f} %{recording}{notes}"
    )
