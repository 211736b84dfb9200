"""Ctrl-C and SIGTERM in training: a line for each at once, and the second ends the run."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from rtmtass.signals import Terminated, exit_code

Note = Callable[[str], None]
"""Called with a line for the user, also from another thread."""

GRACE_S = 0.8
"""How long the main thread may take to unwind before the process is ended without it."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Handles SIGINT and SIGTERM while a run is loaded, compiled, trained and validated.

    Within `deferred` the first signal only sets `is_requested`, so that the step is
    finished and saved. Elsewhere, and for the second signal, KeyboardInterrupt is raised.
    As Python runs handlers only between bytecodes, and a step of torch may take long, a
    thread reads the signals too: it prints a line at once, and ends the process if the main
    thread doesn't leave within `GRACE_S`. Files of a run are valid at every moment.

    Args:
        note: called with a line for each signal.
        leave: ends the process with an exit code.

    Attributes:
        is_requested: whether to stop after the current step.
        kept: what is on disk, for that line.
    """

    def __init__(self, note: Note, leave: Callable[[int], object] = os._exit) -> None:
        self.note, self._leave = note, leave
        self.is_requested = False
        self.kept = "no checkpoint was written yet"
        self._until = self._granted = ""
        self._obeyed: KeyboardInterrupt | None = None
        self._is_installed = False
        self._ended = threading.Event()

    @contextmanager
    def deferred(self, until: str) -> Iterator[None]:
        """Let the first signal wait for the end of this context, printed as `until`."""
        before, self._until = self._until, until
        try:
            yield
        finally:
            self._until = before

    @contextmanager
    def installed(self) -> Iterator[StopSignals]:
        """Handle the signals within this context; does nothing within itself or in a thread.

        Raises:
            KeyboardInterrupt: instead of any exception that follows from an obeyed signal.
        """
        if self._is_installed or threading.current_thread() is not threading.main_thread():
            yield self
            return
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        before = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        watcher = threading.Thread(target=self._watch, args=(ours,), name="stop", daemon=True)
        watcher.start()
        self._is_installed = True
        try:
            yield self
        except Exception:
            if self._obeyed is not None:  # such as an import that was interrupted
                raise self._obeyed from None
            raise
        finally:
            self._is_installed = False
            self._ended.set()
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            theirs.shutdown(socket.SHUT_RDWR)  # a child process may hold a copy of it
            theirs.close()
            watcher.join()
            ours.close()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        """Set the flag, or raise; in the main thread, perhaps long after the signal."""
        if self._until and not self.is_requested:
            self.is_requested, self._granted = True, self._until
            return
        self._obeyed = Terminated() if number == signal.SIGTERM else KeyboardInterrupt()
        raise self._obeyed

    def _watch(self, signals: socket.socket) -> None:
        """Print a line for every signal at once; end the process if the main thread doesn't."""
        received = 0
        while data := signals.recv(16):
            for number in data:
                if number not in _SIGNALS:
                    continue
                received += 1
                # The main thread may be past the end of that `deferred` by now, even in
                # the next one, so what it granted counts, and is read last.
                until = self._until
                until = self._granted or until
                if received == 1 and until:
                    self._print(f"stopping after {until}; Ctrl-C again to stop now")
                    continue
                self._print(f"stopping now; {self.kept}")
                if self._ended.wait(GRACE_S):
                    return
                if received == 1 and self.is_requested and self._obeyed is None:
                    continue  # deferred after all, in the moment between
                self._end(number)

    def _print(self, text: str) -> None:
        with suppress(OSError, ValueError):  # stderr may be closed
            self.note(text)

    def _end(self, number: int) -> None:
        if sys.stderr.isatty():
            sys.stderr.write("\x1b[?25h\n")  # the cursor, which a table may have hidden
        sys.stderr.flush()
        stop = Terminated() if number == signal.SIGTERM else KeyboardInterrupt()
        self._leave(exit_code(stop))
