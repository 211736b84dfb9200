"""Lists sound devices, finds one by number or name, and checks the rates it supports."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from rtmtass.errors import DeviceError
from rtmtass.live.devices import pulse
from rtmtass.live.devices.portaudio import portaudio

Kind = Literal["input", "output"]

COMMON_RATES_HZ = (8000, 16000, 22050, 32000, 44100, 48000, 96000, 192000)
_MONITOR = re.compile(
    r"monitor|loopback|stereo mix|what u hear|wave out mix|blackhole|soundflower|vb-audio"
    r"|cable output",
    re.I,
)
_LONGEST_NUMBER = 9
ALSA = "ALSA"
JACK = "JACK Audio Connection Kit"
ONE_CLOCK_HOSTS = (JACK, "ASIO")


@dataclass(frozen=True)
class Device:
    """One device of one host API, or a source or sink of PulseAudio or PipeWire.

    Latencies are in ms, (low, high), as the system reports them. A source or sink has the name
    that its server knows it by, `node`, and the number of PortAudio's device for the server,
    `carrier`.
    """

    index: int
    name: str
    host: str
    inputs: int
    outputs: int
    sample_rate: int
    input_latency_ms: tuple[float, float]
    output_latency_ms: tuple[float, float]
    is_default_input: bool
    is_default_output: bool
    node: str = ""
    carrier: int | None = None

    @property
    def portaudio_index(self) -> int:
        """The number that PortAudio opens: a source or sink is opened through its server's."""
        return self.index if self.carrier is None else self.carrier

    def variables(self, kind: Kind) -> dict[str, str]:
        """Return the environment that a stream of this device has to be opened in."""
        if not self.node:
            return {}
        server = "pipewire" if self.host == "PipeWire" else "pulse"
        return {pulse.VARIABLES[server][kind]: self.node}

    @property
    def is_jack_plugin(self) -> bool:
        """Whether it is ALSA's detour to JACK, which underruns where JACK itself doesn't."""
        return self.host == ALSA and self.name == "jack"

    @property
    def is_monitor(self) -> bool:
        """Whether its name says that it captures what other programs play."""
        return bool(_MONITOR.search(self.name))

    def channels(self, kind: Kind) -> int:
        """Channels of one direction."""
        return self.inputs if kind == "input" else self.outputs

    def __str__(self) -> str:
        return f"[{self.index}] {self.name}, {self.host}"


def list_devices() -> list[Device]:
    """Return all devices of all host APIs.

    Raises:
        MissingPartError: PortAudio isn't installed.
    """
    sd = portaudio()
    hosts = sd.query_hostapis()
    default_input, default_output = sd.default.device
    if default_input < 0 or default_output < 0:
        main_host = hosts[0] if hosts else {}
        default_input = main_host.get("default_input_device", -1)
        default_output = main_host.get("default_output_device", -1)
    devices = [
        Device(
            index=number,
            name=info["name"],
            host=hosts[info["hostapi"]]["name"],
            inputs=info["max_input_channels"],
            outputs=info["max_output_channels"],
            sample_rate=round(info["default_samplerate"]),
            input_latency_ms=_milliseconds(info, "input"),
            output_latency_ms=_milliseconds(info, "output"),
            is_default_input=number == default_input,
            is_default_output=number == default_output,
        )
        for number, info in enumerate(sd.query_devices())
    ]
    return [*_with_native_defaults(devices), *_nodes(devices)]


def _nodes(devices: Sequence[Device]) -> list[Device]:
    """Return the sources and sinks of the sound server, numbered after all other devices."""
    carriers = [d for d in devices if d.host == ALSA and d.name in pulse.VARIABLES]
    if not carriers:
        return []
    carrier = carriers[0]
    return [
        replace(
            carrier,
            index=len(devices) + number,
            name=node.title,
            host="PulseAudio" if carrier.name == "pulse" else "PipeWire",
            inputs=node.channels if node.kind == "input" else 0,
            outputs=node.channels if node.kind == "output" else 0,
            sample_rate=node.sample_rate,
            is_default_input=False,
            is_default_output=False,
            node=node.name,
            carrier=carrier.index,
        )
        for number, node in enumerate(pulse.list_nodes())
    ]


def _with_native_defaults(devices: list[Device]) -> list[Device]:
    """Return the devices with JACK's as default where ALSA's detour to JACK would be it."""
    default_input = _native_default(devices, "input")
    default_output = _native_default(devices, "output")
    return [
        replace(
            device,
            is_default_input=device.index == default_input,
            is_default_output=device.index == default_output,
        )
        for device in devices
    ]


def _native_default(devices: Sequence[Device], kind: Kind) -> int | None:
    """Return the number of the default device, or that of JACK's in place of ALSA's for it."""
    is_default = {"input": "is_default_input", "output": "is_default_output"}[kind]
    default = next((d for d in devices if getattr(d, is_default)), None)
    if default is None or default.is_jack_plugin:
        native = (d for d in devices if d.host == JACK and d.channels(kind))
        default = next(native, default)
    return default.index if default else None


def _milliseconds(info: dict[str, Any], kind: Kind) -> tuple[float, float]:
    low, high = (info[f"default_{which}_{kind}_latency"] * 1000 for which in ("low", "high"))
    return round(low, 2), round(high, 2)


def find_device(name: str | None, kind: Kind, devices: Sequence[Device]) -> Device:
    """Return the device of a number or name.

    Args:
        name: a number, part of a name (and of its host API, after a comma), or None for the
            default.
        kind: the direction it must have.
        devices: see `list_devices`.

    Raises:
        DeviceError: no match, or several; the message lists the candidates.
    """
    able = [device for device in devices if device.channels(kind)]
    option = f"rtmtass live --{kind}"
    if not able:
        raise DeviceError(
            f"this system has no {kind} device; plug one in, or see what is missing with"
            " rtmtass doctor"
        )
    if name is None:
        return _default(kind, able, option)
    if name.isdecimal():
        for device in able:
            if len(name) <= _LONGEST_NUMBER and device.index == int(name):
                return device
        raise DeviceError(f"there is no {kind} device number {name}; {_choices(able, option)}")
    matches = _matches(name, able)
    if not matches:
        raise DeviceError(f"{name!r} matches no {kind} device; {_choices(able, option)}")
    if len(matches) > 1:
        listed = "\n".join(f"  {device}" for device in matches)
        raise DeviceError(
            f"{name!r} matches {len(matches)} {kind} devices:\n{listed}\n"
            f"Name one by its number:  {option} {matches[0].index}"
        )
    return matches[0]


def find_again(before: Device, kind: Kind, devices: Sequence[Device]) -> Device | None:
    """Return the device that was `before`, whose number may have changed; None if it is gone.

    Of several with the same name, that of the same number, else the first.
    """
    alike = [
        device
        for device in devices
        if (device.name, device.host) == (before.name, before.host) and device.channels(kind)
    ]
    same = [device for device in alike if device.index == before.index]
    return next(iter(same + alike), None)


def _default(kind: Kind, able: Sequence[Device], option: str) -> Device:
    for device in able:
        if device.is_default_input if kind == "input" else device.is_default_output:
            return device
    if len(able) == 1:
        return able[0]
    raise DeviceError(f"this system has no default {kind} device; {_choices(able, option)}")


def _matches(name: str, able: Sequence[Device]) -> list[Device]:
    """Return the devices of a name: exact ones, else those that contain it, else less likely ones.

    ALSA's detour to JACK, monitors, and the hardware that a sound server holds are meant only if
    there is nothing else of that name.
    """
    word = name.casefold()
    if "alsa" not in word and any(d.host == JACK for d in able):
        able = [d for d in able if not d.is_jack_plugin]
    exact = [d for d in able if word in _names(d)]
    found = exact or [d for d in able if any(word in each for each in _names(d))]
    has_node = any(d.node for d in found)
    less_likely = (
        [d for d in found if d.is_monitor and not _MONITOR.search(name)],
        [d for d in found if has_node and d.host == ALSA and "(hw:" in d.name],
    )
    for unlikely in less_likely:
        found = [d for d in found if d not in unlikely] or found
    return found


def _names(device: Device) -> tuple[str, ...]:
    names = device.name, f"{device.name}, {device.host}", device.node
    return tuple(name.casefold() for name in names if name)


def _choices(able: Sequence[Device], option: str) -> str:
    listed = "\n".join(f"  {device}" for device in able)
    return f"there are:\n{listed}\nName one by its number:  {option} {able[0].index}"


def supported_rates(device: Device) -> list[int]:
    """Return the common rates in Hz that the device supports in every direction it has."""
    kinds: tuple[Kind, ...] = ("input", "output")
    able = [kind for kind in kinds if device.channels(kind)]
    return [
        rate for rate in COMMON_RATES_HZ if all(takes_rate(device, kind, rate) for kind in able)
    ]


def takes_rate(device: Device, kind: Kind, sample_rate: int) -> bool:
    """Return whether the device supports a rate in Hz."""
    sd = portaudio()
    check = sd.check_input_settings if kind == "input" else sd.check_output_settings
    try:
        check(device.portaudio_index, channels=1, dtype="float32", samplerate=sample_rate)
    except (sd.PortAudioError, ValueError):
        return False
    return True


def have_one_clock(capture: Device, playback: Device) -> bool:
    """Return whether two devices can be one duplex stream, without drift compensation."""
    if capture.index == playback.index:
        return True
    return capture.host == playback.host and capture.host in ONE_CLOCK_HOSTS
