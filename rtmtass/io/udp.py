"""Audio over UDP: datagrams of raw float32 samples, received and sent."""

from __future__ import annotations

import socket

import numpy as np

from rtmtass.errors import InputError, OutputError
from rtmtass.types import Samples

_MAX_DATAGRAM = 65536
"""Bytes; more than any UDP datagram."""

_FRAMES_PER_DATAGRAM = 256

_POLL_S = 0.2


class UdpSource:
    """Receives interleaved little-endian float32, whole frames in each datagram.

    An empty datagram ends the stream.

    Args:
        host, port: to listen on; with port 0 the system chooses one, see `port`.
        sample_rate: in Hz.
        channels: interleaved channels.

    Attributes:
        port: that it listens on.

    Raises:
        InputError: the port is in use or not permitted.
    """

    def __init__(self, host: str, port: int, sample_rate: int, channels: int = 1) -> None:
        self.sample_rate, self.channels = sample_rate, channels
        self._unread = np.zeros((0, channels), np.float32)
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

    def read(self, out: Samples) -> int:
        """See `Source`; blocks until a datagram arrives.

        Raises:
            InputError: a datagram contains NaN or Inf.
        """
        while not len(self._unread):
            if self._is_closed:
                return 0
            try:
                data = self._socket.recv(_MAX_DATAGRAM)
            except TimeoutError:
                continue
            except OSError:
                return 0  # closed during the wait
            if not data:
                return 0
            n_bytes = len(data) // (4 * self.channels) * 4 * self.channels
            self._unread = np.frombuffer(data[:n_bytes], "<f4").reshape(-1, self.channels)
        n = min(len(out), len(self._unread))
        out[:n] = self._unread[:n]
        self._unread = self._unread[n:]
        if not np.isfinite(out[:n]).all():
            raise InputError(
                f"a datagram on port {self.port} contains NaN or Inf; send finite float32 samples"
            )
        return n

    def close(self) -> None:
        """See `Source`."""
        self._is_closed = True
        self._socket.close()


class UdpSink:
    """Sends the channels of all stems as interleaved float32, and an empty datagram at the end."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._is_closed = False

    def write(self, stems: Samples) -> None:
        """See `Sink`.

        Raises:
            OutputError: the host is unreachable.
        """
        n_stems, n, channels = stems.shape
        frames = stems.transpose(1, 0, 2).reshape(n, n_stems * channels)
        for start in range(0, n, _FRAMES_PER_DATAGRAM):
            self._send(frames[start : start + _FRAMES_PER_DATAGRAM].astype("<f4").tobytes())

    def close(self) -> None:
        """See `Sink`."""
        if not self._is_closed:
            self._is_closed = True
            self._send(b"")
            self._socket.close()

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendto(data, self._address)
        except ConnectionRefusedError:
            pass  # no listener yet; a live stream doesn't wait for one
        except OSError as error:
            host, port = self._address
            raise OutputError(
                f"can't send to UDP {host}:{port}: {error.strerror}; check host and network"
            ) from error
