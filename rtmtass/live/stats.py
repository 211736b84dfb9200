"""What a running engine knows of itself, frozen at a moment, for displays, logs and tests."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rtmtass.live.mixer import Levels

_REMEMBERED = 4096
"""Steps the percentiles are of: about a minute."""
_RECENT = 63


@dataclass(frozen=True)
class StepTimes:
    """How long a hop took to separate, in ms, and how long it may take.

    `recent_ms` is the median of the last second, the others are of a minute or all.
    """

    p50_ms: float = 0.0
    p99_ms: float = 0.0
    max_ms: float = 0.0
    deadline_ms: float = math.inf
    recent_ms: float = 0.0


@dataclass(frozen=True)
class Latency:
    """From capture to playback in ms: parts add up to `total_ms`.

    `device_in_ms` and `device_out_ms` are what the sound system claims; the
    others are counted in samples. What a step takes is no part of its own: the
    buffers are there for it. `measured_ms` is the true sum, where a chirp was played
    and came back, else None.
    """

    device_in_ms: float = 0.0
    algorithm_ms: float = 0.0
    buffer_ms: float = 0.0
    device_out_ms: float = 0.0
    measured_ms: float | None = None

    @property
    def total_ms(self) -> float:
        """Everything together."""
        return self.device_in_ms + self.algorithm_ms + self.buffer_ms + self.device_out_ms


@dataclass(frozen=True)
class DeviceStats:
    """What a source or sink with a clock of its own knows; files and arrays have none.

    Attributes:
        overruns: samples of input lost.
        underruns: samples of output missing.
        xruns: times the sound system itself reported one.
        drift_ppm: how much faster the output's clock runs than the input's, as corrected.
        fill: samples waiting to be played.
        reopened: times the stream had to be opened again.
        state: "running", "waiting" for a device that has fallen silent, "reconnecting", or
            "closed".
        message: the last thing that happened to the device.
        start_up_s: from the creation of the process to the first separated block that was
            handed to the device to be heard; None before, and where the system doesn't tell.
    """

    overruns: int = 0
    underruns: int = 0
    xruns: int = 0
    drift_ppm: float = 0.0
    fill: int = 0
    reopened: int = 0
    state: str = "running"
    message: str = ""
    latency: Latency = field(default_factory=Latency)
    start_up_s: float | None = None


@dataclass(frozen=True)
class RecordingStats:
    """The recording under way: where, how long, and how long the disk lasts."""

    is_running: bool = False
    folder: str = ""
    seconds: float = 0.0
    left_s: float = 0.0
    message: str = ""


@dataclass(frozen=True)
class Stats:
    """An engine at a moment.

    Attributes:
        state: "new", "running", "waiting", "reconnecting", "stopped" or "failed".
        seconds: of sound that went through.
        hops: so many steps of the separator were due.
        deadline_misses: of these came too late; the input was heard instead.
        skipped: of these were never begun, as the computer was too far behind.
        cpu_share: of one core, since the last look.
        advice: what to change, if the computer is too slow for long; else empty.
    """

    state: str = "new"
    seconds: float = 0.0
    hops: int = 0
    deadline_misses: int = 0
    skipped: int = 0
    steps: StepTimes = field(default_factory=StepTimes)
    cpu_share: float = 0.0
    levels: Levels = field(default_factory=Levels)
    device: DeviceStats = field(default_factory=DeviceStats)
    recording: RecordingStats = field(default_factory=RecordingStats)
    advice: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; what isn't finite becomes None."""
        values: dict[str, Any] = _plain(dataclasses.asdict(self))
        values["start_up_s"] = values["device"].pop("start_up_s")
        values["device"]["latency"]["total_ms"] = _plain(self.device.latency.total_ms)
        return values


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    return value


class StepClock:
    """Remembers the latest step times in place; one thread adds, any may look."""

    def __init__(self) -> None:
        self._steps_ns = np.zeros(_REMEMBERED, np.int64)
        self._count = 0
        self._max_ns = 0

    def add(self, step_ns: int) -> None:
        """Remember one step."""
        self._steps_ns[self._count % _REMEMBERED] = step_ns
        self._count += 1
        if step_ns > self._max_ns:
            self._max_ns = step_ns

    def summary(self, deadline_ms: float) -> StepTimes:
        """Return percentiles of the last minute, and the longest of all."""
        known = self._steps_ns[: min(self._count, _REMEMBERED)]
        if not len(known):
            return StepTimes(deadline_ms=deadline_ms)
        p50, p99 = np.percentile(known, (50, 99)) / 1e6
        latest = np.arange(max(0, self._count - _RECENT), self._count) % _REMEMBERED
        recent = float(np.median(self._steps_ns[latest])) / 1e6
        return StepTimes(float(p50), float(p99), self._max_ns / 1e6, deadline_ms, recent)
