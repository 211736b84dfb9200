"""Who takes part in quality.py: our model in this process, each rival in its own."""

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
MOST_DELAY_S = 0.1


class Candidate(Protocol):
    """Whoever takes a mixture and hands over stems, speech first."""

    name: str
    fed: str
    """By how much sound at a time."""

    @property
    def delay_s(self) -> float:
        """Seconds its output is late, taken out here."""
        ...

    def __call__(self, mixture: Samples) -> tuple[Samples, float]:
        """Return (S, N) stems of an (N,) mixture, aligned, and the seconds they took."""


class Ours:
    """Our model, fed hop by hop as live."""

    def __init__(self, model: str, precision: str = "auto", passes: int = 1) -> None:
        self.separator = rtmtass.load(model, block=256, precision=precision, passes=passes)
        self.precision, self.passes = self.separator.precision, passes
        self.name = self.separator.config.name
        if precision != "auto":
            self.name += f" {precision}"
        if passes != 1:
            self.name += f", {passes} passes"
        self.fed = "16 ms"

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
        for at in range(0, len(padded), hop):
            out[:, at : at + hop] = stream.process(padded[at : at + hop])
        return out[:, stream.delay : stream.delay + n], time.process_time() - start


class Rival:
    """One enhancer in its own process.

    Args:
        name: of `rivals.RIVALS`, or what to call what `command` starts.
        python: the interpreter it lives in.
        command: what answers as rivals.py does, if not that.

    Raises:
        RuntimeError: it doesn't run there; says why.
    """

    def __init__(self, name: str, python: str, command: list[str] | None = None) -> None:
        self.name, self.delay = name, 0
        lonely = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        self._process = subprocess.Popen(
            command or [python, str(Path(__file__).with_name("rivals.py")), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ if command else lonely,
        )
        assert self._process.stdin
        assert self._process.stdout
        self._asked, self._answers = self._process.stdin, self._process.stdout
        line = self._answers.readline()
        self.hello: dict[str, Any] = json.loads(line) if line else {"error": "it died at its start"}
        if "error" in self.hello:
            self.close()
            raise RuntimeError(self.hello["error"])
        self.rate, self.fed = int(self.hello["rate"]), str(self.hello["fed"])

    def calibrate(self, mixtures: Iterable[Samples]) -> None:
        """Find the delay at which outputs resemble the mixtures most."""
        total: Any = 0.0
        most = round(MOST_DELAY_S * self.rate)
        for mixture in mixtures:
            given, out, _ = self._enhance(mixture)
            similarity = correlate(out, given, method="fft")
            lags = correlation_lags(len(out), len(given))
            near = np.abs(lags) <= most
            total = total + np.abs(similarity[near]) / (np.linalg.norm(out) + 1e-9)
        self.delay = int(np.argmax(total)) - most

    @property
    def delay_s(self) -> float:
        """See Candidate."""
        return self.delay / self.rate

    def __call__(self, mixture: Samples) -> tuple[Samples, float]:
        _, out, seconds = self._enhance(mixture)
        late = out[self.delay :] if self.delay >= 0 else np.pad(out, (-self.delay, 0))
        speech = soxr.resample(late, self.rate, RATE, "VHQ")[: len(mixture)]
        return np.pad(speech, (0, len(mixture) - len(speech)))[None], seconds

    def _enhance(self, mixture: Samples) -> tuple[Samples, Samples, float]:
        """Return what the rival was given, what it made of it, and in how many seconds."""
        longer = np.pad(mixture, (0, round(2 * MOST_DELAY_S * RATE)))
        given = soxr.resample(longer, RATE, self.rate, "VHQ").astype("<f4")
        self._asked.write(struct.pack("<I", len(given)) + given.tobytes())
        self._asked.flush()
        answer = self._answers.read(8 + 4 * len(given))
        if len(answer) != 8 + 4 * len(given):
            raise RuntimeError(f"{self.name} died at work; try it alone: rivals.py {self.name}")
        out = np.frombuffer(answer[8:], "<f4").astype(np.float32)
        seconds = struct.unpack("<d", answer[:8])[0] * len(mixture) / len(longer)
        return given, out, seconds

    def peak_rss_mb(self) -> float | None:
        """Return the most memory its process ever held, where the system tells (Linux)."""
        try:
            lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        except OSError:
            return None
        return next(int(x.split()[1]) / 1024 for x in lines if x.startswith("VmHWM"))

    def close(self) -> None:
        """Let the process end."""
        self._asked.close()
        self._answers.close()
        self._process.wait(timeout=60)


def open_rivals(names: Iterable[str], python: str) -> tuple[list[Rival], dict[str, str]]:
    """Return the rivals that run, and why the others don't."""
    there, missing = [], {}
    for name in names:
        try:
            there.append(Rival(name, python))
        except (RuntimeError, OSError) as error:
            missing[name] = str(error)
    return there, missing
