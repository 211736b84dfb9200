"""The local server behind the page: `rtmtass web`, and `rtmtass live --web`.

It runs in a process of its own. The engine's process is connected by `live.page`; the browser by
HTTP and a WebSocket on 127.0.0.1, behind a token that is drawn at each start.
"""

from __future__ import annotations

from importlib.util import find_spec

from rtmtass.errors import MissingPartError


def check_installed() -> None:
    """Check that the server's packages are there, without importing them.

    Raises:
        MissingPartError: aiohttp isn't installed.
    """
    if find_spec("aiohttp") is None:
        raise MissingPartError("the page needs aiohttp: pip install 'rtmtass[web]'")
