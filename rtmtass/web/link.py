"""The server's end of its connection to the engine: threads that read and write, never the loop."""

from __future__ import annotations

import contextlib
import json
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from rtmtass.live.snapshot import STEMS_MARK
from rtmtass.types import Bytes
from rtmtass.web.pictures import Pictures

_LONGEST_FRAME = 4_000_000
_MOST_WAITING = 500
"""Messages that wait for an engine which doesn't read."""


@dataclass(frozen=True)
class Hello:
    """What the engine sends first.

    Attributes:
        stems: names.
        channels: of each.
        sample_rate: of the model, in Hz.
        hop: of the model, in samples.
        more: further values, of an engine that has started this server.
    """

    stems: tuple[str, ...]
    channels: int
    sample_rate: int
    hop: int
    more: dict[str, Any]


def read_hello(connection: Connection) -> Hello:
    """Read the engine's first frame.

    Raises:
        OSError, EOFError: the engine has ended.
    """
    values = json.loads(connection.recv_bytes(_LONGEST_FRAME))
    return Hello(
        tuple(values.pop("stems")), values.pop("channels"), values.pop("sample_rate"),
        values.pop("hop"), values,
    )  # fmt: skip


class EngineLink:
    """Receives snapshots and stems of a running engine, and sends it messages.

    Args:
        connection: to the engine.
        hello: its first frame.
        on_snapshot: called with each snapshot, from the thread that calls `read`.
        on_columns: called with pictures of the stems, likewise.
    """

    def __init__(
        self,
        connection: Connection,
        hello: Hello,
        *,
        on_snapshot: Callable[[dict[str, Any]], None],
        on_columns: Callable[[Bytes], None],
    ) -> None:
        self._connection = connection
        self._n_columns = len(hello.stems) * hello.channels
        self._pictures = Pictures(len(hello.stems), hello.channels, hello.sample_rate, hello.hop)
        self._on_snapshot, self._on_columns = on_snapshot, on_columns
        self._waiting: queue.Queue[bytes | None] = queue.Queue(_MOST_WAITING)
        self._writer = threading.Thread(target=self._write, name="rtmtass-write", daemon=True)
        self._writer.start()

    def send(self, text: str) -> bool:
        """Send a message without waiting; return whether there was room for it."""
        try:
            self._waiting.put_nowait(text.encode())
        except queue.Full:
            return False
        return True

    def read(self) -> None:
        """Read until the engine disconnects."""
        with contextlib.suppress(OSError, EOFError):
            while True:
                frame = self._connection.recv_bytes(_LONGEST_FRAME)
                if frame.startswith(STEMS_MARK):
                    stems = np.frombuffer(frame, np.float32, offset=len(STEMS_MARK))
                    self._on_columns(self._pictures.add(stems.reshape(-1, self._n_columns)))
                else:
                    self._on_snapshot(json.loads(frame))
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(None)

    def _write(self) -> None:
        with contextlib.suppress(OSError):
            while (message := self._waiting.get()) is not None:
                self._connection.send_bytes(message)


def send_opening(connection: Connection, texts: Sequence[str]) -> None:
    """Send the messages that an engine applies before its stream begins.

    Raises:
        OSError: the engine has ended.
    """
    connection.send_bytes(json.dumps(list(texts)).encode())
