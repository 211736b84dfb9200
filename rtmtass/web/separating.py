"""The process that separates one uploaded recording, by the functions of `rtmtass separate`.

It runs as `python -m rtmtass.web.separating`, at low priority beside a live engine, and prints a
line of JSON for each step. It ends when nobody reads them any more.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rtmtass
from rtmtass.errors import OutputError, RtmtassError
from rtmtass.fullband import StreamSeparator
from rtmtass.io.paths import converted, quoted
from rtmtass.io.spans import is_seekable
from rtmtass.offline.plan import Job, Result, SeparateOptions, plan
from rtmtass.offline.provenance import describe_model
from rtmtass.offline.separate import separate_file
from rtmtass.web.folder import disk_problem
from rtmtass.web.overview import MIXTURE
from rtmtass.web.tap import PageTap

LOSSLESS = ("wav", "flac")
_RUNTIME = "numba"
_NICENESS = 10
_EVERY_S = 0.1  # between two lines of progress
_COMPILING = "compiling for this CPU, once (about 20 s)"


def main(words: Sequence[str]) -> int:
    """Separate the recording that `command` names; return 1 if it failed."""
    path, folder, label, model, precision, passes = words
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the terminal is the server's
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
    try:
        _report(**_separate(Path(path), Path(folder), model, precision, int(passes)))
    except BrokenPipeError:
        os._exit(1)  # the server is gone
    except RtmtassError as error:
        _report(problem=_shown(error, Path(path), label))
        return 1
    except MemoryError:
        _report(problem=f"{label} needs more memory than there is; split it")
        return 1
    except Exception as error:
        traceback.print_exc()
        _report(problem=f"{label} failed by a bug in rtmtass ({type(error).__name__}); its"
                " terminal shows where")  # fmt: skip
        return 1
    return 0


def _separate(path: Path, folder: Path, model: str, precision: str, passes: int) -> dict[str, Any]:
    """Separate as `rtmtass separate PATH -o FOLDER` does; return what the server keeps of it."""
    options = SeparateOptions(
        folder=folder, model=describe_model(model, precision, passes, _RUNTIME)
    )
    (job,) = plan([path], options)
    tap = PageTap(folder, _to_copy(job))

    def load() -> StreamSeparator:
        return rtmtass.load(
            model, precision=precision, passes=passes, on_compile=lambda: _report(note=_COMPILING)
        )

    with contextlib.suppress(FileExistsError):
        folder.mkdir()
    result = separate_file(job, options, load, _Lines(), tap)
    tap.finish()
    files = {MIXTURE: path, **result.outputs}
    return {
        "sample_rate": result.sample_rate,
        "channels": result.channels,
        "frames": result.frames,
        "clipped": dict(result.clipped),
        "stems": {name: str(target) for name, target in result.outputs.items()},
        "tracks": {name: str(tap.copies.get(name, target)) for name, target in files.items()},
    }


def _to_copy(job: Job) -> list[str]:
    """Return the tracks whose files can't be read at any position."""
    stems = [n for n, path in job.targets.items() if path.suffix.lstrip(".") not in LOSSLESS]
    return [*([] if is_seekable(job.path) else [MIXTURE]), *stems]


class _Lines:
    """A `ProgressListener` that prints lines of JSON, a few per second."""

    def __init__(self) -> None:
        self._frames, self._next_s = 0, 0.0

    def started(self, path: Path, frames: int | None, sample_rate: int) -> None:
        """See `ProgressListener`."""
        _report(frames=frames, note="")

    def advanced(self, frames: int) -> None:
        """See `ProgressListener`."""
        self._frames += frames
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + _EVERY_S
            _report(done=self._frames)

    def finished(self, result: Result) -> None:
        """See `ProgressListener`."""


def _report(**values: Any) -> None:
    """Print a line.

    Raises:
        BrokenPipeError: the server has ended.
    """
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def _shown(error: RtmtassError, path: Path, label: str) -> str:
    """Return an error's line with the recording's own name in place of our path."""
    cause = error.__cause__
    if isinstance(error, OutputError) and isinstance(cause, OSError):
        return disk_problem(cause)
    text = str(error)
    if text.startswith(str(path)):
        text = label + text.removeprefix(str(path))
    named = Path(label)
    text = text.replace(str(converted(path)), quoted(converted(named)))
    return text.replace(str(path), quoted(named))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
