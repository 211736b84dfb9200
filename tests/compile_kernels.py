"""Compiles the kernels that most tests call; run before the processes of a test run start.

Each of them would compile what no other has finished: half a minute of work, several times.
"""

from __future__ import annotations

import numpy as np

import rtmtass
from rtmtass.io.arrays import ArraySink, ArraySource
from rtmtass.live.devices.callback import DeviceCallback, device_ring
from rtmtass.live.engine import Engine
from rtmtass.live.mixer import Mixer

RATE = 48000


def main() -> None:
    """Run a second of a live stream at another rate than the model's; make a device's callback."""
    separator = rtmtass.load(block=256)
    source = ArraySource(np.zeros((RATE, 1), np.float32), RATE)
    with Engine(separator, source, ArraySink(), mixer=Mixer(rtmtass.STEMS, RATE)) as engine:
        engine.wait()
    DeviceCallback(device_ring(RATE, 1), device_ring(RATE, 1), 0)


if __name__ == "__main__":
    main()
