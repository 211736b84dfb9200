"""The candidates of quality.py: our model in this process, each rival in its own."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soxr
from numpy.typing import NDArray
from scipy.signal import correlate, correlation_lags

import rtmtass

Samples = NDArray[np.float32]

RATE = 16000
MAX_DELAY_S = 0.1
RIVALS_SCRIPT = Path(__file__).with_name("rivals.py")


class Candidate(Protocol):
    """Separates a mixture into stems, speech first."""

    name: str
    chunk: str
    """Input per call, such as "16 ms" or "whole clips"."""

    @property
    def delay_s(self) -> float:
        """Delay of the output in seconds, already compensated in what the call returns."""
        ...

    def __call__(self, mixture: Samples) -> tuple[Samples, float]:
        """Return the aligned stems, (S, N), of a mixture, (N,), and the processing time in s."""


class OurModel:
    """Our model, processed hop by hop as when live."""

    def __init__(self, model: str, precision: str = "auto", passes: int = 1) -> None:
        self.separator = rtmtass.load(model, block=256, precision=precision, passes=passes)
        self.precision, self.passes = self.separator.precision, passes
        self.name = self.separator.config.name
        if precision != "auto":
            self.name += f" {precision}"
        if passes != 1:
            self.name += f", {passes} passes"
        self.chunk = "16 ms"

    @property
    def delay_s(self) -> float:
        """See Candidate."""
        return self.separator.delay / RATE

    def __call__(self, mixture: Samples) -> tuple[Samples, float]:
        stream = self.separator.fork()
        n, hop = len(mixture), stream.hop
        padded = np.pad(mixture, (0, stream.delay + -(n + stream.delay) % hop))
        out = np.empty((len(stream.stems), len(padded)), np.float32)
        start = time.process_time()
        for i in range(0, len(padded), hop):
            out[:, i : i + hop] = stream.process(padded[i : i + hop])
        return out[:, stream.delay : stream.delay + n], time.process_time() - start


class Rival:
    """One enhancer in its own process.

    Args:
        name: a key of `rivals.RIVALS`, or the display name if `command` is resampled.
        python: interpreter with the rival's packages.
        command: runs instead of rivals.py; must use the protocol of `rivals.serve`.

    Raises:
        RuntimeError: it doesn't run in that interpreter, with the reason.
    """

    def __init__(self, name: str, python: str, command: list[str] | None = None) -> None:
        self.name, self.delay, self._python = name, 0, python
        clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        self._process = subprocess.Popen(
            command or [python, str(RIVALS_SCRIPT), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ if command else clean,
        )
        assert self._process.stdin
        assert self._process.stdout
        self._requests, self._replies = self._process.stdin, self._process.stdout
        line = self._replies.readline()
        self.hello: dict[str, Any] = (
            json.loads(line) if line else {"error": "it exited during start-up"}
        )
        if "error" in self.hello:
            self.close()
            raise RuntimeError(self.hello["error"])
        self.rate, self.chunk = int(self.hello["rate"]), str(self.hello["chunk"])

    def calibrate(self, mixtures: Iterable[Samples]) -> None:
        """Find the delay with the highest cross-correlation between outputs and mixtures."""
        total: Any = 0.0
        max_lag = round(MAX_DELAY_S * self.rate)
        for mixture in mixtures:
            resampled, out, _ = self._enhance(mixture)
            similarity = correlate(out, resampled, method="fft")
            lags = correlation_lags(len(out), len(resampled))
            near = np.abs(lags) <= max_lag
            total = total + np.abs(similarity[near]) / (np.linalg.norm(out) + 1e-9)
        self.delay = int(np.argmax(total)) - max_lag

    @property
    def delay_s(self) -> float:
        """See Candidate."""
        return self.delay / self.rate

    def __call__(self, mixture: Samples) -> tuple[Samples, float]:
        _, out, seconds = self._enhance(mixture)
        aligned = out[self.delay :] if self.delay >= 0 else np.pad(out, (-self.delay, 0))
        speech = soxr.resample(aligned, self.rate, RATE, "VHQ")[: len(mixture)]
        return np.pad(speech, (0, len(mixture) - len(speech)))[None], seconds

    def _enhance(self, mixture: Samples) -> tuple[Samples, Samples, float]:
        """Return the resampled input, the rival's output for it, and the processing time in s."""
        padded = np.pad(mixture, (0, round(2 * MAX_DELAY_S * RATE)))
        resampled = soxr.resample(padded, RATE, self.rate, "VHQ").astype("<f4")
        self._requests.write(struct.pack("<I", len(resampled)) + resampled.tobytes())
        self._requests.flush()
        reply = self._replies.read(8 + 4 * len(resampled))
        if len(reply) != 8 + 4 * len(resampled):
            raise RuntimeError(
                f"{self.name} exited while processing a clip;"
                f" see its error with: {self._python} {RIVALS_SCRIPT} {self.name}"
            )
        out = np.frombuffer(reply[8:], "<f4").astype(np.float32)
        seconds = struct.unpack("<d", reply[:8])[0] * len(mixture) / len(padded)
        return resampled, out, seconds

    def peak_rss_mb(self) -> float | None:
        """Return the peak resident memory of the process in MB; None where /proc is missing."""
        try:
            lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        except OSError:
            return None
        return next(int(x.split()[1]) / 1024 for x in lines if x.startswith("VmHWM"))

    def close(self) -> None:
        """Close the pipes and wait for the process to exit."""
        self._requests.close()
        self._replies.close()
        self._process.wait(timeout=60)


def open_rivals(names: Iterable[str], python: str) -> tuple[list[Rival], dict[str, str]]:
    """Start rivals; return those that run, and by name why the others don't."""
    running, missing = [], {}
    for name in names:
        try:
            running.append(Rival(name, python))
        except (RuntimeError, OSError) as error:
            missing[name] = str(error)
    return running, missing
