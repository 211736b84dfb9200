"""Receive mono float32 samples over UDP, send the three stems back interleaved.

python -m rtmtass.examples.udp 9000 9001      (receive on 9000, send to 9001)

Datagrams hold little-endian float32 at 16 kHz. An empty one ends the stream.
"""

from __future__ import annotations

import sys

import rtmtass
from rtmtass.live import Engine, Mixer, UdpSink, UdpSource

HOST = "127.0.0.1"


def main(receive_port: int = 9000, send_port: int = 9001) -> None:
    """Separate until an empty datagram arrives."""
    separator = rtmtass.load(block=256)
    source = UdpSource(HOST, receive_port, separator.sample_rate)
    sink = UdpSink(HOST, send_port)
    # is_split: the sink gets the stems, not a mix of them.
    mixer = Mixer(separator.stems, separator.sample_rate, is_split=True)
    print(f"UDP {HOST}:{source.port} -> {HOST}:{send_port}", flush=True)
    with Engine(separator, source, sink, mixer=mixer, on_event=print) as engine:
        engine.wait()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
