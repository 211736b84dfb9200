"""Serves the page's files: those of a fixed list, whatever name is asked for."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

from rtmtass.page import BACKEND, FILES, TYPES, backend_module, path
from rtmtass.web.access import ROOT

_INDEX = "index.html"


def add_routes(app: web.Application) -> None:
    """Add the routes of the page's files, and of `backend.js`."""
    app.router.add_get(ROOT, _add_slash)
    app.router.add_get(f"{ROOT}/{{name:[^/]*}}", _send_file)


async def _add_slash(request: web.Request) -> web.StreamResponse:
    """Redirect to the address with the slash at its end, which relative addresses need."""
    raise web.HTTPFound(f"{request.rel_url.path}/")


async def _send_file(request: web.Request) -> web.StreamResponse:
    name = request.match_info["name"] or _INDEX
    if name == BACKEND:
        return web.Response(body=backend_module("server").encode(), headers=_type(name))
    if name not in FILES:
        raise web.HTTPNotFound(text="there is no such file")
    return web.FileResponse(path(name), headers=_type(name))


def _type(name: str) -> dict[str, str]:
    return {"Content-Type": TYPES[Path(name).suffix]}
