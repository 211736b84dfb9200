"""The page of a live stream: started beside it by --web, or the one that started the stream."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rtmtass.cli.arguments import model_name, port
from rtmtass.errors import UsageError
from rtmtass.live.linked_process import ENGINE, is_linked

if TYPE_CHECKING:
    from rtmtass.live.events import EventLog
    from rtmtass.live.page import Page
    from rtmtass.live.page_controls import PageControls
    from rtmtass.live.tap import StemTap
    from rtmtass.separator import Separator


def add_page_options(add: Callable[..., object]) -> None:
    """Add the options of a page's server with a parser's `add_argument`."""
    add("--port", type=port, metavar="N", help="port of the page on 127.0.0.1 (default: 8600, or"
        " any that is free)")  # fmt: skip
    add("--no-browser", action="store_true", help="don't open the page in the browser")


def is_controlled() -> bool:
    """Return whether `rtmtass web` has started this process as its engine."""
    return is_linked(ENGINE)


def check_page_options(arguments: argparse.Namespace) -> None:
    """Check the options of the page.

    Raises:
        UsageError: there is no page.
        MissingPartError: the server's packages are missing.
    """
    if arguments.web:
        from rtmtass.web import check_installed

        check_installed()
    elif arguments.port or arguments.no_browser:
        option = "--port" if arguments.port else "--no-browser"
        raise UsageError(f"{option} is for the page, and there is none; add --web")


def open_tap(arguments: argparse.Namespace, separator: Separator) -> StemTap | None:
    """Return a tap for the page's pictures; None without a page."""
    from rtmtass.live.tap import StemTap

    if not arguments.web and not is_controlled():
        return None
    shape = len(separator.stems), separator.channels, separator.hop
    return StemTap(*shape, separator.sample_rate)


def connect_page(
    title: str,
    tap: StemTap | None,
    separator: Separator,
    controls: PageControls,
    stack: contextlib.ExitStack,
) -> Page:
    """Connect to the server that started this process, and apply what is set there.

    Raises:
        DeviceError: it has gone.
    """
    from rtmtass.live.page import PageLink

    assert tap, "a page has a tap"
    page = PageLink.to_parent(title, tap, _hello(separator), controls)
    stack.callback(page.close)
    return page


def serve_page(
    arguments: argparse.Namespace,
    title: str,
    tap: StemTap | None,
    separator: Separator,
    events: EventLog,
    stack: contextlib.ExitStack,
) -> Page | None:
    """Start a server for the page, with --web."""
    from rtmtass.live.page import PageServer

    if not arguments.web or tap is None:
        return None
    hello = {
        **_hello(separator),
        "model": model_name(arguments),
        "precision": arguments.precision,
        "passes": arguments.passes,
        "port": arguments.port,
        "opens_browser": not arguments.no_browser,
    }
    page = PageServer(title, tap, hello, on_event=events.add)
    stack.callback(page.close)
    return page


def _hello(separator: Separator) -> dict[str, Any]:
    return {
        "stems": separator.stems,
        "channels": separator.channels,
        "sample_rate": separator.sample_rate,
        "hop": separator.hop,
    }
