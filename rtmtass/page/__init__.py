"""The files of the page that `rtmtass web` serves and `rtmtass export --page` writes.

They are plain data: HTML, CSS, an icon and JavaScript modules without a build step. `main.js`
imports `backend.js`, which is not among them: whoever publishes the page writes that one line,
and so chooses what separates the sound.
"""

from __future__ import annotations

from pathlib import Path

from rtmtass.errors import UsageError

__all__ = ["BACKEND", "FILES", "FOLDER", "TYPES", "backend_module", "path"]

FOLDER = Path(__file__).parent

TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Content type by suffix; browsers run modules of no other type."""

FILES = tuple(sorted(file.name for file in FOLDER.iterdir() if file.suffix in TYPES))
"""Names of all files; no other name is ever looked up."""

BACKEND = "backend.js"
"""Name under which `backend_module()` has to be published beside the files."""


def path(name: str) -> Path:
    """Return where a file is.

    Raises:
        UsageError: `name` isn't one of `FILES`.
    """
    if name not in FILES:
        raise UsageError(f"the page has no file {name!r}; it has {', '.join(FILES)}")
    return FOLDER / name


def backend_module(kind: str) -> str:
    """Return the text of `backend.js` for "server" or "browser".

    Raises:
        UsageError: unknown kind.
    """
    name = f"backend_{kind}.js"
    if name not in FILES:
        kinds = [file[8:-3] for file in FILES if file.startswith("backend_")]
        raise UsageError(f"unknown backend {kind!r}; choose from {', '.join(kinds)}")
    return f'export {{ openBackend }} from "./{name}";\n'
