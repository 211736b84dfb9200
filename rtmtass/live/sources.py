"""Where live sound comes from and goes to besides devices: paced files, arrays, UDP."""

from __future__ import annotations

import socket
import time

import numpy as np
from numpy.typing import NDArray

from rtmtass.audio import Source
from rtmtass.dsp.convert import Converter
from rtmtass.errors import InputError, OutputError
from rtmtass.live.stats import DeviceStats

Floats = NDArray[np.float32]

_DATAGRAM = 65536
_FRAMES_PER_DATAGRAM = 256
_POLL_S = 0.2


class ConvertedSource:
    """A source at another rate, converted with little delay."""

    def __init__(self, source: Source, sample_rate: int, block: int = 256) -> None:
        self._source = source
        self.sample_rate, self.channels = sample_rate, source.channels
        self._given = np.zeros((block, source.channels), np.float32)
        self._converter = Converter(source.sample_rate, sample_rate, source.channels, block)
        self._ready = np.zeros((self._converter.room, source.channels), np.float32)
        self._span = 0, 0
        self._tail = self._converter.wait

    def read(self, out: Floats) -> int:
        """See Source."""
        while self._span[0] == self._span[1]:
            n = self._source.read(self._given)
            if not n:  # push the last samples through the filter
                n = min(self._tail, len(self._given))
                self._tail -= n
                self._given[:n] = 0
            if not n:
                return 0
            self._span = 0, self._converter.process(self._given[:n], self._ready)
        start, end = self._span
        n = min(len(out), end - start)
        out[:n] = self._ready[start : start + n]
        self._span = start + n, end
        return n

    def close(self) -> None:
        """See Source."""
        self._source.close()


class PacedSource:
    """A source handed over at the pace of real time, so that a file stands in for a microphone.

    Args:
        source: anything that is always ready.
        slack_s: by how much stems may be late before the input is heard instead.
    """

    def __init__(self, source: Source, *, slack_s: float = 0.0) -> None:
        self._source = source
        self.sample_rate, self.channels = source.sample_rate, source.channels
        self.gaps = 0
        self._slack_s = slack_s
        self._n_read = 0
        self._started: float | None = None

    def read(self, out: Floats) -> int:
        """See Source; waits until the last sample would have been heard."""
        if self._started is None:
            self._started = time.monotonic()
        n = self._source.read(out)
        self._n_read += n
        left_s = self._started + self._n_read / self.sample_rate - time.monotonic()
        if left_s > 0:
            time.sleep(left_s)
        return n

    def deadline_s(self) -> float:
        """See Clocked: when the next hop, as long as a default one, has come."""
        assert self._started is not None, "read first"
        return self._started + (self._n_read + 256) / self.sample_rate + self._slack_s

    def device_stats(self) -> DeviceStats:
        """See Clocked."""
        return DeviceStats()

    def close(self) -> None:
        """See Source."""
        self._source.close()


class ArraySink:
    """A sink that keeps everything; `samples()` is (R, N, C)."""

    def __init__(self) -> None:
        self._blocks: list[Floats] = []
        self.is_closed = False

    def write(self, stems: Floats) -> None:
        """See Sink."""
        self._blocks.append(stems.copy())

    def close(self) -> None:
        """See Sink."""
        self.is_closed = True

    def samples(self) -> Floats:
        """Return all that was written."""
        return np.concatenate(self._blocks, axis=1)


class UdpSource:
    """Raw little-endian float32 frames, one or more whole ones a datagram.

    Ends with an empty datagram.

    Args:
        host, port: to listen on; port 0 lets the system choose, see `port`.
        sample_rate: in Hz.
        channels: interleaved.

    Raises:
        InputError: the port is taken, or not ours to take.
    """

    def __init__(self, host: str, port: int, sample_rate: int, channels: int = 1) -> None:
        self.sample_rate, self.channels = sample_rate, channels
        self._rest = np.zeros((0, channels), np.float32)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.settimeout(_POLL_S)
        try:
            self._socket.bind((host, port))
        except OSError as error:
            self._socket.close()
            raise InputError(
                f"can't listen on UDP {host}:{port}: {error.strerror}; choose another port"
            ) from error
        self.port = int(self._socket.getsockname()[1])
        self._is_closed = False

    def read(self, out: Floats) -> int:
        """See Source; waits for a datagram."""
        while not len(self._rest):
            if self._is_closed:
                return 0
            try:
                data = self._socket.recv(_DATAGRAM)
            except TimeoutError:
                continue
            except OSError:
                return 0  # closed while it waited
            if not data:
                return 0
            whole = len(data) // (4 * self.channels) * 4 * self.channels
            self._rest = np.frombuffer(data[:whole], "<f4").reshape(-1, self.channels)
        n = min(len(out), len(self._rest))
        out[:n] = self._rest[:n]
        self._rest = self._rest[n:]
        if not np.isfinite(out[:n]).all():
            raise InputError(f"a datagram on port {self.port} holds samples that are no numbers")
        return n

    def close(self) -> None:
        """See Source."""
        self._is_closed = True
        self._socket.close()


class UdpSink:
    """Sends the rows side by side as interleaved float32, then an empty datagram."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._is_closed = False

    def write(self, stems: Floats) -> None:
        """See Sink.

        Raises:
            OutputError: no way to that host.
        """
        rows, n, channels = stems.shape
        frames = stems.transpose(1, 0, 2).reshape(n, rows * channels)
        for start in range(0, n, _FRAMES_PER_DATAGRAM):
            self._send(frames[start : start + _FRAMES_PER_DATAGRAM].astype("<f4").tobytes())

    def close(self) -> None:
        """See Sink."""
        if not self._is_closed:
            self._is_closed = True
            self._send(b"")
            self._socket.close()

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendto(data, self._address)
        except ConnectionRefusedError:
            pass  # nobody listens yet; sound doesn't wait for it
        except OSError as error:
            host, port = self._address
            raise OutputError(
                f"can't send to UDP {host}:{port}: {error.strerror}; check host and network"
            ) from error
