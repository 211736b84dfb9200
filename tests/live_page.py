"""The page over a backend without an engine, as tests of the page drive it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from browser import PageServer, open_page, wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page


class LivePage:
    """The live view, opened; `page` is its Playwright page.

    Args:
        page: empty so far.
        url: of a PageServer with `fake_backend.js`.
        about: changes to what the backend says about itself.
        backend: changes to the backend's attributes.
    """

    def __init__(
        self,
        page: Page,
        url: str,
        about: dict[str, Any] | None = None,
        backend: dict[str, Any] | None = None,
    ) -> None:
        self.page = page
        if about or backend:
            given = json.dumps({"fakeAbout": about or {}, "fakeBackend": backend or {}})
            page.add_init_script(f"Object.assign(globalThis, {given});")
        page.goto(url)
        wait_until(page, "globalThis.backend?.listener")
        page.get_by_role("button", name="Keys").wait_for()

    def state(self, **changes: Any) -> None:
        """Send a state with changes to the latest one."""
        self.page.evaluate("(changes) => backend.state(changes)", changes)

    def run(self, **changes: Any) -> None:
        """Send a state of a running stream, with changes to its Stats."""
        self.page.evaluate(
            "(changes) => backend.state({ running: true, stats: make.stats(changes) })", changes
        )

    def picture(self, columns: int, level: str) -> None:
        """Send a picture; `level` is a JavaScript expression of column, row and band, in dBFS."""
        self.page.evaluate(f"backend.picture({columns}, (column, row, band) => {level})")

    def sent(self) -> list[dict[str, Any]]:
        """Return the messages since the last call."""
        messages: list[dict[str, Any]] = self.page.evaluate("backend.sent.splice(0)")
        return messages

    def fader(self, name: str) -> Locator:
        """Return the slider of a stem's gain."""
        return self.page.get_by_role("slider", name=f"{name} gain")

    def button(self, name: str) -> Locator:
        """Return a button by its name."""
        return self.page.get_by_role("button", name=name, exact=True)


@contextmanager
def open_live(
    browser: Browser,
    server: PageServer,
    about: dict[str, Any] | None = None,
    backend: dict[str, Any] | None = None,
    **options: Any,
) -> Iterator[LivePage]:
    """Open the live view in a context of its own; `options` are those of `open_page`."""
    with open_page(browser, **options) as page:
        yield LivePage(page, server.url, about, backend)
