"""A WebSocket whose client learns why it was closed, also where aiohttp finds the error."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from aiohttp import WSMessage, WSMsgType, web

from rtmtass.serve.protocol import LONGEST_MESSAGE, Code

BROKEN = 1006
"""Of a connection that ended without a close frame; never sent."""
REASONS = {
    Code.TOO_BIG: f"a message may have {LONGEST_MESSAGE} bytes",
    1002: "the frames aren't those of a WebSocket",
    Code.BAD_DATA: "text must be UTF-8",
}
"""Of the errors that aiohttp finds, by close code."""


class StreamSocket(web.WebSocketResponse):
    """The WebSocket of a connection.

    Args:
        linger_s: seconds that the client has to answer a close frame.
    """

    def __init__(self, linger_s: float) -> None:
        super().__init__(
            timeout=linger_s, autoping=False, compress=False, max_msg_size=4 * LONGEST_MESSAGE
        )
        self._linger_s = linger_s
        self._transport: asyncio.Transport | None = None
        self._refused = 0

    def attach(self, transport: asyncio.Transport) -> None:
        """Use the transport of the upgraded request, which aiohttp doesn't name."""
        self._transport = transport

    async def close(
        self, *, code: int = Code.DONE, message: bytes = b"", drain: bool = True
    ) -> bool:
        """Close with a code; without a reason it is that of aiohttp's error."""
        if message or code not in REASONS or self.closed or self._transport is None:
            return await super().close(code=code, message=message, drain=drain)
        # aiohttp closes the socket at once. If the client were still sending, the system would
        # reset the connection, and the close frame were lost.
        self._refused = code
        with self._transport.get_extra_info("socket").dup() as rest:
            is_first = await super().close(code=code, message=REASONS[code].encode(), drain=drain)
            await _discard(rest, self._linger_s)
        return is_first

    def ending(self, message: WSMessage) -> tuple[int, str]:
        """Return close code and label of a connection that the client ended, or aiohttp.

        Args:
            message: the last one.
        """
        if message.type is WSMsgType.CLOSE:
            return self.close_code or 1005, "client"
        if self._refused:
            return self._refused, "protocol"
        return BROKEN, "broken"


async def _discard(connected: socket.socket, seconds: float) -> None:
    """Read until the other end closes."""
    loop = asyncio.get_running_loop()
    connected.setblocking(False)
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(seconds):
            while await loop.sock_recv(connected, LONGEST_MESSAGE):
                pass
