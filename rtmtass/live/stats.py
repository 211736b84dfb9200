"""Snapshots of a running engine for displays, logs and tests."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rtmtass.live.meters import RunLevels
from rtmtass.live.mixer import Levels

_N_STEPS = 4096
"""Steps that the percentiles cover: about a minute."""
_N_RECENT = 63


@dataclass(frozen=True)
class StepTimes:
    """Processing time per hop in ms, and the time there is for it.

    `p50_ms` and `p99_ms` cover the last minute, `recent_ms` is the median of the last second,
    `max_ms` the longest step of all.
    """

    p50_ms: float = 0.0
    p99_ms: float = 0.0
    max_ms: float = 0.0
    deadline_ms: float = math.inf
    recent_ms: float = 0.0


@dataclass(frozen=True)
class Latency:
    """Latency from capture to playback in ms; the parts add up to `total_ms`.

    `device_in_ms` and `device_out_ms` are reported by the sound system, the others are exact
    counts of samples. Processing time is not a part: `buffer_ms` covers it. `measured_ms` is
    the total as measured with a chirp, None if it wasn't; it follows the buffers' changes.
    """

    device_in_ms: float = 0.0
    algorithm_ms: float = 0.0
    buffer_ms: float = 0.0
    device_out_ms: float = 0.0
    measured_ms: float | None = None

    @property
    def total_ms(self) -> float:
        """Sum of the parts."""
        return self.device_in_ms + self.algorithm_ms + self.buffer_ms + self.device_out_ms


@dataclass(frozen=True)
class DeviceStats:
    """Counters and latency of a RealtimeEndpoint.

    Attributes:
        overruns: input samples lost.
        underruns: output samples missing.
        xruns: times sound was lost: callbacks for which the sound system reported an xrun, or
            in which input didn't fit or output was missing.
        drift_ppm: how much faster the output's clock runs than the input's, as corrected.
        fill: samples in the playback buffer.
        reopened: times the devices were reopened.
        state: "new", "running", "waiting" for a device that stopped calling back,
            "reconnecting" or "closed".
        message: the latest message about the device.
        start_up_s: time from the creation of the process to the first audible block written;
            None before it, and where the system doesn't report when the process started.
        advice: what to change while sound is lost again and again, else empty.
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
    advice: str = ""


@dataclass(frozen=True)
class RecordingStats:
    """State of the recording: folder, length so far, and for how long there is disk space.

    `message` says why the recording ended early, if it did.
    """

    is_running: bool = False
    folder: str = ""
    seconds: float = 0.0
    left_s: float = 0.0
    message: str = ""


@dataclass(frozen=True)
class Stats:
    """Snapshot of an engine.

    Attributes:
        state: "new", "running", "waiting", "reconnecting", "stopped" or "failed".
        seconds: of audio processed.
        hops: processed so far.
        deadline_misses: hops whose stems were late, so that the input was output.
        skipped: hops never separated, because the worker was too far behind.
        damaged: hops whose input held NaN, Inf or absurd samples, and was replaced by silence.
        cpu_share: CPU time of the process lately, in cores.
        advice: what to change if the computer has been too slow for a while, or loses sound,
            else empty.
    """

    state: str = "new"
    seconds: float = 0.0
    hops: int = 0
    deadline_misses: int = 0
    skipped: int = 0
    damaged: int = 0
    steps: StepTimes = field(default_factory=StepTimes)
    cpu_share: float = 0.0
    levels: Levels = field(default_factory=Levels)
    run_levels: RunLevels = field(default_factory=RunLevels)
    device: DeviceStats = field(default_factory=DeviceStats)
    recording: RecordingStats = field(default_factory=RecordingStats)
    advice: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; NaN and Inf become None."""
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
    """Ring of the latest step times; one thread adds, any may read."""

    def __init__(self) -> None:
        self._steps_ns = np.zeros(_N_STEPS, np.int64)
        self._count = 0
        self._max_ns = 0

    def add(self, step_ns: int) -> None:
        """Add the time of one step."""
        self._steps_ns[self._count % _N_STEPS] = step_ns
        self._count += 1
        if step_ns > self._max_ns:
            self._max_ns = step_ns

    def summary(self, deadline_ms: float) -> StepTimes:
        """Return the statistics of the steps so far."""
        times_ns = self._steps_ns[: min(self._count, _N_STEPS)]
        if not len(times_ns):
            return StepTimes(deadline_ms=deadline_ms)
        p50, p99 = np.percentile(times_ns, (50, 99)) / 1e6
        latest = np.arange(max(0, self._count - _N_RECENT), self._count) % _N_STEPS
        recent = float(np.median(self._steps_ns[latest])) / 1e6
        return StepTimes(float(p50), float(p99), self._max_ns / 1e6, deadline_ms, recent)
