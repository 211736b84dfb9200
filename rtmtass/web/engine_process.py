"""The engine of `rtmtass web`: `rtmtass live` in a process of its own, started, watched, ended."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any, Protocol

from rtmtass.errors import DeviceError
from rtmtass.live.linked_process import ENGINE, LinkedProcess
from rtmtass.live.messages import Message
from rtmtass.types import Bytes
from rtmtass.web.link import EngineLink, read_hello, send_opening

COMMAND = (sys.executable, "-m", "rtmtass", "live", "--plain")
_PREFIX = "rtmtass: "
_STOP_S, _TERMINATE_S, _KILL_S = 1.0, 4.0, 1.0
"""How long the engine may take to end: by a message, by a signal, when killed."""
_MOST_LINES, _LONGEST_PROBLEM, _MOST_OPENING = 200, 300, 1000


class Listener(Protocol):
    """Receives what an engine reports; called from several threads, one after the other."""

    def snapshot(self, values: dict[str, Any]) -> None:
        """Receive figures, settings, title and messages."""

    def columns(self, columns: Bytes) -> None:
        """Receive pictures."""

    def line(self, text: str) -> None:
        """Receive a line that the engine prints while it starts, such as that it compiles."""

    def ended(self, problem: str) -> None:
        """Receive the end, once; `problem` is why, in a line, and empty for a wanted end."""


class EngineProcess:
    """A running engine.

    Args:
        words: options of `rtmtass live`.
        opening: messages to apply before the stream begins.
        listener: receives what it reports.

    Attributes:
        pid: number of the process.

    Raises:
        DeviceError: the system refuses another process.
    """

    def __init__(
        self, words: Sequence[str], opening: Sequence[Message], listener: Listener
    ) -> None:
        self._opening, self._listener = [*opening], listener
        self._lock = threading.Lock()
        self._link: EngineLink | None = None
        self._lines: list[str] = []
        self._is_stopping = False
        try:
            self._child = LinkedProcess(
                [*COMMAND, *words], ENGINE, on_connect=self._read, on_line=self._add_line,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                # Ctrl-C in the terminal is for the server, which then ends this.
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise DeviceError(f"the engine can't be started: {error.strerror}") from error
        self.pid = self._child.process.pid
        threading.Thread(target=self._watch, name="rtmtass-engine-watch", daemon=True).start()

    def send(self, message: Message) -> bool:
        """Send a message, at once or with the opening ones; return whether there was room."""
        with self._lock:
            if self._link:
                return self._link.send(message.to_json())
            has_room = len(self._opening) < _MOST_OPENING
            if has_room:
                self._opening.append(message)
            return has_room

    def stop(self) -> None:
        """End the stream as `q` does, its recording finished; blocks for some seconds at most."""
        self._is_stopping = True
        process = self._child.process
        # Until it is connected there is nothing to finish, and it may compile.
        if self._link and self.send(Message("stop")) and _has_ended(process, _STOP_S):
            return
        process.terminate()
        if not _has_ended(process, _TERMINATE_S):
            process.kill()
            _has_ended(process, _KILL_S)

    def _read(self, connection: Connection) -> None:
        """Read what the engine sends, in the thread in which it has connected."""
        listener = self._listener
        with contextlib.suppress(OSError, EOFError):
            hello = read_hello(connection)
            with self._lock:
                send_opening(connection, [message.to_json() for message in self._opening])
                self._link = EngineLink(
                    connection, hello, on_snapshot=listener.snapshot, on_columns=listener.columns
                )
            self._link.read()

    def _add_line(self, line: str) -> None:
        if len(self._lines) < _MOST_LINES:
            self._lines.append(line)
        if line.startswith(_PREFIX) and not self._is_stopping:
            self._listener.line(line.removeprefix(_PREFIX))

    def _watch(self) -> None:
        code = self._child.wait()
        self._child.close(0)
        self._listener.ended("" if self._is_stopping or code == 0 else self._problem(code))

    def _problem(self, code: int) -> str:
        """Return why the engine has ended by itself; a traceback goes on to stderr."""
        lines = self._lines
        starts = [number for number, line in enumerate(lines) if line.startswith(_PREFIX)]
        if code < 0 or code > 128:
            number = -code if code < 0 else code - 128
            with contextlib.suppress(ValueError):
                return f"the engine was ended by {signal.Signals(number).name}; start it again"
        if code not in (1, 2) or not starts or "Traceback (most recent call last):" in lines:
            print("\n".join(lines), file=sys.stderr, flush=True)
            return f"the engine has failed, exit code {code}: its terminal shows why"
        text = " ".join(line.strip() for line in lines[starts[-1] :]).removeprefix(_PREFIX)
        return text if len(text) <= _LONGEST_PROBLEM else f"{text[:_LONGEST_PROBLEM]}…"


def _has_ended(process: subprocess.Popen[bytes], timeout_s: float) -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout_s)
        return True
    return False
