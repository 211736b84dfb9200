"""Who may reach the server: the token's bearer, under its own name, from its own page.

Other users and programs of this computer can connect to 127.0.0.1 too, and any web page can make
the browser do so. Against the first there is the token, against the second the checks of Host
(DNS rebinding) and Origin (forged requests, foreign WebSockets).
"""

from __future__ import annotations

import logging
import secrets
import sys
import traceback
from hmac import compare_digest

from aiohttp import web
from aiohttp.http import HttpProcessingError
from aiohttp.typedefs import Handler, Middleware

from rtmtass.errors import RtmtassError

HOST = "127.0.0.1"
"""The only address that is listened on."""
ROOT = "/{token}"
"""What every route begins with. Variable, so that no router compares the token."""
_NAMES = (HOST, "localhost")

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self';"
        " connect-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:;"
        " object-src 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Of every response."""


def draw_token() -> str:
    """Return a token that can't be guessed, fit for a path."""
    return secrets.token_urlsafe(24)


def refusal(request: web.Request, token: str, port: int) -> str:
    """Return why a request is refused, in a line; nothing if it isn't.

    Args:
        request: any.
        token: expected as the first part of the path.
        port: that the server listens on.
    """
    if request.headers.get("Host", "") not in [f"{name}:{port}" for name in _NAMES]:
        return f"this server is reached as {HOST}:{port} only"
    given = request.path.lstrip("/").partition("/")[0]
    if not compare_digest(given.encode(errors="replace"), token.encode()):
        return "the token in the address is missing or wrong; use the address that rtmtass printed"
    origin = request.headers.get("Origin")
    is_reading = request.method in ("GET", "HEAD")
    if origin is None:
        needs_origin = not is_reading or _is_websocket(request)
        return "this request must come from the page" if needs_origin else ""
    if origin != f"http://{request.headers['Host']}":
        return "another site's page has no access"
    return ""


def _is_websocket(request: web.Request) -> bool:
    return request.headers.get("Upgrade", "").lower() == "websocket"


def guard(token: str, port: int) -> Middleware:
    """Return the middleware that refuses requests, and turns errors into one plain line.

    An `RtmtassError` of a handler becomes 422 with its message; other exceptions become 500 and
    keep their traceback on stderr.
    """

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if why := refusal(request, token, port):
            return web.Response(status=403, text=f"{why}\n")
        try:
            return await handler(request)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            return web.Response(status=error.status, text=_line(error.text or error.reason))
        except RtmtassError as error:
            return web.Response(status=422, text=_line(str(error)))
        except Exception:
            traceback.print_exc(file=sys.stderr)
            return web.Response(status=500, text="a bug in rtmtass: see its terminal\n")

    return check


def quiet_log() -> logging.Logger:
    """Return a log for aiohttp, without a traceback for each request that isn't HTTP."""
    log = logging.getLogger("rtmtass.web")
    log.addFilter(_is_worth_it)
    return log


def _is_worth_it(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


async def add_headers(_request: web.BaseRequest, response: web.StreamResponse) -> None:
    """Add `HEADERS`; a signal handler for `on_response_prepare`."""
    response.headers.update(HEADERS)


def _line(text: str) -> str:
    return " ".join(text.split()) + "\n"
