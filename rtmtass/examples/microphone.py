"""Microphone to loudspeaker, with music lowered by 20 dB and noise muted.

python -m rtmtass.examples.microphone 10      (seconds; wear headphones)
"""

from __future__ import annotations

import sys

import rtmtass
from rtmtass.errors import RtmtassError
from rtmtass.live import DeviceIO, Engine, Mixer, StreamRequest


def main(seconds: float = 10.0) -> None:
    """Run the default devices for `seconds`, then print latency and lost samples."""
    separator = rtmtass.load(block=256)  # whole hops: the smallest delay
    gains = {"speech": 0.0, "music": -20.0, "noise": -float("inf")}
    mixer = Mixer(separator.stems, separator.sample_rate, gains_db=gains)
    # StreamRequest(input="scarlett") picks a device by name; see `rtmtass devices`.
    devices = DeviceIO(StreamRequest(), separator, on_message=print)
    with Engine(separator, devices, devices, mixer=mixer, on_event=print) as engine:
        engine.wait(seconds)
        stats = engine.stats()
    print(
        f"{stats.seconds:.1f} s, latency {stats.device.latency.total_ms:.1f} ms,"
        f" step p99 {stats.steps.p99_ms:.2f} ms, deadline misses {stats.deadline_misses},"
        f" overruns {stats.device.overruns}, underruns {stats.device.underruns}"
    )


if __name__ == "__main__":
    try:
        main(*map(float, sys.argv[1:]))
    except RtmtassError as error:  # such as: this system has no input device
        sys.exit(str(error))
