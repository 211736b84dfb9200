"""The stream that the pages show and control: starts and ends its engine, keeps its settings."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
from collections.abc import Callable
from typing import Any, Protocol

from rtmtass.errors import RtmtassError
from rtmtass.live.controls import LOWEST_GAIN_DB, ControlState
from rtmtass.live.events import minutes
from rtmtass.live.messages import Message
from rtmtass.live.page_controls import HIGHEST_GAIN_DB, changed
from rtmtass.types import Bytes
from rtmtass.web.engine_process import Listener

_MOST_MESSAGES = 8


class Engine(Protocol):
    """A running engine as the stream uses it."""

    def send(self, message: Message) -> bool:
        """Send a message without waiting; return whether there was room for it."""

    def stop(self) -> None:
        """End it; may block for some seconds."""


Start = Callable[[str | None, str | None, ControlState, Listener], Engine]
"""Starts an engine with an input, an output (None: the default) and settings; reports to a
listener. Raises RtmtassError."""


class Stream:
    """What runs, or could be started; used by the event loop's thread alone.

    Args:
        controls: the settings before the first start.
        start: starts an engine; None if it isn't for pages to start and stop.
        on_state: called with every new state, see `state`.
        on_columns: called with pictures.

    Attributes:
        engine: that runs; None if none does.
    """

    def __init__(
        self,
        controls: ControlState,
        start: Start | None,
        *,
        on_state: Callable[[dict[str, Any]], None],
        on_columns: Callable[[Bytes], None],
    ) -> None:
        self.engine: Engine | None = None
        self._start, self._on_state, self._on_columns = start, on_state, on_columns
        self._controls = dataclasses.asdict(controls)
        self._stats: dict[str, Any] | None = None
        self._title = self._problem = ""
        self._input: str | None = None
        self._output: str | None = None
        self._messages: list[str] = []
        self._stopping: asyncio.Task[None] | None = None

    def state(self) -> dict[str, Any]:
        """Return what pages show."""
        return {
            "running": self.engine is not None,
            "stats": self._stats,
            "controls": self._controls,
            "title": self._title,
            "input": self._input,
            "output": self._output,
            "messages": self._messages,
            "problem": self._problem,
        }

    def handle(self, message: Message) -> str:
        """Obey a message; return why it is refused, in a line, or nothing."""
        if message.do in ("start", "stop"):
            return self._handle_start(message) if message.do == "start" else self._handle_stop()
        if message.do == "record" and not self.engine:
            return "nothing runs that could be recorded: start first"
        if self.engine and not self.engine.send(message):
            return "the engine doesn't respond"
        if self._stats is None:  # else the next snapshot shows the change
            self._controls = dataclasses.asdict(changed(self._settings(), message))
            self._on_state(self.state())
        return ""

    def _handle_start(self, message: Message) -> str:
        if not self._start:
            return "devices, start and stop belong to the terminal of rtmtass live"
        if self.engine:
            return "it runs already: stop it first"
        self._input, self._output = message.input, message.output
        self._messages, self._problem = [], ""
        try:
            listener = LoopListener(self, asyncio.get_running_loop())
            self.engine = self._start(message.input, message.output, self._settings(), listener)
        except RtmtassError as error:
            self._problem = str(error)
        self._on_state(self.state())
        return ""

    def _handle_stop(self) -> str:
        if not self._start:
            return "devices, start and stop belong to the terminal of rtmtass live"
        if self.engine and not self._stopping:
            self._stopping = asyncio.create_task(asyncio.to_thread(self.engine.stop))
        return ""

    async def close(self) -> None:
        """End the engine, if this may, and wait for that."""
        if self._start:
            self._handle_stop()
        if self._stopping:
            await self._stopping

    def _settings(self) -> ControlState:
        return ControlState(**self._controls)

    # --- what the engine reports

    def show_snapshot(self, values: dict[str, Any]) -> None:
        """Show figures, settings, title and messages of the engine."""
        self._stats, self._controls = values["stats"], values["controls"]
        self._title, self._messages = values["title"], values["messages"]
        self._on_state(self.state())

    def show_columns(self, columns: Bytes) -> None:
        """Show pictures."""
        self._on_columns(columns)

    def show_line(self, text: str) -> None:
        """Show a line that the engine has printed before its first figures."""
        if self._stats is None and self.engine:
            self._messages = [*self._messages, f"{minutes(0)} {text}"][-_MOST_MESSAGES:]
            self._on_state(self.state())

    def show_end(self, problem: str) -> None:
        """Show that the engine has ended, and why unless that was wanted."""
        recording = (self._stats or {}).get("recording", {})
        if recording.get("is_running"):
            at = minutes(self._stats["seconds"]) if self._stats else ""
            line = f"{at} recorded {minutes(recording['seconds'])} in {recording['folder']}"
            self._messages = [*self._messages, line][-_MOST_MESSAGES:]
        self.engine, self._stats, self._stopping = None, None, None
        self._problem, self._title = problem, ""
        self._on_state(self.state())


class LoopListener:
    """Passes what an engine's threads report on to the loop's."""

    def __init__(self, stream: Stream, loop: asyncio.AbstractEventLoop) -> None:
        self._stream, self._loop = stream, loop

    def snapshot(self, values: dict[str, Any]) -> None:
        """See `Listener`."""
        self._call(self._stream.show_snapshot, values)

    def columns(self, columns: Bytes) -> None:
        """See `Listener`."""
        self._call(self._stream.show_columns, columns)

    def line(self, text: str) -> None:
        """See `Listener`."""
        self._call(self._stream.show_line, text)

    def ended(self, problem: str) -> None:
        """See `Listener`."""
        self._call(self._stream.show_end, problem)

    def _call(self, function: Callable[[Any], None], value: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed: the server ends
            self._loop.call_soon_threadsafe(function, value)


def settings_messages(state: ControlState) -> list[Message]:
    """Return the messages that set a stream, all of whose settings are at their defaults.

    Gains beyond what a message can set, from the command line, are left out.
    """
    messages = [
        Message("gain", stem=stem, db=gain_db)
        for stem, gain_db in state.gains_db.items()
        if gain_db is None or LOWEST_GAIN_DB <= gain_db <= HIGHEST_GAIN_DB
    ]
    messages += [Message("mute", stem=stem, on=True) for stem in state.muted]
    messages += [Message("solo", stem=stem, on=True) for stem in state.soloed]
    if state.is_bypassed:
        messages.append(Message("bypass", on=True))
    return messages


def gain_words(state: ControlState) -> list[str]:
    """Return the options of `rtmtass live` for the gains and the strength."""
    gains = [
        f"{stem}={-math.inf if gain_db is None else gain_db:g}"
        for stem, gain_db in state.gains_db.items()
    ]
    strength_db = math.inf if state.strength_db is None else state.strength_db
    return ["--gain", ",".join(gains), "--strength", f"{strength_db:g}"]
