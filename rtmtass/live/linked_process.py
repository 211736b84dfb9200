"""Starts a process of this package and connects it: to draw, to serve a page, to run the engine.

The child gets the address and key of the connection in its environment, where no other user sees
them. Only bytes are exchanged, never pickled objects.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import threading
from collections.abc import Callable, Sequence
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener
from typing import Any

from rtmtass.live.os_priority import ordinary_priority

DISPLAY, PAGE, ENGINE = "DISPLAY", "PAGE", "ENGINE"
"""Roles of children: the terminal's display, the page's server, the page's engine."""
_LONGEST_LINE, _END_S = 4096, 1.0
_ADDRESS, _KEY = "RTMTASS_{}_ADDRESS", "RTMTASS_{}_KEY"


class LinkedProcess:
    """A child process, and the connection to it once it has called `connect`.

    Args:
        command: to run.
        role: of the child, which passes it to `connect`.
        on_connect: called with the connection from a thread of this object.
        on_line: called with each line of the child's stderr from another; None leaves stderr as
            it is.
        options: of `subprocess.Popen`.

    Attributes:
        connection: None until the child has connected.
        process: the child.
    """

    def __init__(
        self,
        command: Sequence[str],
        role: str,
        *,
        on_connect: Callable[[Connection], None] | None = None,
        on_line: Callable[[str], None] | None = None,
        **options: Any,
    ) -> None:
        self.connection: Connection | None = None
        self._on_connect, self._on_line = on_connect, on_line
        key = secrets.token_bytes(16)
        self._listener = Listener(None, authkey=key)
        environment = {
            **os.environ,
            _ADDRESS.format(role): str(self._listener.address),
            _KEY.format(role): key.hex(),
        }
        try:
            with ordinary_priority():
                self.process = subprocess.Popen(
                    command, env=environment, stderr=subprocess.PIPE if on_line else None, **options
                )
        except OSError:
            self._listener.close()
            raise
        self._accepting = threading.Thread(
            target=self._accept, name=f"rtmtass-{role.lower()}", daemon=True
        )
        self._accepting.start()
        self._reading = threading.Thread(target=self._read_lines, name="rtmtass-lines", daemon=True)
        self._reading.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError, EOFError, AuthenticationError):
            self.connection = self._listener.accept()
            self._listener.close()  # for one child
        if self.connection and self._on_connect:
            self._on_connect(self.connection)

    def _read_lines(self) -> None:
        if self._on_line and self.process.stderr:
            while line := self.process.stderr.readline(_LONGEST_LINE):
                self._on_line(line.decode("utf-8", "replace").rstrip("\n"))

    @property
    def is_alive(self) -> bool:
        """Whether the process is running."""
        return self.process.poll() is None

    def wait(self) -> int:
        """Wait for the end of the process; return its exit code.

        After it neither `on_connect` nor `on_line` is running, unless a grandchild goes on.
        """
        code = self.process.wait()
        self._reading.join(_END_S)
        if self.connection:
            self._accepting.join(_END_S)
        return code

    def close(self, timeout_s: float) -> None:
        """Close the connection, at which the child ends by itself, and wait for that; else kill it.

        May be called twice.
        """
        if self.connection:
            self.connection.close()
        elif self._accepting.is_alive():
            # accept() has no timeout, and closing the listener doesn't end it: a stranger does.
            with contextlib.suppress(OSError, EOFError):
                Client(self._listener.address).close()
        with contextlib.suppress(OSError):
            self._listener.close()
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stderr:
            self._reading.join(_END_S)
            self.process.stderr.close()


def is_linked(role: str) -> bool:
    """Return whether this process was started as the child of a `LinkedProcess`."""
    return _ADDRESS.format(role) in os.environ


def connect(role: str) -> Connection:
    """Connect to the parent, once.

    Raises:
        OSError, EOFError: the parent has ended.
    """
    address = os.environ[_ADDRESS.format(role)]
    key = bytes.fromhex(os.environ[_KEY.format(role)])
    return Client(address, authkey=key)
