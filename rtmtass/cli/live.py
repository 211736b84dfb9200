"""`rtmtass live`: microphone in, your mix out."""

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
    add_passes,
    add_precision,
    count,
    counts,
    decibels,
    gains,
    milliseconds,
    seconds,
)
from rtmtass.errors import DeviceError, UsageError

if TYPE_CHECKING:
    # argparse has no public name for it.
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

    from rtmtass.live.controls import Controls
    from rtmtass.live.devices.device_io import DeviceIO
    from rtmtass.live.devices.stream_config import StreamRequest
    from rtmtass.live.engine import Engine
    from rtmtass.live.stats import Stats
    from rtmtass.separator import Separator

_DISPLAY_S, _LINE_S, _LOOK_S = 0.1, 1.0, 0.02

RECIPES = """\
rtmtass live --gain music=-20,noise=-inf
rtmtass devices lists the devices, rtmtass doctor says what is missing

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
        help="separate a microphone live and hear your mix of it",
        description="Separates what a device captures and plays your mix of speech, music and"
        " noise, a few hundredths of a second later. Keys change the mix while it runs.",
        epilog=RECIPES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    _add_device_options(parser)
    add = parser.add_argument_group("mix").add_argument
    add("--gain", type=gains, default={}, metavar="STEM=DB,…", help="as in"
        " speech=0,music=-20,noise=-inf (default: 0)")  # fmt: skip
    add("--strength", type=decibels, default=math.inf, metavar="DB", help="push no stem"
        " further below the loudest than this (default: no limit)")  # fmt: skip
    add("--stems-out", nargs="?", const="", metavar="A,B,C", help="play the stems, not the mix:"
        " side by side on the output's channels, or each on a device of its own")  # fmt: skip
    add("--monitor", action=argparse.BooleanOptionalAction, default=True, help="play the mix; off"
        " is for recording only")  # fmt: skip
    add("--record", metavar="DIR", help="record stems and mixture into DIR, from the beginning")
    add("--virtual-mic", action="store_true", help="make a microphone that other programs can"
        " choose (PipeWire, PulseAudio)")  # fmt: skip
    add = parser.add_argument_group("display").add_argument
    add("--plain", action="store_true", help="one line a second instead of a display")
    add("--json", action="store_true", help="one JSON object a second")
    add("--duration", type=seconds, metavar="S", help="stop after so many seconds")
    parser.add_argument("--model", default="rtmtass-small", metavar="NAME", help="see rtmtass"
        " models (default: %(default)s)")  # fmt: skip
    add_precision(parser.add_argument)
    add_passes(parser.add_argument)


def _add_device_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("devices").add_argument
    add("--input", metavar="NAME|N", help="part of a name, or a number (default: the system's)")
    add("--output", metavar="NAME|N", help="likewise")
    add("--input-channels", type=counts, default=(), metavar="N,…", help="which channels"
        " of the input to hear, from 1; averaged for --channels 1 (default: the first)"
        )  # fmt: skip
    add("--channels", type=int, choices=(1, 2), default=1, help="separate in mono or stereo"
        " (default: %(default)s)")  # fmt: skip
    add("--rate", type=count, metavar="HZ", help="of the devices (default: the model's"
        " if they take it, else theirs)")  # fmt: skip
    add("--block", type=count, metavar="N", help="samples the device hands over at once")
    add("--extra-buffer", type=milliseconds, metavar="MS", help="latency to add for computers"
        " that are late now and then (default: what small blocks need)")  # fmt: skip
    add("--slack", dest="extra_buffer", type=milliseconds, help=argparse.SUPPRESS)
    add("--measure", action="store_true", help="play a chirp first and show the true latency too;"
        " the output must reach the input: cable, loopback device, air")  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Run until the time is over, somebody quits, or a signal comes; 0 in each case."""
    from rtmtass.live.devices.portaudio import end_with_abandoned
    from rtmtass.live.os_priority import gc_disabled

    if arguments.plain and arguments.json:
        raise UsageError("--plain and --json exclude each other; give one")
    with contextlib.ExitStack() as stack:
        stack.enter_context(gc_disabled())
        if arguments.record:
            from rtmtass.live.recorder import check_folder

            check_folder(Path(arguments.record))
        if arguments.virtual_mic:
            from rtmtass.live.devices.virtual_mic import VirtualMicrophone

            stack.enter_context(VirtualMicrophone())
            arguments.output = arguments.output or "pulse"
        # That is the way out of a program without an end: no error.
        with contextlib.suppress(KeyboardInterrupt):
            _run(arguments, stack)
    end_with_abandoned()
    return 0


def _run(arguments: argparse.Namespace, stack: contextlib.ExitStack) -> None:
    import rtmtass
    from rtmtass.cli.separate import say_compiling
    from rtmtass.live import os_priority
    from rtmtass.live.controls import Controls
    from rtmtass.live.devices.device_io import DeviceIO
    from rtmtass.live.engine import Engine
    from rtmtass.live.mixer import Mixer
    from rtmtass.live.recorder import TakeRecorder
    from rtmtass.weights import hop_of

    request = request_of(arguments)
    separator = rtmtass.load(
        arguments.model,
        precision=arguments.precision,
        passes=arguments.passes,
        block=hop_of(arguments.model),
        channels=arguments.channels,
        on_compile=say_compiling,
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
    link = DeviceIO(request, separator, n_rows=mixer.n_rows, on_message=messages.append)
    link.measured_ms = measured_ms
    folder = Path(arguments.record or ".")
    recorder = TakeRecorder(
        folder, separator.stems, separator.sample_rate, arguments.channels, is_realtime=True
    )
    if arguments.record:
        recorder.start()
    engine = Engine(
        separator, link, link, mixer=mixer, recorder=recorder, on_event=messages.append,
        is_realtime=True,
    )  # fmt: skip
    granted = [stack.enter_context(os_priority.realtime_interpreter()), os_priority.lock_memory()]
    os_priority.request_priority(os_priority.OTHER_PRIORITY)
    stack.callback(_stop, engine)
    engine.start()
    messages.extend(f"{right.name}: {right.detail}" for right in [*granted, *engine.grants])
    _watch(arguments, engine, link, Controls(mixer, recorder), messages, stack)


def _measured_ms(
    request: StreamRequest, separator: Separator, messages: deque[str]
) -> float | None:
    """Return the true latency by a chirp; where it doesn't come back, say so and go on."""
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
    """Return what the command line wants of the devices."""
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
    )


def _watch(
    arguments: argparse.Namespace,
    engine: Engine,
    link: DeviceIO,
    controls: Controls,
    messages: deque[str],
    stack: contextlib.ExitStack,
) -> None:
    """Show how it goes until it ends."""
    from rtmtass.live.display import Display

    display = None
    capture, playback = link.wire.shape.capture, link.wire.shape.playback
    if not (arguments.plain or arguments.json) and sys.stdout.isatty() and sys.stdin.isatty():
        display = stack.enter_context(Display(controls, f"{capture.name} → {playback.name}"))
    elif not arguments.json:
        print(f"{capture} → {playback}, {link.latency().total_ms:.1f} ms; Ctrl-C ends", flush=True)
    every_s = _DISPLAY_S if display else _LINE_S
    started = shown = time.monotonic()
    while not controls.is_over and engine.is_running:
        now = time.monotonic()
        if arguments.duration and now - started >= arguments.duration:
            break
        if now - shown >= every_s:
            shown = max(shown + every_s, now - every_s)  # after a standstill: no lines in a row
            stats = engine.stats()
            if display and display.is_alive:
                display.update(stats, messages)
            else:
                _say(arguments, stats, messages)
                every_s = _LINE_S
        time.sleep(_LOOK_S)


def _say(arguments: argparse.Namespace, stats: Stats, messages: deque[str]) -> None:
    if arguments.json:
        events = [messages.popleft() for _ in range(len(messages))]
        print(json.dumps({**stats.to_dict(), "messages": events}, ensure_ascii=False), flush=True)
        return
    while messages:
        print(f"{time.strftime('%H:%M:%S')}  {messages.popleft()}", flush=True)
    print(f"{time.strftime('%H:%M:%S')}  {plain_line(stats)}", flush=True)


def plain_line(stats: Stats) -> str:
    """Return one line that says how it goes."""
    levels, steps, device = stats.levels, stats.steps, stats.device
    meters = {"in": levels.mixture, **levels.stems, "out": levels.output}
    said = "  ".join(f"{name} {rms:.0f}" for name, (rms, _peak) in meters.items())
    recording = f"  rec {stats.recording.seconds:.0f} s" if stats.recording.is_running else ""
    true_ms = device.latency.measured_ms
    measured = "" if true_ms is None else f" (measured {true_ms:.1f})"
    notes = "".join(f"  {note}" for note in (stats.recording.message, stats.advice) if note)
    return (
        f"{stats.state} {stats.seconds:.0f} s  dB: {said}"
        f"  step {steps.p50_ms:.2f}/{steps.p99_ms:.2f}/{steps.max_ms:.2f} of"
        f" {steps.deadline_ms:.0f} ms  late {stats.deadline_misses + stats.skipped}"
        f"  lost {device.overruns}+{device.underruns}  xruns {device.xruns}"
        f"  drift {device.drift_ppm:+.0f} ppm  latency {device.latency.total_ms:.1f} ms{measured}"
        f"  cpu {100 * stats.cpu_share:.0f} %{recording}{notes}"
    )
