"""The pages that are connected: each gets the newest state at its own pace, and sends messages.

A page that reads slowly, or not at all, delays nobody: for it states are replaced by newer ones,
and of the pictures the oldest are dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from aiohttp import WSCloseCode, WSMsgType, web

from rtmtass.live.messages import LONGEST, Message, MessageError, parse_message
from rtmtass.types import Bytes
from rtmtass.web.pictures import encode_picture

_MOST_COLUMNS = 256
"""Bytes that wait for a page: some seconds."""
_MOST_PROBLEMS = 50
_PING_S, _CLOSE_S = 20.0, 0.5


class Viewers:
    """All connected pages.

    Args:
        stems: that messages may name.
        state: returns the present state, for a page that connects.
        handle: obeys a message; returns why it is refused, or nothing.
    """

    def __init__(
        self,
        stems: tuple[str, ...],
        state: Callable[[], dict[str, Any]],
        handle: Callable[[Message], str],
    ) -> None:
        self._stems, self._state, self._handle = stems, state, handle
        self._viewers: set[_Viewer] = set()

    def show_state(self, state: dict[str, Any]) -> None:
        """Show a state on every page."""
        if self._viewers:
            text = _state_text(state)
            for viewer in self._viewers:
                viewer.show_state(text)

    def show_columns(self, columns: Bytes) -> None:
        """Show pictures on every page."""
        for viewer in self._viewers:
            viewer.show_columns(columns)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Serve a WebSocket until its page or the server closes it."""
        socket = web.WebSocketResponse(max_msg_size=LONGEST, heartbeat=_PING_S, compress=False)
        await socket.prepare(request)
        viewer = _Viewer(socket)
        viewer.show_state(_state_text(self._state()))
        self._viewers.add(viewer)
        sending = asyncio.create_task(viewer.send())
        try:
            async for message in socket:
                if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                    viewer.show_problem(self._obey(message.type, message.data))
        finally:
            self._viewers.discard(viewer)
            sending.cancel()
        return socket

    def _obey(self, kind: WSMsgType, data: Any) -> str:
        if kind != WSMsgType.TEXT:
            return 'a message is a text with a JSON object, as in {"do": "stop"}, not binary'
        try:
            return self._handle(parse_message(data, self._stems))
        except MessageError as error:
            return str(error)

    async def close(self) -> None:
        """Close all connections; those of pages that don't read are left to the server's end."""
        closing = [
            asyncio.create_task(
                viewer.socket.close(code=WSCloseCode.GOING_AWAY, message=b"the server has ended")
            )
            for viewer in self._viewers
        ]
        if closing:
            await asyncio.wait(closing, timeout=_CLOSE_S)


class _Viewer:
    """One page; what waits for it is bounded."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self.socket = socket
        self._state: str | None = None
        self._columns: deque[Bytes] = deque()
        self._n_columns = 0
        self._problems: deque[str] = deque(maxlen=_MOST_PROBLEMS)
        self._has_news = asyncio.Event()

    def show_state(self, text: str) -> None:
        self._state = text
        self._has_news.set()

    def show_columns(self, columns: Bytes) -> None:
        self._columns.append(columns)
        self._n_columns += len(columns)
        while self._n_columns > _MOST_COLUMNS:
            self._n_columns -= len(self._columns.popleft())
        self._has_news.set()

    def show_problem(self, text: str) -> None:
        if text:
            self._problems.append(json.dumps({"kind": "problem", "text": text}))
            self._has_news.set()

    async def send(self) -> None:
        """Send what there is, again and again; waits while the page doesn't read."""
        with contextlib.suppress(ConnectionError):
            while True:
                await self._has_news.wait()
                self._has_news.clear()
                while self._problems:
                    await self.socket.send_str(self._problems.popleft())
                state, self._state = self._state, None
                if state:
                    await self.socket.send_str(state)
                if self._columns:
                    columns = np.concatenate(self._columns)
                    self._columns.clear()
                    self._n_columns = 0
                    await self.socket.send_bytes(encode_picture(columns))


def _state_text(state: dict[str, Any]) -> str:
    return json.dumps({"kind": "state", **state})
