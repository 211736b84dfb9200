"""Sound over UDP: raw float32 datagrams in and out."""

from __future__ import annotations

import socket

import numpy as np
from numpy.typing import NDArray

from rtmtass.errors import InputError, OutputError

Floats = NDArray[np.float32]


_DATAGRAM = 65536


_FRAMES_PER_DATAGRAM = 256


_POLL_S = 0.2


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
