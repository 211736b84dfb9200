"""The engine's end of its connection to a page's server: figures and stems out, messages in.

Nothing here may delay the sound or the end of the stream: a thread sends, and what the server
doesn't take in time is dropped; messages are applied by the thread that watches the stream.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any, Protocol

from rtmtass.errors import DeviceError
from rtmtass.live.linked_process import ENGINE, PAGE, LinkedProcess, connect
from rtmtass.live.messages import LONGEST, MessageError, parse_message
from rtmtass.live.os_priority import OTHER_PRIORITY, request_priority
from rtmtass.live.page_controls import PageControls
from rtmtass.live.snapshot import STEMS_MARK, encode_snapshot
from rtmtass.live.stats import Stats
from rtmtass.live.tap import StemTap

SERVER_MODULE = "rtmtass.web"
_LONGEST_WAIT_S, _JOIN_S, _EXIT_TIMEOUT_S = 0.2, 0.2, 1.5
_MOST_MESSAGES = 100
"""Messages to apply at once, so that a flood of them can't hold up the stream's end."""


class Page(Protocol):
    """A page's server as the watch of a stream uses it."""

    is_needed: bool
    """Whether the stream ends with the server."""
    address: str
    """Of the page; empty until it is known, and where it isn't for this process to show."""

    @property
    def is_alive(self) -> bool:
        """Whether the server is there."""

    def update(self, stats: Stats, controls: PageControls, messages: Sequence[str]) -> None:
        """Send a snapshot, and apply the messages that have come since the last call."""

    def close(self) -> None:
        """Disconnect."""


class PageLink:
    """A connection to a page's server.

    Args:
        connection: to the server, which has got its hello.
        title: of the stream, such as "microphone → speakers".
        stems: names.
        tap: of the engine; this object alone reads it.
        is_needed: the stream ends with the server.
        is_realtime: request `OTHER_PRIORITY` for the sending thread.

    Attributes:
        is_alive: whether the server is there.
    """

    address = ""

    def __init__(
        self,
        connection: Connection,
        title: str,
        stems: Sequence[str],
        tap: StemTap,
        *,
        is_needed: bool,
        is_realtime: bool = True,
    ) -> None:
        self._connection = connection
        self._title, self._stems, self._tap = title, tuple(stems), tap
        self.is_needed, self._is_realtime = is_needed, is_realtime
        self._snapshot: bytes | None = None
        self._has_news = threading.Event()
        self.is_alive, self._is_closing = True, False
        self._sender = threading.Thread(target=self._send, name="rtmtass-page", daemon=True)
        self._sender.start()

    @classmethod
    def to_parent(
        cls, title: str, tap: StemTap, hello: Mapping[str, Any], controls: PageControls
    ) -> PageLink:
        """Connect to the server that started this process, and apply the settings it sends.

        Args:
            title, tap: see above.
            hello: sent first: "stems", "channels", "sample_rate" and "hop" of the tap.
            controls: of the stream, which hasn't begun.

        Raises:
            DeviceError: the server has gone.
        """
        try:
            connection = connect(ENGINE)
            connection.send_bytes(json.dumps(hello).encode())
            texts = json.loads(connection.recv_bytes())
        except (OSError, EOFError) as error:
            raise DeviceError("the page's server has ended; start it again: rtmtass web") from error
        for text in texts:
            controls.apply(parse_message(text, tuple(hello["stems"])))
        return cls(connection, title, hello["stems"], tap, is_needed=True)

    def update(self, stats: Stats, controls: PageControls, messages: Sequence[str]) -> None:
        """Send a snapshot, and apply the messages that have come since the last call."""
        if not self.is_alive:
            return
        self._snapshot = encode_snapshot(stats, controls, self._title, messages)
        self._has_news.set()
        try:
            for _ in range(_MOST_MESSAGES):
                if not self._connection.poll():
                    break
                text = self._connection.recv_bytes(LONGEST).decode("utf-8", "replace")
                with contextlib.suppress(MessageError):
                    controls.apply(parse_message(text, self._stems))
        except (OSError, EOFError):
            self.is_alive = False

    def close(self) -> None:
        """Disconnect; may be called twice.

        A sender that is blocked, by a server that doesn't read, disconnects when it no longer is:
        the number of a closed connection may be another file's by then.
        """
        self._is_closing = True
        self._has_news.set()
        self._sender.join(_JOIN_S)
        if not self._sender.is_alive():
            self._connection.close()

    def _send(self) -> None:
        if self._is_realtime:
            request_priority(OTHER_PRIORITY)
        try:
            while not self._is_closing:
                self._has_news.wait(_LONGEST_WAIT_S)
                self._has_news.clear()
                stems = self._tap.read()
                if len(stems):
                    self._connection.send_bytes(STEMS_MARK + stems.tobytes())
                snapshot, self._snapshot = self._snapshot, None
                if snapshot:
                    self._connection.send_bytes(snapshot)
        except OSError:
            self.is_alive = False
        finally:
            if self._is_closing:
                self._connection.close()


class PageServer:
    """A page's server, started for a stream that goes on without it.

    Args:
        title, tap, is_realtime: see `PageLink`.
        hello: see `PageLink.to_parent`; and the options of `rtmtass.web.__main__`.
        on_event: called with a line when the page can be opened, and when it has ended.

    Attributes:
        is_needed: False.
        address: of the page, once the server listens; else empty.
    """

    is_needed = False

    def __init__(
        self,
        title: str,
        tap: StemTap,
        hello: Mapping[str, Any],
        *,
        on_event: Callable[[str], None],
        is_realtime: bool = True,
    ) -> None:
        self.address = ""
        self._title, self._tap, self._hello = title, tap, hello
        self._on_event, self._is_realtime = on_event, is_realtime
        self._link: PageLink | None = None
        self._why, self._is_reported = "", False
        self._child = LinkedProcess(
            [sys.executable, "-m", SERVER_MODULE], PAGE, on_connect=self._begin,
            on_line=self._note, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip

    @property
    def is_alive(self) -> bool:
        """Whether the server is running."""
        return self._child.is_alive

    def update(self, stats: Stats, controls: PageControls, messages: Sequence[str]) -> None:
        """See `PageLink`."""
        if self._link:
            self._link.update(stats, controls, messages)
        if not self.is_alive and not self._is_reported:
            self._is_reported = True
            why = f": {self._why}" if self._why else ""
            self._on_event(f"the page has ended{why}; the sound goes on")

    def close(self) -> None:
        """End the server; may be called twice."""
        if self._link:
            self._link.close()
        self._child.close(_EXIT_TIMEOUT_S)

    def _begin(self, connection: Connection) -> None:
        with contextlib.suppress(OSError, EOFError):
            connection.send_bytes(json.dumps(self._hello).encode())
            self.address = connection.recv_bytes().decode()
            self._on_event(f"page: {self.address}")
            self._link = PageLink(
                connection, self._title, self._hello["stems"], self._tap, is_needed=False,
                is_realtime=self._is_realtime,
            )  # fmt: skip

    def _note(self, line: str) -> None:
        self._why = line.removeprefix("rtmtass: ")
