"""Audio over UDP: datagrams of raw float32 samples, received and sent."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from rtmtass.amplitude import first_damaged
from rtmtass.errors import InputError, OutputError
from rtmtass.types import Samples

_MAX_DATAGRAM = 65536
"""Bytes; more than any UDP datagram."""

_FRAMES_PER_DATAGRAM = 256

_POLL_S = 0.2

_SILENT_S = 1.0
"""After this another sender may take over: the first one may have been restarted."""


class UdpSource:
    """Receives interleaved little-endian float32, whole frames in each datagram.

    An empty datagram ends the stream. The stream is that of the sender whose datagram came
    first; another can follow when it ends or falls silent. What others send, and datagrams that
    aren't whole frames, are dropped and counted; NaN, Inf and absurdly large samples of the
    sender itself become a datagram of silence.

    Args:
        host, port: to listen on; with port 0 the system chooses one, see `port`.
        sample_rate: in Hz.
        channels: interleaved channels.
        on_message: called from `read` with a line about the first datagram that was dropped or
            silenced of each kind, and from `close` with their number.

    Attributes:
        port: that it listens on.
        dropped: datagrams dropped so far.
        silenced: datagrams of silence so far.

    Raises:
        InputError: the port is in use or not permitted.
    """

    def __init__(
        self,
        host: str,
        port: int,
        sample_rate: int,
        channels: int = 1,
        on_message: Callable[[str], None] | None = None,
    ) -> None:
        self.sample_rate, self.channels = sample_rate, channels
        self.dropped = self.silenced = 0
        self._on_message = on_message or (lambda _line: None)
        self._reported: set[str] = set()
        self._sender: Any = None
        self._received_s = 0.0
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
        """See `Source`; blocks until a datagram arrives."""
        while not len(self._unread):
            if self._is_closed:
                return 0
            try:
                data, sender = self._socket.recvfrom(_MAX_DATAGRAM)
            except TimeoutError:
                continue
            except ConnectionError:
                continue  # Windows reports that an earlier datagram of ours had no receiver
            except OSError:
                return 0  # closed during the wait
            if not data and sender == self._sender:
                return 0
            self._unread = self._frames(data, sender)
        n = min(len(out), len(self._unread))
        out[:n] = self._unread[:n]
        self._unread = self._unread[n:]
        return n

    def _frames(self, data: bytes, sender: Any) -> Samples:
        """Return the frames of a datagram, (n, C), or none if it doesn't belong to the stream."""
        is_new, now_s = sender != self._sender, time.monotonic()
        nothing = np.zeros((0, self.channels), np.float32)
        frame_bytes = 4 * self.channels
        if is_new and self._sender and now_s - self._received_s < _SILENT_S:
            return self._drop(nothing, sender, "while another sender's stream is received")
        if not data or len(data) % frame_bytes:
            why = f"{len(data)} bytes, where a frame of float32 has {frame_bytes}"
            return self._drop(nothing, sender, why)
        frames = np.frombuffer(data, "<f4").reshape(-1, self.channels)
        if first_damaged(frames) is not None:
            if is_new:
                return self._drop(nothing, sender, "it holds NaN, Inf or no sound")
            self.silenced += 1
            self._report("silenced", "a datagram held NaN, Inf or no sound: silence is used for it")
            frames = np.zeros_like(frames)
        self._sender, self._received_s = sender, now_s
        return frames

    def _drop(self, nothing: Samples, sender: Any, why: str) -> Samples:
        self.dropped += 1
        self._report("dropped", f"a datagram from {sender[0]}:{sender[1]} was dropped: {why}")
        return nothing

    def _report(self, kind: str, message: str) -> None:
        if kind not in self._reported:
            self._reported.add(kind)
            self._on_message(f"{message}; further ones are only counted")

    def close(self) -> None:
        """See `Source`."""
        if not self._is_closed and self.dropped + self.silenced > len(self._reported):
            self._on_message(
                f"UDP port {self.port}: {self.dropped} datagrams dropped, {self.silenced} silenced"
            )
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
