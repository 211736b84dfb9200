"""Measures the true latency: a chirp goes out, and how late it comes back in is counted."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rtmtass.errors import DeviceError
from rtmtass.live.devices.device_io import DeviceIO
from rtmtass.live.devices.stream_config import StreamRequest
from rtmtass.live.engine import Engine
from rtmtass.live.stats import DeviceStats
from rtmtass.live.worker import LiveSeparator

Floats = NDArray[np.float32]

CHIRP_S = 0.25
LEVEL = 0.3
_SETTLE_S = 0.6
_LISTEN_S = 1.4
_ECHO = 0.5
_BAND_HZ = 300.0, 6000.0
_CLEAR = 8.0
"""How far a peak must stand out of the rest of the correlation to be believed."""


@dataclass(frozen=True)
class RoundTrip:
    """From loudspeaker to microphone, and what the engine adds on the way, in samples.

    Attributes:
        without: of the devices and cables alone.
        with_engine: from microphone through the engine and loudspeaker back to it.
        reported: what the engine says of itself.
        sample_rate: of these samples, in Hz.
    """

    without: int
    with_engine: int
    reported: int
    sample_rate: int

    @property
    def ours(self) -> int:
        """What the engine really adds."""
        return self.with_engine - self.without


def chirp(sample_rate: int) -> Floats:
    """Return (n,), a sweep with soft ends; its correlation with itself is a sharp peak."""
    t = np.arange(round(CHIRP_S * sample_rate)) / sample_rate
    low, high = _BAND_HZ
    phase = 2 * np.pi * (low * t + (high - low) / (2 * CHIRP_S) * t**2)
    sweep: Floats = (LEVEL * np.hanning(len(t)) * np.sin(phase)).astype(np.float32)
    return sweep


def find(sweep: Floats, heard: Floats, after: int = 0) -> int | None:
    """Return where `sweep` begins in `heard`, or None if it isn't clearly there.

    Args:
        sweep: (n,).
        heard: (m,), m > n.
        after: look no earlier than here.
    """
    n_fft = 1 << (len(heard) + len(sweep)).bit_length()
    spec = np.fft.rfft(heard, n_fft) * np.conj(np.fft.rfft(sweep, n_fft))
    match = np.fft.irfft(spec, n_fft)[after : len(heard) - len(sweep) + 1]
    if not len(match):
        return None
    size = np.abs(match)
    best = int(np.argmax(size))
    # Less than a thousandth of the chirp's own energy is no chirp, whatever stands out.
    if size[best] < _CLEAR * np.median(size) or size[best] < 1e-3 * float(np.dot(sweep, sweep)):
        return None
    return best + after


class _Probe:
    """A link as the engine sees it, with chirps on the way out and a memory of the way in.

    Until the second chirp nothing else goes out; from then on also, at half its
    level, what the engine makes of what comes in.
    """

    def __init__(self, link: DeviceIO, sweep: Floats) -> None:
        self._link, self._sweep = link, sweep
        self.sample_rate, self.channels = link.sample_rate, link.channels
        self.discontinuities = 0
        self._heard: list[Floats] = []
        self._n_written = 0
        first = round(_SETTLE_S * link.sample_rate)
        self.starts = first, first + round(_LISTEN_S * link.sample_rate)

    def read(self, out: Floats) -> int:
        """See Source."""
        n = self._link.read(out)
        self._heard.append(out[:n].mean(axis=1))
        return n

    def write(self, stems: Floats) -> None:
        """See Sink."""
        is_echoing = self._n_written >= self.starts[1]
        block = stems * np.float32(_ECHO if is_echoing else 0.0)
        n = block.shape[1]
        for start in self.starts:
            first = max(0, start - self._n_written)
            last = min(n, start + len(self._sweep) - self._n_written)
            if first < last:
                at = self._n_written - start
                block[0, first:last] += self._sweep[at + first : at + last, None]
        self._n_written += n
        self._link.write(block)

    def heard(self) -> Floats:
        """Return all that came in, (n,)."""
        return np.concatenate(self._heard)

    def deadline_s(self) -> float:
        """See RealtimeEndpoint."""
        return self._link.deadline_s()

    def device_stats(self) -> DeviceStats:
        """See RealtimeEndpoint."""
        return self._link.device_stats()

    def close(self) -> None:
        """See Source."""
        self._link.close()


def measure(request: StreamRequest, separator: LiveSeparator) -> RoundTrip:
    """Play a chirp twice: without the engine's own sound, then with it.

    The output must reach the input: a cable, a loopback device, or air.

    Raises:
        DeviceError: the chirp doesn't come back.
    """
    link = DeviceIO(request, separator)
    rate, sweep = link.sample_rate, chirp(link.sample_rate)
    probe = _Probe(link, sweep)
    with Engine(separator, probe, probe, is_realtime=True) as engine:
        until = time.monotonic() + _SETTLE_S + 2 * _LISTEN_S
        while engine.is_running and time.monotonic() < until:
            time.sleep(0.05)
    heard = probe.heard()
    shape = link.wire.shape
    buffers = round(link.wire.fill * rate / shape.rates[1])
    alone = find(sweep, heard[: probe.starts[1]], probe.starts[0])
    if alone is None:
        raise DeviceError(
            f"the chirp played on {shape.playback} was not heard on {shape.capture}; connect"
            " output to input with a cable, choose a loopback device, or raise the volume"
        )
    arrived = find(sweep, heard, probe.starts[1])
    again = None
    if arrived is not None:
        # Without the chirp itself, the loudest is what the engine made of it.
        span = slice(arrived, arrived + len(sweep))
        heard[span] -= np.dot(heard[span], sweep) / np.dot(sweep, sweep) * sweep
        again = find(sweep, heard, arrived + separator.delay)
    if arrived is None or again is None:
        raise DeviceError(
            "the chirp came back, but not through the engine; raise the volume of the output,"
            " or keep more quiet"
        )
    without = alone - probe.starts[0] - buffers
    return RoundTrip(without, again - arrived, buffers + separator.delay, rate)
