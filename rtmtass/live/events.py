"""The events of a stream: each with its time, printed once, counted if it recurs."""

from __future__ import annotations

import math
import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

REPRINTED_S = 60.0
"""An event that recurs is printed again after this time, with its count."""
_MOST_KINDS = 200
_NUMBER = re.compile(r"\d+(\.\d+)?")


@dataclass(frozen=True)
class Event:
    """An event.

    Attributes:
        at_s: when it last happened, in seconds since the start.
        text: what happened.
        count: how often so far.
    """

    at_s: float
    text: str
    count: int = 1

    def __str__(self) -> str:
        times = f" ({self.count} times)" if self.count > 1 else ""
        return f"{minutes(self.at_s)} {self.text}{times}"


@dataclass
class _Kind:
    """Events whose texts differ in numbers only, as the latest of them."""

    event: Event
    n_printed: int = 0
    printed_s: float = -math.inf


class EventLog:
    """Collects events; any thread adds, without a lock, and one other reads.

    Args:
        clock: a monotonic clock, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started_s = clock()
        self._added: deque[tuple[float, str]] = deque(maxlen=1000)
        self._kinds: dict[str, _Kind] = {}

    def begin(self) -> None:
        """Let times count from now; earlier events are at 0."""
        self._started_s = self._clock()

    def add(self, text: str) -> None:
        """Add an event that happens now."""
        self._added.append((self._clock(), text))

    def unprinted(self, *, is_last: bool = False) -> list[Event]:
        """Return the events to print now, which then count as printed.

        Args:
            is_last: also return those that have recurred since they were printed.
        """
        self._collect()
        now_s, found = self._clock(), []
        for kind in self._kinds.values():
            has_waited = is_last or now_s - kind.printed_s >= REPRINTED_S
            if kind.event.count > kind.n_printed and (has_waited or not kind.n_printed):
                kind.n_printed, kind.printed_s = kind.event.count, now_s
                found.append(kind.event)
        return sorted(found, key=lambda event: event.at_s)

    def latest(self, n: int) -> list[Event]:
        """Return the `n` events that happened last, the newest last."""
        self._collect()
        events = sorted((kind.event for kind in self._kinds.values()), key=lambda e: e.at_s)
        return events[len(events) - min(n, len(events)) :]

    def _collect(self) -> None:
        while self._added:
            at_s, text = self._added.popleft()
            key = _NUMBER.sub("#", text)
            kind = self._kinds.get(key)
            event = Event(max(0.0, at_s - self._started_s), text)
            if kind:
                kind.event = Event(event.at_s, text, kind.event.count + 1)
            elif len(self._kinds) < _MOST_KINDS:
                self._kinds[key] = _Kind(event)


def minutes(seconds: float) -> str:
    """Return a time since the start as mm:ss; minutes beyond 59 go on."""
    return f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"
