"""Headless Chromium for tests of the page: fixtures, and a server of the page with any backend.

A page opened by `page` or `open_page` fails its test if it logs an error or throws one.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rtmtass.page import BACKEND, FILES, TYPES, path

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Playwright

WEB = Path(__file__).parent / "web"
"""Modules that only tests serve: a backend without an engine, and stand-ins."""

_ARGUMENTS = ("--no-sandbox", "--autoplay-policy=no-user-gesture-required")
_NAMES = ("chromium", "chromium-browser", "google-chrome")
_TIMEOUT_MS = 60_000  # for a machine on which much else runs
_POLL_MS = 20


def find_chromium() -> str | None:
    """Return the path of the installed browser."""
    return next((found for name in _NAMES if (found := shutil.which(name))), None)


def launch(playwright: Playwright, *arguments: str) -> Browser:
    """Start a headless browser with further command line arguments; close it when done."""
    return playwright.chromium.launch(
        executable_path=find_chromium(), args=[*_ARGUMENTS, *arguments]
    )


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    """Playwright, for one test file: its event loop would break asyncio in the next ones."""
    if not find_chromium() or not find_spec("playwright"):
        if os.environ.get("CI") == "true":
            pytest.fail("no chromium or playwright: apt-get install chromium, pip install .[test]")
        pytest.skip("no chromium or playwright")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def chromium(playwright: Playwright) -> Iterator[Browser]:
    """A browser for the tests of one file."""
    browser = launch(playwright)
    yield browser
    browser.close()


@contextmanager
def open_page(browser: Browser, **options: Any) -> Iterator[Page]:
    """Open an empty page in a context of its own; errors that it logs fail the test at the end.

    Args:
        browser: that shows it.
        options: of `Browser.new_context`, such as `color_scheme="dark"`.
    """
    context = browser.new_context(**options)
    context.set_default_timeout(_TIMEOUT_MS)
    page = context.new_page()
    errors = watch(page)
    try:
        yield page
    finally:
        context.close()
    assert not errors, "\n".join(errors)


def watch(page: Page) -> list[str]:
    """Return a list to which the errors are added that a page logs or throws."""
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    return errors


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """An empty page."""
    with open_page(chromium) as opened:
        yield opened


def wait_until(page: Page, expression: str) -> None:
    """Wait until a JavaScript expression is true.

    `Page.wait_for_function` evaluates strings inside the page, which the page's policy forbids.
    """
    deadline = time.monotonic() + _TIMEOUT_MS / 1000
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, f"never true: {expression}"
        page.wait_for_timeout(_POLL_MS)


class PageServer:
    """Serves the page as a context manager, under its content security policy.

    Args:
        backend: the module that the page takes for its backend, one of `WEB` or of the page.
    """

    def __init__(self, backend: str = "fake_backend.js") -> None:
        text = f'export {{ openBackend }} from "./{backend}";\n'.encode()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(text))
        self.url = f"http://127.0.0.1:{self._server.server_port}/token/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> PageServer:
        """Start to serve."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _handler(backend: bytes) -> Callable[..., BaseHTTPRequestHandler]:
    from rtmtass.web.access import HEADERS  # here, as aiohttp isn't needed by every test

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # one connection for all modules

        def do_GET(self) -> None:
            name = self.path.partition("?")[0].removeprefix("/token/") or "index.html"
            body = backend if name == BACKEND else _read(name)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Type", TYPES.get(Path(name).suffix, "text/plain"))
            self.send_header("Content-Security-Policy", HEADERS["Content-Security-Policy"])
            self.send_header("Cache-Control", "no-store")
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def _read(name: str) -> bytes | None:
    """Return a file of the page, or else of the tests."""
    if name in FILES:
        return path(name).read_bytes()
    served = WEB / name
    return served.read_bytes() if served.parent == WEB and served.is_file() else None
