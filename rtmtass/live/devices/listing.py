"""Lists sound devices, finds one by number or name, and checks the rates it supports."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rtmtass.errors import DeviceError
from rtmtass.live.devices.portaudio import portaudio

Kind = Literal["input", "output"]

COMMON_RATES_HZ = (8000, 16000, 22050, 32000, 44100, 48000, 96000, 192000)
_MONITOR = re.compile(
    r"monitor|loopback|stereo mix|what u hear|wave out mix|blackhole|soundflower|vb-audio"
    r"|cable output",
    re.I,
)
_LONGEST_NUMBER = 9
JACK = "JACK Audio Connection Kit"
_ONE_CLOCK_HOSTS = (JACK, "ASIO")


@dataclass(frozen=True)
class Device:
    """One device of one host API; latencies in ms, (low, high), as the system reports them."""

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
    return [
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
    word = name.casefold()
    exact = [d for d in able if word in (d.name.casefold(), f"{d.name}, {d.host}".casefold())]
    return exact or [d for d in able if word in f"{d.name}, {d.host}".casefold()]


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
        check(device.index, channels=1, dtype="float32", samplerate=sample_rate)
    except (sd.PortAudioError, ValueError):
        return False
    return True


def have_one_clock(capture: Device, playback: Device) -> bool:
    """Return whether two devices can be one duplex stream, without drift compensation."""
    if capture.index == playback.index:
        return True
    return capture.host == playback.host and capture.host in _ONE_CLOCK_HOSTS
