"""One run of `rtmtass live` on jackd with a dummy driver, measured from input to output.

As a script it runs the command itself with three measuring taps, or the competing load.
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
import unittest.mock
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
SEGMENT, MAX_LAG, TOLERANCE = 4000, 4000, 1e-4
ATTEMPTS = 3


def tapped(path: str, words: list[str]) -> int:
    """Run `rtmtass WORDS` in this process and write the taps' measurements to `path`."""
    from rtmtass.cli.main import main as rtmtass_main
    from rtmtass.live.devices.device_io import DeviceIO
    from rtmtass.live.engine import Engine
    from rtmtass.live.stats import StepClock

    measured: dict[str, Any] = {}
    steps_ns: list[int] = []
    add, write, stop = StepClock.add, DeviceIO.write, Engine.stop

    def tapped_add(self: StepClock, step_ns: int) -> None:
        steps_ns.append(step_ns)
        add(self, step_ns)

    def tapped_write(self: DeviceIO, stems: Any) -> None:
        write(self, stems)
        measured["first_sound"] = time.monotonic()
        write_tap.stop()

    def tapped_stop(self: Engine) -> None:
        if "stats" not in measured:
            measured["stats"] = self.stats().to_dict()
        stop(self)

    unittest.mock.patch.object(StepClock, "add", tapped_add).start()
    unittest.mock.patch.object(Engine, "stop", tapped_stop).start()
    write_tap = unittest.mock.patch.object(DeviceIO, "write", tapped_write)
    write_tap.start()
    code = rtmtass_main(words)
    Path(path).write_text(json.dumps({**measured, "steps_s": [ns / 1e9 for ns in steps_ns]}))
    return code


def burn() -> None:
    """Load the first core and the memory: matrix products, and copies larger than any cache."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    matrix = np.random.default_rng(0).standard_normal((512, 512)).astype(np.float32)
    big = np.ones(16 << 20, np.float32)
    while True:
        matrix @ matrix
        big.copy()


@contextlib.contextmanager
def competing(is_enabled: bool) -> Iterator[None]:
    """Run the competing load during the block, if enabled."""
    if not is_enabled:
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
    """Start the command, with `--json` or a display on a pseudo-terminal; the stack stops it."""
    if not has_display:
        live = subprocess.Popen([*command, "--json"], stdout=subprocess.DEVNULL)
        stack.callback(_end, live)
        return live
    terminal, device = pty.openpty()
    stack.callback(os.close, terminal)
    fcntl.ioctl(device, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color"}
    live = subprocess.Popen(
        command, stdin=device, stdout=device, stderr=device, env=environment, start_new_session=True
    )
    stack.callback(_end, live)
    os.close(device)
    threading.Thread(target=_drain, args=(terminal,), daemon=True).start()
    return live


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the process if it is still running."""
    if process.poll() is None:
        process.kill()
        process.wait()


def _drain(terminal: int) -> None:
    """Read and discard the display's output, so that its writes don't block."""
    with contextlib.suppress(OSError):
        while os.read(terminal, 65536):
            pass


def lags(played: np.ndarray, recorded: np.ndarray) -> list[int]:
    """Return the lag of `recorded` in samples, measured four times a second."""
    measured = []
    for start in range(RATE // 2, len(recorded) - SEGMENT - MAX_LAG, SEGMENT):
        segment = played[start : start + SEGMENT]
        window = recorded[start : start + SEGMENT + MAX_LAG]
        size = 1 << (len(window) + SEGMENT).bit_length()
        spec = np.fft.rfft(window, size) * np.conj(np.fft.rfft(segment, size))
        measured.append(int(np.argmax(np.fft.irfft(spec)[:MAX_LAG])))
    return measured


def run_once(block_ms: int, has_display: bool, is_loaded: bool, seconds: float) -> dict[str, Any]:
    """Run one case, and retry if the stream fails to start."""
    for attempt in range(ATTEMPTS):
        try:
            with tempfile.TemporaryDirectory() as folder, competing(is_loaded):
                return stream(block_ms, has_display, seconds, Path(folder) / "measured.json")
        except (AssertionError, RuntimeError, subprocess.TimeoutExpired) as error:
            print(f"attempt {attempt + 1} failed: {error}", file=sys.stderr)
            time.sleep(1)
    raise SystemExit(f"the stream with {block_ms} ms blocks failed to start {ATTEMPTS} times")


def stream(block_ms: int, has_display: bool, seconds: float, path: Path) -> dict[str, Any]:
    """Start jackd, the command and the test loop; compare the recording with what was played."""
    period = block_ms * RATE // 1000
    played = sound_of(seconds)[: int(seconds * RATE) // period * period]
    words = ["live", "--block", str(period), "--duration", str(seconds + EXTRA_S)]
    command = [*module_command("benchmarks.harness.live_run"), "--tapped", str(path), *words]
    with contextlib.ExitStack() as stack:
        server = JackServer(rate=RATE, period=period, channels=1)
        stack.callback(server.close)
        started = time.monotonic()
        live = start_live(command, has_display, stack)
        speaker = Loudspeaker(server, played[:, None], seconds)
        stack.callback(speaker.close)
        recorded, xruns = speaker.recorded()
        if live.wait(60):
            raise RuntimeError(f"rtmtass live exited with status {live.returncode}")
    measured = json.loads(path.read_text())
    all_lags = lags(played, recorded[:, 0])
    lag = int(np.median(all_lags)) if all_lags else 0
    wrong = np.abs(recorded[lag:, 0] - played[: len(recorded) - lag]) > TOLERANCE
    return {
        "start_s": measured["first_sound"] - started,
        "steps_s": measured["steps_s"],
        "stats": measured["stats"],
        "lags": all_lags,
        "wrong": int(wrong.sum()),
        "compared": len(wrong),
        "jackd_xruns": xruns,
        "machine_stalls": server.disturbances,
    }


if __name__ == "__main__":
    if sys.argv[1] == "--tapped":
        sys.exit(tapped(sys.argv[2], sys.argv[3:]))
    burn()
