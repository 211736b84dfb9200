"""The sockets of the service: HTTP and WebSocket, with or without TLS."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from weakref import WeakSet

from aiohttp import web

from rtmtass.errors import InputError
from rtmtass.serve import access
from rtmtass.serve.connection import Connection
from rtmtass.serve.metrics import CONTENT_TYPE
from rtmtass.serve.service import Service
from rtmtass.web.access import quiet_log

STREAM_PATH = "/stream"
_REQUEST_S = 10.0
"""Within which a connection has to send its first request whole."""
_WAITING = 64
"""Clients without a stream, beyond which no more are taken."""
_CLEANUP_S = 1.0
_TURNS = 8
"""Of the event loop, in which a request that arrived in time is seen even if the loop was late."""

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """Listens for a service.

    Args:
        service: started in the same event loop.

    Attributes:
        port: that is listened on, after `start`.
        url: the address of streams, after `start`.
    """

    def __init__(self, service: Service) -> None:
        self._service, self._options = service, service.options
        self._seen: WeakSet[asyncio.BaseTransport] = WeakSet()
        app = web.Application(middlewares=[self._guard], client_max_size=1024)
        app.router.add_get(STREAM_PATH, self._serve_stream)
        app.router.add_get("/healthz", self._report_health)
        app.router.add_get("/metrics", self._report_metrics)
        app.on_response_prepare.append(_add_headers)
        self._runner = web.AppRunner(
            app, access_log=None, logger=quiet_log(), keepalive_timeout=_REQUEST_S,
            shutdown_timeout=_CLEANUP_S,
        )  # fmt: skip

    async def start(self) -> None:
        """Listen.

        Raises:
            InputError: the address can't be listened on, or a file of TLS can't be read.
        """
        options = self._options
        tls = None
        if options.certificate and options.key:
            tls = access.tls_context(options.certificate, options.key)
        await self._runner.setup()
        self._loop = loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                self._accept, options.host, options.port, ssl=tls,
                ssl_handshake_timeout=_REQUEST_S if tls else None,
            )  # fmt: skip
        except OSError as error:
            await self._runner.cleanup()
            why = _reason(error)
            raise InputError(
                f"{options.host} port {options.port} can't be listened on: {why};"
                " choose another --port, or --port 0 for any"
            ) from None
        self.port = int(self._server.sockets[0].getsockname()[1])
        name = f"[{options.host}]" if ":" in options.host else options.host
        self.url = f"{'wss' if tls else 'ws'}://{name}:{self.port}{STREAM_PATH}"

    async def stop(self) -> None:
        """Close all sockets."""
        self._server.close()
        await self._runner.cleanup()

    def _accept(self) -> asyncio.Protocol:
        """Return the protocol of a new connection, which has to send a request soon."""
        make = self._runner.server
        assert make is not None
        protocol = make()
        self._loop.call_later(_REQUEST_S, self._drop_silent, protocol, _TURNS)
        return protocol

    def _drop_silent(self, protocol: web.RequestHandler, turns: int) -> None:
        transport = protocol.transport
        if transport is None or transport in self._seen:
            return
        if turns:
            self._loop.call_soon(self._drop_silent, protocol, turns - 1)
        else:
            self._service.metrics.refusals["no_request"] += 1
            transport.close()

    @web.middleware
    async def _guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Refuse requests without access; answer others, or say where to go."""
        refusals = self._service.metrics.refusals
        if request.transport is not None:
            self._seen.add(request.transport)
        if why := access.origin_refusal(request, self._options.origins):
            refusals["origin"] += 1
            return web.Response(status=403, text=f"{why}\n")
        why = access.token_refusal(request, self._options.token)
        if why and request.path != "/healthz":
            refusals["token"] += 1
            headers = {"WWW-Authenticate": "Bearer"}
            return web.Response(status=401, text=f"{why}\n", headers=headers)
        try:
            return await handler(request)
        except web.HTTPException as error:
            text = f"{error.reason}; streams are at {STREAM_PATH}, see also /healthz and /metrics\n"
            return web.Response(status=error.status, text=text)

    async def _serve_stream(self, request: web.Request) -> web.StreamResponse:
        if self._service.n_waiting >= _WAITING:
            self._service.metrics.refusals["waiting"] += 1
            return web.Response(status=503, text="too many clients without a hello; try later\n")
        connection = Connection(request, self._service)
        await self._service.serve(connection)
        return connection.socket

    async def _report_health(self, _request: web.Request) -> web.Response:
        status = 503 if self._service.is_draining else 200
        return web.json_response(self._service.health(), status=status)

    async def _report_metrics(self, _request: web.Request) -> web.Response:
        response = web.Response(body=self._service.report().encode())
        response.headers["Content-Type"] = CONTENT_TYPE
        return response


def _reason(error: OSError) -> str:
    """Return why an address can't be used; asyncio's text repeats the address."""
    if error.errno and error.errno > 0:
        return os.strerror(error.errno).lower()
    return (error.strerror or str(error)).lower()


async def _add_headers(_request: web.BaseRequest, response: web.StreamResponse) -> None:
    response.headers.update(access.HEADERS)
