"""Measures the round-trip latency with a chirp, with and without the engine."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from rtmtass.errors import DeviceError
from rtmtass.live.devices.device_io import DeviceIO
from rtmtass.live.devices.stream_config import StreamRequest
from rtmtass.live.engine import Engine
from rtmtass.live.stats import DeviceStats
from rtmtass.live.worker import LiveSeparator
from rtmtass.types import Floats

CHIRP_S = 0.25
LEVEL = 0.3
_SETTLE_S = 0.6
_LISTEN_S = 1.4
_ECHO = 0.5
_BAND_HZ = 300.0, 6000.0
_CLEAR = 8.0
"""Least ratio of the correlation's peak to its median for a detection."""


@dataclass(frozen=True)
class RoundTrip:
    """Round-trip latencies in samples.

    Attributes:
        without: devices and cable alone, from output to input.
        with_engine: from input through the engine and the output back to the input.
        reported: the engine's own latency as it reports it.
        buffers: the engine's buffers, included in `with_engine` and `reported`.
        sample_rate: of these samples, in Hz.
    """

    without: int
    with_engine: int
    reported: int
    buffers: int
    sample_rate: int

    @property
    def unbuffered_ms(self) -> float:
        """`with_engine` without the buffers, in ms; another stream's may have grown or not."""
        return 1000 * (self.with_engine - self.buffers) / self.sample_rate

    @property
    def engine(self) -> int:
        """The engine's own latency as measured."""
        return self.with_engine - self.without


def chirp(sample_rate: int) -> Floats:
    """Return (n,), a Hann-windowed linear sweep, whose autocorrelation is a sharp peak."""
    t = np.arange(round(CHIRP_S * sample_rate)) / sample_rate
    low, high = _BAND_HZ
    phase = 2 * np.pi * (low * t + (high - low) / (2 * CHIRP_S) * t**2)
    sweep: Floats = (LEVEL * np.hanning(len(t)) * np.sin(phase)).astype(np.float32)
    return sweep


def find(sweep: Floats, recording: Floats, after: int = 0) -> int | None:
    """Return where `sweep` begins in `recording`, or None if it isn't clearly there.

    Args:
        sweep: (n,).
        recording: (m,), m > n.
        after: first offset to search.
    """
    n_fft = 1 << (len(recording) + len(sweep)).bit_length()
    spec = np.fft.rfft(recording, n_fft) * np.conj(np.fft.rfft(sweep, n_fft))
    match = np.fft.irfft(spec, n_fft)[after : len(recording) - len(sweep) + 1]
    if not len(match):
        return None
    size = np.abs(match)
    best = int(np.argmax(size))
    # Below a thousandth of the chirp's energy it isn't the chirp, however clear the peak.
    if size[best] < _CLEAR * np.median(size) or size[best] < 1e-3 * float(np.dot(sweep, sweep)):
        return None
    return best + after


class _Probe:
    """Wraps a DeviceIO: plays chirps, and records the input.

    Before the second chirp only chirps are played; from then on also the engine's output, at
    half its level.
    """

    def __init__(self, devices: DeviceIO, sweep: Floats) -> None:
        self._devices, self._sweep = devices, sweep
        self.sample_rate, self.channels = devices.sample_rate, devices.channels
        self.discontinuities = 0
        self._blocks: list[Floats] = []
        self._n_written = 0
        first = round(_SETTLE_S * devices.sample_rate)
        self.starts = first, first + round(_LISTEN_S * devices.sample_rate)
        self.fill = 0  # of the playback buffer when the second chirp begins

    def read(self, out: Floats) -> int:
        """See Source."""
        n = self._devices.read(out)
        self._blocks.append(out[:n].mean(axis=1))
        return n

    def write(self, stems: Floats) -> None:
        """See Sink."""
        is_echoing = self._n_written >= self.starts[1]
        block = stems * np.float32(_ECHO if is_echoing else 0.0)
        n = block.shape[1]
        if self._n_written <= self.starts[1] < self._n_written + n:
            self.fill = self._devices.connection.fill
        for start in self.starts:
            first = max(0, start - self._n_written)
            last = min(n, start + len(self._sweep) - self._n_written)
            if first < last:
                offset = self._n_written - start
                block[0, first:last] += self._sweep[offset + first : offset + last, None]
        self._n_written += n
        self._devices.write(block)

    def recording(self) -> Floats:
        """Return the whole input so far, (n,)."""
        return np.concatenate(self._blocks)

    def deadline_s(self) -> float:
        """See RealtimeEndpoint."""
        return self._devices.deadline_s()

    def device_stats(self) -> DeviceStats:
        """See RealtimeEndpoint."""
        return self._devices.device_stats()

    def close(self) -> None:
        """See Source."""
        self._devices.close()


def measure(request: StreamRequest, separator: LiveSeparator) -> RoundTrip:
    """Play a chirp twice: first alone, then with the engine's output.

    The output must reach the input: by a cable, a loopback device, or air.

    Raises:
        DeviceError: the chirp isn't found in the input.
    """
    devices = DeviceIO(request, separator)
    rate, sweep = devices.sample_rate, chirp(devices.sample_rate)
    probe = _Probe(devices, sweep)
    with Engine(separator, probe, probe, is_realtime=True) as engine:
        until = time.monotonic() + _SETTLE_S + 2 * _LISTEN_S
        while engine.is_running and time.monotonic() < until:
            time.sleep(0.05)
    recording, config = probe.recording(), devices.connection.config
    buffers = round(probe.fill * rate / config.rates[1])
    if find(sweep, recording[: probe.starts[1]], probe.starts[0]) is None:
        raise DeviceError(
            f"the chirp played on {config.playback} didn't arrive on {config.capture}; connect"
            " output to input with a cable, choose a loopback device, or raise the volume"
        )
    arrived = find(sweep, recording, probe.starts[1])
    again = None
    if arrived is not None:
        # With the chirp itself removed, the next peak is the engine's output of it.
        span = slice(arrived, arrived + len(sweep))
        recording[span] -= np.dot(recording[span], sweep) / np.dot(sweep, sweep) * sweep
        again = find(sweep, recording, arrived + engine.delay)
    if arrived is None or again is None:
        raise DeviceError(
            "the chirp arrived, but not through the engine; raise the volume of the output, or"
            " measure in a quieter place"
        )
    without = arrived - probe.starts[1] - buffers
    return RoundTrip(without, again - arrived, buffers + engine.delay, buffers, rate)
