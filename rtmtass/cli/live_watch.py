"""Watches a running stream: display, lines or page, events, keys, and the summary at the end."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rtmtass.cli.live_text import Summary, event_object, plain_line, printable
from rtmtass.live.events import Event, EventLog, minutes

if TYPE_CHECKING:
    from rtmtass.cli.live_stop import Stops
    from rtmtass.live.display import Display
    from rtmtass.live.engine import Engine
    from rtmtass.live.page import Page
    from rtmtass.live.page_controls import PageControls
    from rtmtass.live.recorder import TakeRecorder
    from rtmtass.live.stats import Stats

_DISPLAY_S, _LINE_S, _PAGE_S, _LOOK_S = 0.1, 1.0, 0.05, 0.02
_N_SHOWN, _N_ON_PAGE = 3, 8


class Printer:
    """Prints lines to stdout, as text or JSON, until its reader has gone.

    Attributes:
        is_open: whether stdout can still be written to.
    """

    def __init__(self, *, is_json: bool) -> None:
        self.is_json, self.is_open = is_json, True

    def text(self, line: str) -> None:
        """Print a line of text, without control characters."""
        self._print(printable(line, getattr(sys.stdout, "encoding", None)))

    def json(self, values: dict[str, Any]) -> None:
        """Print an object."""
        self._print(json.dumps(values))

    def _print(self, line: str) -> None:
        if not self.is_open:
            return
        try:
            print(line, flush=True)
        except OSError:  # the pipe's reader, or the terminal, has gone
            self.is_open = False
            with contextlib.suppress(OSError):
                # Python flushes stdout once more at its exit.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Watch:
    """Shows a stream until it ends, a quit, a stop or a given time.

    Args:
        engine, recorder, controls: of the stream.
        events: to print.
        printer: for lines, and for the summary.
        display: instead of lines as long as it is alive; None prints lines.
        page: besides them, if there is one.
    """

    def __init__(
        self,
        engine: Engine,
        recorder: TakeRecorder,
        controls: PageControls,
        events: EventLog,
        printer: Printer,
        display: Display | None,
        page: Page | None = None,
    ) -> None:
        self._engine, self._recorder, self._controls = engine, recorder, controls
        self._events, self._printer = events, printer
        self._display, self._page = display, page
        self._advice = self._failure = ""
        self._n_takes = 0

    def run(self, stops: Stops, duration_s: float | None) -> None:
        """Return when the stream is to be closed."""
        display, every_s = self._display, _DISPLAY_S if self._display else _LINE_S
        started = shown = on_page = time.monotonic()
        while not (self._controls.has_quit or stops.is_requested) and self._engine.is_running:
            now = time.monotonic()
            if (duration_s and now - started >= duration_s) or not self._printer.is_open:
                break
            if self._page and now - on_page >= _PAGE_S:
                on_page = max(on_page + _PAGE_S, now - _PAGE_S)
                if not self._update_page(self._page):
                    break
            if now - shown >= every_s:
                shown = max(shown + every_s, now - every_s)  # after a suspend: no burst of lines
                stats = self._engine.stats()
                self._add_events(stats)
                if display and display.is_alive:
                    display.update(stats, self._shown())
                else:
                    self._print(stats, self._events.unprinted())
                    every_s = _LINE_S
            time.sleep(_LOOK_S)

    def _shown(self) -> list[str]:
        """Return what the display shows below the meters: the page's address, and events."""
        address = self._page.address if self._page else ""
        events = [str(event) for event in self._events.latest(_N_SHOWN)]
        if not address:
            return events
        # The event that the page can be opened would say the same.
        others = [event for event in events if address not in event]
        return [f"page: {address}", *others[-(_N_SHOWN - 1) :]]

    def _update_page(self, page: Page) -> bool:
        """Show the stream on the page; return whether it may go on."""
        stats = self._engine.stats()
        self._add_events(stats)
        messages = [str(event) for event in self._events.latest(_N_ON_PAGE)]
        page.update(stats, self._controls, messages)
        return page.is_alive or not page.is_needed

    def _add_events(self, stats: Stats) -> None:
        """Add what changed since the last look: the advice, a failed and a finished recording."""
        if stats.advice and not self._advice:
            self._events.add(stats.advice)
        self._advice = stats.advice
        failure = stats.recording.message
        if failure and failure != self._failure:
            self._events.add(failure)
        self._failure = failure
        for take in self._recorder.takes[self._n_takes :]:
            self._events.add(f"recorded {minutes(take.seconds)} in {take.folder}")
            self._n_takes += 1

    def _print(self, stats: Stats, events: Sequence[Event]) -> None:
        if not self._printer.is_json:
            self._printer.text(f"{minutes(stats.seconds)}  {plain_line(stats, events)}")
            return
        self._printer.json(stats.to_dict())
        for event in events:
            self._printer.json(event_object(event))

    def summarise(self, summary: Summary) -> None:
        """Print the events that are left and the summary."""
        self._n_takes = len(summary.takes)  # the summary names them
        self._add_events(summary.stats)
        events = self._events.unprinted(is_last=True)
        if self._printer.is_json:
            for event in events:
                self._printer.json(event_object(event))
            self._printer.json({**summary.stats.to_dict(), "summary": summary.to_dict()})
            return
        for line in (*map(str, events), *summary.lines()):
            self._printer.text(line)
