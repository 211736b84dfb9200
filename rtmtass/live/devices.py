"""Sound devices: which there are, which one is meant, and a stream of it; knows sounddevice."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rtmtass.dsp.callback import DeviceCallback
from rtmtass.errors import DeviceError, MissingPartError

Kind = Literal["input", "output"]

COMMON_RATES_HZ = (8000, 16000, 22050, 32000, 44100, 48000, 96000, 192000)
PORTAUDIO_PACKAGES = (
    "Debian and Ubuntu: apt install libportaudio2 · Fedora: dnf install portaudio · macOS and"
    " Windows: it comes with pip install sounddevice"
)
_MONITOR = re.compile(
    r"monitor|loopback|stereo mix|what u hear|blackhole|vb-audio|cable output", re.I
)
_JACK = "JACK Audio Connection Kit"
_ONE_CLOCK_HOSTS = (_JACK, "ASIO")
_ABANDONED: list[Any] = []
"""Copies of PortAudio whose JACK died: threads of theirs still run, so they stay loaded."""
_RATE_UNKNOWN, _UNAVAILABLE = -9997, -9985  # paInvalidSampleRate, paDeviceUnavailable


@dataclass(frozen=True)
class Device:
    """One device of one host API; latencies in ms, (lowest, highest), as the system claims."""

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
        """Whether its name says that it records what others play."""
        return bool(_MONITOR.search(self.name))

    def channels(self, kind: Kind) -> int:
        """Channels of one direction."""
        return self.inputs if kind == "input" else self.outputs

    def __str__(self) -> str:
        return f"[{self.index}] {self.name}, {self.host}"


def portaudio() -> Any:
    """Return the module sounddevice.

    Raises:
        MissingPartError: PortAudio isn't installed.
    """
    try:
        import sounddevice
    except OSError as error:
        raise MissingPartError(
            f"PortAudio, which talks to sound devices, isn't installed. {PORTAUDIO_PACKAGES}"
        ) from error
    return sounddevice


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
            name=found["name"],
            host=hosts[found["hostapi"]]["name"],
            inputs=found["max_input_channels"],
            outputs=found["max_output_channels"],
            sample_rate=round(found["default_samplerate"]),
            input_latency_ms=_milliseconds(found, "input"),
            output_latency_ms=_milliseconds(found, "output"),
            is_default_input=number == default_input,
            is_default_output=number == default_output,
        )
        for number, found in enumerate(sd.query_devices())
    ]


def _milliseconds(found: dict[str, Any], kind: Kind) -> tuple[float, float]:
    low, high = (found[f"default_{which}_{kind}_latency"] * 1000 for which in ("low", "high"))
    return round(low, 2), round(high, 2)


def find_device(wanted: str | None, kind: Kind, devices: Sequence[Device]) -> Device:
    """Return the device that is meant.

    Args:
        wanted: a number, part of a name (and of its host API, after a comma),
            or None for the default.
        kind: which direction it must have.
        devices: of `list_devices`.

    Raises:
        DeviceError: none such, or several; names them.
    """
    able = [device for device in devices if device.channels(kind)]
    option = f"rtmtass live --{kind}"
    if not able:
        raise DeviceError(
            f"this system has no {kind} device; plug one in, or see what is missing with"
            " rtmtass doctor"
        )
    if wanted is None:
        return _default(kind, able, option)
    if wanted.isdecimal():
        for device in able:
            if device.index == int(wanted):
                return device
        raise DeviceError(f"there is no {kind} device number {wanted}; {_choices(able, option)}")
    found = _matches(wanted, able)
    if not found:
        raise DeviceError(f"{wanted!r} matches no {kind} device; {_choices(able, option)}")
    if len(found) > 1:
        listed = "\n".join(f"  {device}" for device in found)
        raise DeviceError(
            f"{wanted!r} matches {len(found)} {kind} devices:\n{listed}\n"
            f"Name one by its number:  {option} {found[0].index}"
        )
    return found[0]


def _default(kind: Kind, able: Sequence[Device], option: str) -> Device:
    for device in able:
        if device.is_default_input if kind == "input" else device.is_default_output:
            return device
    if len(able) == 1:
        return able[0]
    raise DeviceError(f"this system has no default {kind} device; {_choices(able, option)}")


def _matches(wanted: str, able: Sequence[Device]) -> list[Device]:
    word = wanted.casefold()
    exact = [d for d in able if word in (d.name.casefold(), f"{d.name}, {d.host}".casefold())]
    return exact or [d for d in able if word in f"{d.name}, {d.host}".casefold()]


def _choices(able: Sequence[Device], option: str) -> str:
    listed = "\n".join(f"  {device}" for device in able)
    return f"there are:\n{listed}\nName one by its number:  {option} {able[0].index}"


def supported_rates(device: Device, kind: Kind) -> list[int]:
    """Return the common rates that the device takes, in Hz."""
    return [rate for rate in COMMON_RATES_HZ if takes_rate(device, kind, rate)]


def takes_rate(device: Device, kind: Kind, sample_rate: int) -> bool:
    """Say whether the device takes a rate."""
    sd = portaudio()
    check = sd.check_input_settings if kind == "input" else sd.check_output_settings
    try:
        check(device.index, channels=1, dtype="float32", samplerate=sample_rate)
    except (sd.PortAudioError, ValueError):
        return False
    return True


def share_a_clock(given: Device, wanted: Device) -> bool:
    """Say whether input and output can be one stream, which needs no drift correction."""
    if given.index == wanted.index:
        return True
    return given.host == wanted.host and given.host in _ONE_CLOCK_HOSTS


class DeviceStream:
    """An open stream: a device calls a compiled callback.

    Args:
        given: to capture from, or None.
        wanted: to play on, or None.
        channels: of each, as opened.
        sample_rate: in Hz.
        block: samples a call.
        callback: what is called.

    Raises:
        DeviceError: the device is in use, gone, or doesn't take this.
    """

    def __init__(
        self,
        given: Device | None,
        wanted: Device | None,
        channels: tuple[int, int],
        sample_rate: int,
        block: int,
        callback: DeviceCallback,
    ) -> None:
        sd = portaudio()
        self._callback = callback  # its memory is in use as long as this stream is open
        kind, device, count = _direction(given, wanted, channels)
        self._is_jack = any(device and device.host == _JACK for device in (given, wanted))
        self._has_started = False
        self._name = " and ".join(str(d) for d in dict.fromkeys((given, wanted)) if d)
        try:
            # The base class takes a C function; python-rtmixer builds on it in the same way.
            self._stream = sd._StreamBase(
                kind=kind,
                device=device,
                channels=count,
                samplerate=sample_rate,
                blocksize=block,
                dtype="float32",
                latency="low",
                callback=sd._ffi.cast("PaStreamCallback*", callback.function),
                userdata=sd._ffi.cast("void*", callback.table),
            )
        except (sd.PortAudioError, ValueError) as error:
            raise DeviceError(_why_not(self._name, error, sample_rate)) from error

    def start(self) -> None:
        """Let the device begin to call.

        Raises:
            DeviceError: it doesn't.
        """
        sd = portaudio()
        try:
            self._stream.start()
            self._has_started = True
        except sd.PortAudioError as error:
            raise DeviceError(_why_not(self._name, error, 0)) from error

    @property
    def is_active(self) -> bool:
        """Whether the device still calls, as far as PortAudio knows."""
        sd = portaudio()
        try:
            return bool(self._stream.active)
        except sd.PortAudioError:
            return False

    @property
    def latency_s(self) -> tuple[float, float]:
        """Input and output latency as the system claims them."""
        claimed = self._stream.latency
        pair = claimed if isinstance(claimed, tuple) else (claimed, claimed)
        return float(pair[0]), float(pair[1])

    def close(self) -> None:
        """Stop at once and let go; never raises."""
        if self._is_jack and self._has_started and not self.is_active:
            _abandon()
            return
        self._stream.abort(ignore_errors=True)
        self._stream.close(ignore_errors=True)


def _direction(
    given: Device | None, wanted: Device | None, channels: tuple[int, int]
) -> tuple[str, int | tuple[int, int], int | tuple[int, int]]:
    if given and wanted:
        return "duplex", (given.index, wanted.index), channels
    if given:
        return "input", given.index, channels[0]
    assert wanted, "a stream has a device"
    return "output", wanted.index, channels[1]


def _why_not(name: str, error: Exception, sample_rate: int) -> str:
    code = error.args[1] if len(error.args) > 1 else None
    if code == _RATE_UNKNOWN:
        return f"{name} doesn't take {sample_rate} Hz; see rtmtass devices, then add --rate"
    if code == _UNAVAILABLE:
        return f"{name} is in use by another program; close that, or choose another device"
    return f"{name} can't be opened: {error.args[0] if error.args else error}; try rtmtass doctor"


def restart_portaudio() -> None:
    """Look for devices anew: PortAudio lists them once. No stream may be open."""
    sd = portaudio()
    with quiet_libraries():
        while sd._initialized:
            sd._terminate()
        sd._initialize()


def close_portaudio() -> None:
    """Let go of the sound system; `restart_portaudio` comes back to it."""
    sd = portaudio()
    with quiet_libraries():
        while sd._initialized:
            sd._terminate()


def _abandon() -> None:
    """Leave this PortAudio to itself and go on with a new one.

    Once its JACK server has died, closing a stream or PortAudio ends in a failed
    assertion (pa_jack.c asserts that jack_deactivate succeeds), and that ends the
    process. A copy of the library under another name knows nothing of all that.
    """
    sd = portaudio()
    sd._initialized = 0  # so that nobody tries to terminate it at exit either
    if not sys.platform.startswith("linux"):
        return
    path = next(
        line.split(maxsplit=5)[5].strip()
        for line in Path("/proc/self/maps").read_text().splitlines()
        if "portaudio" in line
    )
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copy(path.removesuffix(" (deleted)"), folder)
        _ABANDONED.append(sd._lib)
        sd._lib = sd._ffi.dlopen(copy)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep ALSA and JACK from telling the terminal what they didn't find."""
    if not sys.platform.startswith("linux"):
        yield
        return
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        ctypes.CDLL(None).fflush(None)
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
