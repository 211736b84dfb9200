"""Who may connect: the token's bearer, and browsers only from pages that were allowed.

Any web page can make its visitor's browser open a WebSocket to an address that the visitor can
reach. Browsers name the page's origin in every such request, and other programs don't, so a
request with an origin is refused unless the origin was allowed.
"""

from __future__ import annotations

import ssl
from collections.abc import Collection
from hmac import compare_digest
from pathlib import Path

from aiohttp import web

from rtmtass.errors import InputError

HEADERS = {
    "Server": "rtmtass",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
"""Of every response."""


def origin_refusal(request: web.Request, origins: Collection[str]) -> str:
    """Return why a request's origin isn't allowed, or ""."""
    origin = request.headers.get("Origin")
    if origin is None or "*" in origins or origin in origins:
        return ""
    return "this page's origin has no access; start the server with --allow-origin ORIGIN"


def token_refusal(request: web.Request, token: str) -> str:
    """Return why a request's token isn't right, or ""; in a time that doesn't depend on it."""
    if not token:
        return ""
    kind, _, value = request.headers.get("Authorization", "").partition(" ")
    given = value.strip() if kind.lower() == "bearer" else request.query.get("token", "")
    if compare_digest(given.encode("utf-8", "surrogateescape"), token.encode()):
        return ""
    what = "is wrong" if given else "is missing"
    return f"the token {what}; send the header Authorization: Bearer TOKEN, or ?token=TOKEN"


def tls_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Return the TLS settings of a server.

    Raises:
        InputError: the files can't be read, or don't belong together.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    for path in (certificate, key):
        try:
            path.read_bytes()
        except OSError as error:
            raise InputError(f"{path} can't be read: {error.strerror}") from None
    try:
        context.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError, OSError) as error:
        detail = getattr(error, "reason", None) or error
        raise InputError(
            f"{certificate} and {key} aren't a certificate and its key without a password:"
            f" {detail}; both must be PEM files"
        ) from None
    return context
