"""Live separation: devices, files and sockets in and out, an engine between, a mixer.

    import rtmtass
    from rtmtass.live import DeviceIO, Engine, Mixer, StreamRequest
    from rtmtass.weights import hop_of

    separator = rtmtass.load(block=hop_of())  # blocks of whole hops: the smallest delay
    devices = DeviceIO(StreamRequest(input="scarlett"), separator)
    mixer = Mixer(separator.stems, separator.sample_rate, gains_db={"noise": -20})
    with Engine(separator, devices, devices, mixer=mixer) as engine:
        while not engine.wait(1.0):
            print(engine.stats().levels)

The input and the output device go into one `DeviceIO`, passed as source and as sink, so
that devices that share a clock are one stream.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rtmtass.io.arrays import ArraySink, ArraySource
    from rtmtass.io.udp import UdpSink, UdpSource
    from rtmtass.live.devices.device_io import DeviceIO
    from rtmtass.live.devices.stream_config import StreamRequest
    from rtmtass.live.engine import Engine
    from rtmtass.live.full_band import HopSchedule
    from rtmtass.live.mixer import Mixer
    from rtmtass.live.recorder import TakeRecorder
    from rtmtass.live.sources import PacedSource
    from rtmtass.live.stats import Stats

__all__ = [
    "ArraySink",
    "ArraySource",
    "DeviceIO",
    "Engine",
    "HopSchedule",
    "Mixer",
    "PacedSource",
    "Stats",
    "StreamRequest",
    "TakeRecorder",
    "UdpSink",
    "UdpSource",
]

_MODULES = {
    "ArraySink": "rtmtass.io.arrays",
    "ArraySource": "rtmtass.io.arrays",
    "DeviceIO": "rtmtass.live.devices.device_io",
    "Engine": "rtmtass.live.engine",
    "HopSchedule": "rtmtass.live.full_band",
    "StreamRequest": "rtmtass.live.devices.stream_config",
    "Mixer": "rtmtass.live.mixer",
    "PacedSource": "rtmtass.live.sources",
    "Stats": "rtmtass.live.stats",
    "TakeRecorder": "rtmtass.live.recorder",
    "UdpSink": "rtmtass.io.udp",
    "UdpSource": "rtmtass.io.udp",
}


def __getattr__(name: str) -> Any:
    # Lazy: the display's process imports modules of this package without starting numba.
    if name not in _MODULES:
        raise AttributeError(f"module 'rtmtass.live' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
