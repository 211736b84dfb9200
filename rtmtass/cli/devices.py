"""`rtmtass devices`, `doctor` and `latency`: list devices, check the system, measure latency."""

from __future__ import annotations

import argparse
import dataclasses
import functools
from typing import TYPE_CHECKING

from rtmtass.cli.arguments import add_model, count, milliseconds, model_name
from rtmtass.cli.loading import run_interruptibly
from rtmtass.cli.streams import print_json

if TYPE_CHECKING:
    from rtmtass.cli.arguments import Commands
    from rtmtass.live.devices.listing import Device


def register(commands: Commands) -> None:
    """Add `devices`, `doctor` and `latency`."""
    devices = commands.add_parser(
        "devices",
        help="list the sound devices",
        description="Lists inputs and outputs with number, name, host API, channels, rates and"
        " latency. Defaults are marked, and monitors, which capture what other programs play.",
    )
    devices.set_defaults(run=run_devices)
    devices.add_argument("--json", action="store_true", help="print one JSON object per device")
    doctor = commands.add_parser(
        "doctor",
        help="check whether this computer can run live",
        description="Checks sound system, priorities, CPU, model and speed; each line says ok or"
        " what to type. Exits 1 if live can't work at all.",
    )
    doctor.set_defaults(run=run_doctor)
    doctor.add_argument("--json", action="store_true", help="print one JSON object per check")
    latency = commands.add_parser(
        "latency",
        help="measure the round-trip latency with a chirp",
        description="Plays a chirp on the output, records it on the input (connected by a cable, a"
        " loopback device, or air), and prints the engine's latency as measured and as reported.",
    )
    latency.set_defaults(run=run_latency)
    latency.add_argument("--input", metavar="NAME|N")
    latency.add_argument("--output", metavar="NAME|N")
    latency.add_argument("--rate", type=count, metavar="HZ")
    latency.add_argument("--block", type=count, metavar="N")
    latency.add_argument("--extra-buffer", type=milliseconds, metavar="MS")
    latency.add_argument("--slack", dest="extra_buffer", type=milliseconds, help=argparse.SUPPRESS)
    add_model(latency.add_argument)
    latency.add_argument("--json", action="store_true", help="print one JSON object")


def run_devices(arguments: argparse.Namespace) -> int:
    """Run `rtmtass devices`."""
    from rtmtass.cli.console import print_table
    from rtmtass.live.devices.listing import list_devices
    from rtmtass.live.devices.portaudio import quiet_libraries

    with quiet_libraries():
        devices = list_devices()
        facts = [_device_facts(device) for device in devices]
    if arguments.json:
        for fact in facts:
            print_json(fact)
        return 0
    if not devices:
        print("no sound devices; see rtmtass doctor")
        return 0
    rows = [_device_row(device, fact["rates"]) for device, fact in zip(devices, facts, strict=True)]
    print_table(("", "device", "host API", "in", "out", "rates in Hz", "latency in / out"), rows)
    return 0


def _device_facts(device: Device) -> dict[str, object]:
    from rtmtass.live.devices.listing import supported_rates

    facts = {**dataclasses.asdict(device), "is_monitor": device.is_monitor}
    return {**facts, "rates": supported_rates(device)}


def _device_row(device: Device, rates: object) -> tuple[str, ...]:
    assert isinstance(rates, list)
    marks = [
        mark
        for mark, applies in (
            ("default input", device.is_default_input),
            ("default output", device.is_default_output),
            ("monitor", device.is_monitor),
        )
        if applies
    ]
    name = device.name + (f" ({', '.join(marks)})" if marks else "")
    listed = " ".join(f"[{r}]" if r == device.sample_rate else str(r) for r in rates)
    latency = " / ".join(
        f"{low:.0f}–{high:.0f} ms" if channels else "–"
        for channels, (low, high) in (
            (device.inputs, device.input_latency_ms),
            (device.outputs, device.output_latency_ms),
        )
    )
    return (
        str(device.index), name, device.host, str(device.inputs or "–"), str(device.outputs or "–"),
        listed, latency,
    )  # fmt: skip


def run_doctor(arguments: argparse.Namespace) -> int:
    """Run `rtmtass doctor`; return 1 if a needed check failed."""
    from rtmtass.live.devices.doctor import checks

    is_fit, last_advice = True, ""
    for check in checks():
        is_fit = is_fit and (check.is_ok or not check.is_needed)
        if arguments.json:
            print_json(dataclasses.asdict(check))
            continue
        print(f"{'ok   ' if check.is_ok else 'MISS ' if check.is_needed else 'note '}"
              f" {check.name}: {check.detail}", flush=True)  # fmt: skip
        if check.advice and not check.is_ok:
            # Without input and output, one paragraph for both.
            line = "as above" if check.advice == last_advice else check.advice
            print(f"       → {line}", flush=True)
            last_advice = check.advice
    return 0 if is_fit else 1


def run_latency(arguments: argparse.Namespace) -> int:
    """Run `rtmtass latency`."""
    import rtmtass
    from rtmtass.cli.loading import print_compiling
    from rtmtass.live import os_priority
    from rtmtass.live.devices.round_trip import measure
    from rtmtass.live.devices.stream_config import StreamRequest
    from rtmtass.weights import hop_of

    model = model_name(arguments)
    load = functools.partial(rtmtass.load, model, block=hop_of(model), on_compile=print_compiling)
    separator = run_interruptibly(load)
    request = StreamRequest(
        input=arguments.input,
        output=arguments.output,
        sample_rate=arguments.rate,
        block=arguments.block,
        extra_buffer_ms=arguments.extra_buffer,
    )
    with os_priority.realtime_interpreter():
        os_priority.request_priority(os_priority.OTHER_PRIORITY)
        trip = measure(request, separator)
    scale = 1000 / trip.sample_rate
    if arguments.json:
        print_json({**dataclasses.asdict(trip), "engine": trip.engine})
        return 0
    for label, samples in (
        ("devices and cable alone", trip.without),
        ("with the engine", trip.with_engine),
        ("engine, measured", trip.engine),
        ("engine, reported", trip.reported),
    ):
        print(f"{label:<24} {samples * scale:8.2f} ms  ({samples} samples)")
    return 0
