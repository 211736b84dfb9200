"""An open stream of a device or two; it calls a compiled callback and nothing else."""

from __future__ import annotations

import threading
from contextlib import nullcontext

from rtmtass.errors import DeviceError
from rtmtass.live.devices.callback import DeviceCallback
from rtmtass.live.devices.listing import JACK, Device
from rtmtass.live.devices.portaudio import abandon_portaudio, portaudio
from rtmtass.live.os_priority import ordinary_priority

_RATE_UNKNOWN, _UNAVAILABLE = -9997, -9985  # paInvalidSampleRate, paDeviceUnavailable

_PATIENCE_S = 2.0
"""How long stopping a stream may take."""


class DeviceStream:
    """An open stream: a device calls a compiled callback.

    Args:
        capture: to capture from, or None.
        playback: to play on, or None.
        channels: of each, as opened.
        sample_rate: in Hz.
        block: samples a call.
        callback: what is called.

    Attributes:
        is_jack: it belongs to a JACK server. Such a stream isn't to be closed while the server
            doesn't answer: PortAudio would wait for it, and die with it.

    Raises:
        DeviceError: the device is in use, gone, or doesn't take this.
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
        self._callback = callback  # its memory is in use as long as this stream is open
        kind, device, count = _direction(capture, playback, channels)
        self.is_jack = any(device and device.host == JACK for device in (capture, playback))
        self._is_hardware = all("(hw:" in d.name for d in (capture, playback) if d)
        self._has_started = False
        self._name = " and ".join(str(d) for d in dict.fromkeys((capture, playback)) if d)
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
        # PortAudio's thread for ALSA inherits this one's priority. A card's own device may have
        # it; what stands for a sound server mustn't, or on one core that server never gets to run.
        may_inherit = self._is_hardware or self.is_jack
        try:
            with nullcontext() if may_inherit else ordinary_priority():
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

    def close(self, *, is_silent: bool = False) -> None:
        """Stop at once and let go; never raises.

        Args:
            is_silent: the device hasn't called for long.
        """
        if self.is_jack and self._has_started:
            if is_silent or not self.is_active or not self._aborts_in_time():
                abandon_portaudio(self._callback)
                return
        else:
            self._stream.abort(ignore_errors=True)
        self._stream.close(ignore_errors=True)

    def _aborts_in_time(self) -> bool:
        """Stop a JACK stream; after its process slept, PortAudio would wait for ten minutes."""
        stopping = threading.Thread(
            target=self._stream.abort, kwargs={"ignore_errors": True}, daemon=True
        )
        stopping.start()
        stopping.join(_PATIENCE_S)
        return not stopping.is_alive()


def _direction(
    capture: Device | None, playback: Device | None, channels: tuple[int, int]
) -> tuple[str, int | tuple[int, int], int | tuple[int, int]]:
    if capture and playback:
        return "duplex", (capture.index, playback.index), channels
    if capture:
        return "input", capture.index, channels[0]
    assert playback, "a stream has a device"
    return "output", playback.index, channels[1]


def _why_not(name: str, error: Exception, sample_rate: int) -> str:
    code = error.args[1] if len(error.args) > 1 else None
    if code == _RATE_UNKNOWN:
        return f"{name} doesn't take {sample_rate} Hz; see rtmtass devices, then add --rate"
    if code == _UNAVAILABLE:
        return f"{name} is in use by another program; close that, or choose another device"
    return f"{name} can't be opened: {error.args[0] if error.args else error}; try rtmtass doctor"
