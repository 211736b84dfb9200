"""An open PortAudio stream, whose device calls the compiled callback directly."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from typing import Any

from rtmtass.errors import DeviceError
from rtmtass.live.devices import pulse
from rtmtass.live.devices.callback import DeviceCallback
from rtmtass.live.devices.listing import JACK, Device
from rtmtass.live.devices.portaudio import abandon_portaudio, portaudio
from rtmtass.live.os_priority import ordinary_priority

_RATE_UNKNOWN, _UNAVAILABLE = -9997, -9985  # paInvalidSampleRate, paDeviceUnavailable

_ABORT_TIMEOUT_S = 0.7
"""Longer than any period; a signal has to end a live stream within a second or two."""


class DeviceStream:
    """An open stream of one or two devices.

    Args:
        capture: input device, or None.
        playback: output device, or None.
        channels: to open of each.
        sample_rate: in Hz.
        block: samples per callback; 0: as many as the host has.
        callback: see DeviceCallback.

    Attributes:
        is_jack: the stream belongs to a JACK server. It must not be closed while the server
            is unresponsive: PortAudio would block or abort the process.

    Raises:
        DeviceError: the device is in use, gone, or doesn't support these parameters.
    """

    def __init__(
        self,
        capture: Device | None,
        playback: Device | None,
        channels: tuple[int, int],
        sample_rate: int,
        block: int,
        callback: DeviceCallback,
    ) -> None:
        sd = portaudio()
        self._callback = callback  # keeps its memory alive while the stream is open
        kind, device, count = _direction(capture, playback, channels)
        self.is_jack = any(device and device.host == JACK for device in (capture, playback))
        self._is_hardware = all("(hw:" in d.name for d in (capture, playback) if d)
        self._has_started = False
        self._name = " and ".join(str(d) for d in dict.fromkeys((capture, playback)) if d)
        environment = {
            **(capture.variables("input") if capture else {}),
            **(playback.variables("output") if playback else {}),
        }
        try:
            with pulse.chosen(environment):
                self._stream = self._open(kind, device, count, sample_rate, block)
        except (sd.PortAudioError, ValueError) as error:
            raise DeviceError(_why_not(self._name, error, sample_rate)) from error

    def _open(self, kind: str, device: Any, count: Any, sample_rate: int, block: int) -> Any:
        sd = portaudio()
        # The base class accepts a C function as callback; python-rtmixer uses it likewise.
        return sd._StreamBase(
            kind=kind,
            device=device,
            channels=count,
            samplerate=sample_rate,
            blocksize=block,
            dtype="float32",
            latency="low",
            callback=sd._ffi.cast("PaStreamCallback*", self._callback.function),
            userdata=sd._ffi.cast("void*", self._callback.table),
        )

    def start(self) -> None:
        """Start the callbacks.

        Raises:
            DeviceError: the device doesn't start.
        """
        sd = portaudio()
        # PortAudio's ALSA thread inherits this thread's priority. For a hardware device that is
        # fine; for a device of a sound server it would starve that server on a single core.
        may_inherit = self._is_hardware or self.is_jack
        try:
            with nullcontext() if may_inherit else ordinary_priority():
                self._stream.start()
            self._has_started = True
        except sd.PortAudioError as error:
            raise DeviceError(_why_not(self._name, error, 0)) from error

    @property
    def is_active(self) -> bool:
        """Whether PortAudio considers the stream active."""
        sd = portaudio()
        try:
            return bool(self._stream.active)
        except sd.PortAudioError:
            return False

    @property
    def latency_s(self) -> tuple[float, float]:
        """Input and output latency as the sound system reports them."""
        reported = self._stream.latency
        pair = reported if isinstance(reported, tuple) else (reported, reported)
        return float(pair[0]), float(pair[1])

    def close(self, *, is_silent: bool = False) -> None:
        """Abort and close the stream; never raises.

        Args:
            is_silent: the device has stopped calling back.
        """
        if self.is_jack and self._has_started:
            if is_silent or not self.is_active or not self._aborts_in_time():
                abandon_portaudio(self._callback)
                return
        else:
            self._stream.abort(ignore_errors=True)
        self._stream.close(ignore_errors=True)

    def _aborts_in_time(self) -> bool:
        """Abort a JACK stream; after a suspend, PortAudio may block in it for ten minutes."""
        stopping = threading.Thread(
            target=self._stream.abort, kwargs={"ignore_errors": True}, daemon=True
        )
        stopping.start()
        stopping.join(_ABORT_TIMEOUT_S)
        return not stopping.is_alive()


def _direction(
    capture: Device | None, playback: Device | None, channels: tuple[int, int]
) -> tuple[str, int | tuple[int, int], int | tuple[int, int]]:
    if capture and playback:
        return "duplex", (capture.portaudio_index, playback.portaudio_index), channels
    if capture:
        return "input", capture.portaudio_index, channels[0]
    assert playback, "a stream has a device"
    return "output", playback.portaudio_index, channels[1]


def _why_not(name: str, error: Exception, sample_rate: int) -> str:
    code = error.args[1] if len(error.args) > 1 else None
    if code == _RATE_UNKNOWN:
        return f"{name} doesn't support {sample_rate} Hz; see rtmtass devices, then add --rate"
    if code == _UNAVAILABLE:
        return f"{name} is in use by another program; close that, or choose another device"
    return f"{name} can't be opened: {error.args[0] if error.args else error}; try rtmtass doctor"
