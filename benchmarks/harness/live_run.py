"""One run of `rtmtass live` on a jackd without a sound card, watched from both ends.

As a script it is the command itself with three taps, or the program that competes.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import FOLDER, module_command
from rtmtass.benchmark import sound_of

sys.path.insert(0, str(FOLDER.parent / "tests"))

from jack_rig import JackServer, Loudspeaker, missing_parts

__all__ = ["RATE", "lags", "missing_parts", "run_once"]

RATE = 16000
EXTRA_S = 2.0
PIECE, MOST_LAG, TOLERANCE = 4000, 4000, 1e-4
ATTEMPTS = 3


def tapped(path: str, words: list[str]) -> int:
    """Run `rtmtass WORDS` in this process and write what the taps saw to `path`."""
    from rtmtass.cli.main import main as rtmtass_main
    from rtmtass.live.devices.device_io import DeviceIO
    from rtmtass.live.engine import Engine
    from rtmtass.live.stats import StepClock

    seen: dict[str, Any] = {}
    steps_ns: list[int] = []
    add, write, stop = StepClock.add, DeviceIO.write, Engine.stop

    def tapped_add(self: StepClock, step_ns: int) -> None:
        steps_ns.append(step_ns)
        add(self, step_ns)

    def tapped_write(self: DeviceIO, stems: Any) -> None:
        write(self, stems)
        seen["first_sound"] = time.monotonic()
        DeviceIO.write = write

    def tapped_stop(self: Engine) -> None:
        if "stats" not in seen:
            seen["stats"] = self.stats().to_dict()
        stop(self)

    StepClock.add, DeviceIO.write, Engine.stop = tapped_add, tapped_write, tapped_stop
    code = rtmtass_main(words)
    Path(path).write_text(json.dumps({**seen, "steps_s": [ns / 1e9 for ns in steps_ns]}))
    return code


def burn() -> None:
    """Keep a core and the memory busy: products of matrices, and copies larger than any cache."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    matrix = np.random.default_rng(0).standard_normal((512, 512)).astype(np.float32)
    big = np.ones(16 << 20, np.float32)
    while True:
        matrix @ matrix
        big.copy()


@contextlib.contextmanager
def competing(is_wanted: bool) -> Iterator[None]:
    """Let another program compete within the block."""
    if not is_wanted:
        yield
        return
    other = subprocess.Popen([*module_command("benchmarks.harness.live_run"), "--burn"])
    try:
        time.sleep(0.5)
        yield
    finally:
        other.kill()
        other.wait()


def start_live(
    command: list[str], has_display: bool, stack: contextlib.ExitStack
) -> subprocess.Popen[bytes]:
    """Start the command, on a pseudo-terminal if it shall have a display; the stack ends it."""
    if not has_display:
        live = subprocess.Popen([*command, "--json"], stdout=subprocess.DEVNULL)
        stack.callback(_end, live)
        return live
    ours, theirs = pty.openpty()
    stack.callback(os.close, ours)
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color"}
    live = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    )
    stack.callback(_end, live)
    os.close(theirs)
    threading.Thread(target=_drain, args=(ours,), daemon=True).start()
    return live


def _end(process: subprocess.Popen[bytes]) -> None:
    """End what hasn't ended by itself."""
    if process.poll() is None:
        process.kill()
        process.wait()


def _drain(end: int) -> None:
    """Read what the display draws, as a terminal does."""
    with contextlib.suppress(OSError):
        while os.read(end, 65536):
            pass


def lags(said: np.ndarray, heard: np.ndarray) -> list[int]:
    """Return the lag of `heard` in samples, four times a second."""
    found = []
    for at in range(RATE // 2, len(heard) - PIECE - MOST_LAG, PIECE):
        piece, window = said[at : at + PIECE], heard[at : at + PIECE + MOST_LAG]
        size = 1 << (len(window) + PIECE).bit_length()
        spec = np.fft.rfft(window, size) * np.conj(np.fft.rfft(piece, size))
        found.append(int(np.argmax(np.fft.irfft(spec)[:MOST_LAG])))
    return found


def run_once(block_ms: int, has_display: bool, is_loaded: bool, seconds: float) -> dict[str, Any]:
    """Run one case once; again if the stream didn't come up, which says nothing of its course."""
    for attempt in range(ATTEMPTS):
        try:
            with tempfile.TemporaryDirectory() as folder, competing(is_loaded):
                return stream(block_ms, has_display, seconds, Path(folder) / "seen.json")
        except (AssertionError, RuntimeError, subprocess.TimeoutExpired) as error:
            print(f"attempt {attempt + 1} failed: {error}", file=sys.stderr)
            time.sleep(1)
    raise SystemExit(f"no stream of {block_ms} ms blocks in {ATTEMPTS} attempts")


def stream(block_ms: int, has_display: bool, seconds: float, path: Path) -> dict[str, Any]:
    """Start card, command and loudspeaker, and compare what was heard with what was said."""
    period = block_ms * RATE // 1000
    said = sound_of(seconds)[: int(seconds * RATE) // period * period]
    words = ["live", "--block", str(period), "--duration", str(seconds + EXTRA_S)]
    command = [*module_command("benchmarks.harness.live_run"), "--tapped", str(path), *words]
    with contextlib.ExitStack() as stack:
        server = JackServer(rate=RATE, period=period, channels=1)
        stack.callback(server.close)
        started = time.monotonic()
        live = start_live(command, has_display, stack)
        speaker = Loudspeaker(server, said[:, None], seconds)
        stack.callback(speaker.close)
        heard, xruns = speaker.recorded()
        if live.wait(60):
            raise RuntimeError(f"rtmtass live ended with {live.returncode}")
    seen = json.loads(path.read_text())
    late = lags(said, heard[:, 0])
    lag = int(np.median(late)) if late else 0
    wrong = np.abs(heard[lag:, 0] - said[: len(heard) - lag]) > TOLERANCE
    return {
        "start_s": seen["first_sound"] - started,
        "steps_s": seen["steps_s"],
        "stats": seen["stats"],
        "lags": late,
        "wrong": int(wrong.sum()),
        "compared": len(wrong),
        "jackd_xruns": xruns,
        "machine_stalls": server.disturbances,
    }


if __name__ == "__main__":
    if sys.argv[1] == "--tapped":
        sys.exit(tapped(sys.argv[2], sys.argv[3:]))
    burn()
