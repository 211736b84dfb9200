"""Live sound: devices in and out, an engine between them that is never late, your mix of it.

from rtmtass.live import DeviceIO, Engine, StreamRequest, Mixer
separator = rtmtass.load(block=256)
link = DeviceIO(StreamRequest(input="scarlett"), separator)
mixer = Mixer(separator.stems, separator.sample_rate, gains_db={"noise": -20})
with Engine(separator, link, link, mixer=mixer) as engine:
...
engine.stats()
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
    from rtmtass.live.mixer import Mixer
    from rtmtass.live.recorder import TakeRecorder
    from rtmtass.live.sources import PacedSource
    from rtmtass.live.stats import Stats

__all__ = [
    "ArraySink",
    "ArraySource",
    "DeviceIO",
    "Engine",
    "Mixer",
    "PacedSource",
    "Stats",
    "StreamRequest",
    "TakeRecorder",
    "UdpSink",
    "UdpSource",
]

_ROOMS = {
    "ArraySink": "rtmtass.io.arrays",
    "ArraySource": "rtmtass.io.arrays",
    "DeviceIO": "rtmtass.live.devices.device_io",
    "Engine": "rtmtass.live.engine",
    "StreamRequest": "rtmtass.live.devices.stream_config",
    "Mixer": "rtmtass.live.mixer",
    "PacedSource": "rtmtass.live.sources",
    "Stats": "rtmtass.live.stats",
    "TakeRecorder": "rtmtass.live.recorder",
    "UdpSink": "rtmtass.io.udp",
    "UdpSource": "rtmtass.io.udp",
}


def __getattr__(name: str) -> Any:
    # The display's process imports a room of this package, and needs no compiler for that.
    if name not in _ROOMS:
        raise AttributeError(f"module 'rtmtass.live' has no attribute {name!r}")
    return getattr(import_module(_ROOMS[name]), name)
