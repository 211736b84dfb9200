"""Runs ffmpeg and ffprobe: without a shell, on files only, and no longer than needed."""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from rtmtass.io.media.contents import DEMUXERS, PROTOCOLS
from rtmtass.signals import defer_signals

LOG_LEVEL = ("-hide_banner", "-nostats", "-loglevel", "level+info")
"""Marks each line of the log with its level."""
_ERROR = re.compile(r"^(?:\[[^\]]*\] )*?\[(?:error|fatal|panic)\] (.*)")
_PREFIX = re.compile(r"^(\[[^\]]*\] )+")
_SUMMARIES = re.compile(
    r"Conversion failed|Error (opening|initializing|sending|marking|while (filtering|processing))"
    r"|Nothing was written|Task finished with error|Terminating thread"
)
_ENDED_S = 10.0
_MAX_ERRORS = 1000  # kept, of a file that is damaged all over


def input_words(path: Path) -> list[str]:
    """Return the arguments for an input file; no file can name others, or be an option."""
    # The prefix keeps a colon in a name from being taken for a protocol, a dash for an option.
    allowed = ["-protocol_whitelist", PROTOCOLS, "-format_whitelist", DEMUXERS]
    return [*allowed, "-i", f"file:{path}"]


def probe_words(path: Path) -> list[str]:
    """Return the command that describes a file in JSON."""
    shown = ["-show_format", "-show_streams", "-show_chapters"]
    return ["ffprobe", "-v", "error", "-of", "json", *shown, *input_words(path)]


class Process:
    """A running ffmpeg, whose log is read in a thread.

    Ctrl-C of a terminal doesn't reach it, so that it can't end before its user has: `kill` does.

    Args:
        command: with `LOG_LEVEL`.
        stdin, stdout: whether to open them as pipes.
        on_line: called with each line of the log, in the thread.

    Raises:
        OSError: it can't be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        stdin: bool = False,
        stdout: bool = False,
        on_line: Callable[[str], None] | None = None,
    ) -> None:
        self._on_line = on_line
        self._errors: list[str] = []
        with defer_signals():
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                stdout=subprocess.PIPE if stdout else subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
            )
            self._log = threading.Thread(target=self._read_log, name="rtmtass-ffmpeg", daemon=True)
            self._log.start()

    @property
    def stdin(self) -> io.FileIO:
        """The pipe to it."""
        assert self._process.stdin is not None, "opened with stdin"
        return cast(io.FileIO, self._process.stdin)

    @property
    def stdout(self) -> io.FileIO:
        """The pipe from it."""
        assert self._process.stdout is not None, "opened with stdout"
        return cast(io.FileIO, self._process.stdout)

    @property
    def has_ended(self) -> bool:
        """Whether it has ended by itself."""
        return self._process.poll() is not None

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for its end; return its exit code, None if that takes longer."""
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        self._log.join(_ENDED_S)
        return code

    def reason(self) -> str:
        """Return the last line of its log that says what went wrong."""
        errors = [line for line in self._errors if not _SUMMARIES.search(line)] or self._errors
        return errors[-1] if errors else "no reason given"

    def kill(self) -> None:
        """End it, if it hasn't, and close the pipes; may be called twice."""
        with defer_signals():
            with contextlib.suppress(OSError):
                self._process.kill()
            self._process.wait()
            self._log.join(_ENDED_S)
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()

    def _read_log(self) -> None:
        with io.BufferedReader(cast(io.FileIO, self._process.stderr)) as pipe:
            for data in pipe:
                line = data.decode(errors="replace").strip()
                error = _ERROR.match(line)
                if error and len(self._errors) < _MAX_ERRORS:
                    self._errors.append(_PREFIX.sub("", error[1]))
                if self._on_line is not None:
                    self._on_line(line)
