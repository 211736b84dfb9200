"""Measures speed on this computer: hops back to back, hops at the live rate, whole recordings."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rtmtass.config import PRECISIONS
from rtmtass.separator import Separator, load
from rtmtass.types import SAMPLE_RATE, Samples
from rtmtass.weights import DEFAULT, hop_of

Step = Callable[[Samples], object]
"""Processes the next hop, (hop, 1) float32."""

TURN = 50
"""Calls of one candidate before it is the next one's turn."""
_WARM_UP = 100
_PACED_TURN_S = 1.0
_SOUND_S = 10
_TIME_FRACTIONS = {"hot": 0.2, "paced": 0.5, "files": 0.3}
"""Fraction of the measuring time spent on each part."""


def cpu_model() -> str:
    """Return the processor's model name, or its architecture where the name is unavailable."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def sound_of(seconds: float, sample_rate: int = SAMPLE_RATE) -> Samples:
    """Return noise bursts over a gliding tone, (n,): never silent and never stationary."""
    rng = np.random.default_rng(0)
    n = int(seconds * sample_rate)
    t = np.arange(n) / sample_rate
    tone = np.sin(2 * np.pi * (200 + 50 * np.sin(t)) * t)
    bursts = np.repeat(rng.random(n // 800 + 1), 800)[:n] * rng.standard_normal(n)
    return (0.1 * tone + 0.1 * bursts).astype(np.float32)


class Hops:
    """Feeds a step with test sound hop by hop, and times each call.

    Args:
        step: called with (hop, 1) blocks.
        hop: samples per block.
        is_silent: feed silence after `_WARM_UP` hops of sound.
        sound: to feed over and over, (n,), instead of `sound_of`'s.
    """

    def __init__(
        self, step: Step, hop: int, *, is_silent: bool = False, sound: Samples | None = None
    ) -> None:
        self._step, self._hop, self._is_silent = step, hop, is_silent
        self._sound = (sound_of(_SOUND_S) if sound is None else sound)[:, None].copy()
        self._silence = np.zeros((hop, 1), np.float32)
        self._count = 0

    def __call__(self) -> float:
        """Process the next hop and return the time it took, in seconds."""
        start = self._count * self._hop % (len(self._sound) - self._hop)
        block = self._sound[start : start + self._hop]
        if self._is_silent and self._count >= _WARM_UP:
            block = self._silence
        self._count += 1
        started_s = time.perf_counter()
        self._step(block)
        return time.perf_counter() - started_s


def step_of(separator: Separator) -> Step:
    """Fork a mono stream from a separator; return a function from (hop, 1) to (S, hop, 1)."""
    stream = separator.fork(block=separator.hop, channels=1)
    out = np.zeros((len(stream.stems), stream.hop, 1), np.float32)
    highband_weights = np.zeros(out.shape[:2], np.float32)

    def step(block: Samples) -> Samples:
        stream.process_into(block, out, highband_weights)
        return out

    return step


def summarise(times_s: list[float]) -> dict[str, float]:
    """Return p50, p99, p99.9 and the maximum in µs, and the number of times as `n`."""
    p50, p99, p999 = np.quantile(times_s, [0.5, 0.99, 0.999]) * 1e6
    return {
        "p50_us": float(p50),
        "p99_us": float(p99),
        "p99.9_us": float(p999),
        "max_us": max(times_s) * 1e6,
        "n": len(times_s),
    }


def take_turns(
    candidates: Mapping[str, Callable[[], float]],
    seconds: float,
    *,
    turn: int = TURN,
    warm_up: int = _WARM_UP,
) -> dict[str, dict[str, float]]:
    """Time the candidates back to back, interleaved so that other load affects all alike.

    Args:
        candidates: by name; each call returns its time in seconds.
        seconds: approximate total time; each candidate gets one turn at least.
        turn: calls per turn.
        warm_up: untimed calls of each before the first turn.

    Returns:
        the `summarise` of each, by name.
    """
    for call in candidates.values():
        for _ in range(warm_up):
            call()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    end = time.perf_counter() + seconds
    while True:
        for name, call in candidates.items():
            times[name] += [call() for _ in range(turn)]
        if time.perf_counter() >= end:
            return {name: summarise(each) for name, each in times.items()}


def pace(
    candidates: Mapping[str, Callable[[], float]], seconds: float, hop_s: float
) -> dict[str, dict[str, float]]:
    """Time one call every `hop_s`, in turns of a second, with caches as cold as when live.

    Args:
        candidates: by name; each call returns its time in seconds.
        seconds: approximate total time.
        hop_s: duration of a hop in seconds.

    Returns:
        the `summarise` of each, by name; `late` counts calls longer than `hop_s`.
    """
    times: dict[str, list[float]] = {name: [] for name in candidates}
    n = max(10, round(seconds / hop_s / len(candidates)))
    turn = min(n, round(_PACED_TURN_S / hop_s))
    for _ in range(-(-n // turn)):
        for name, call in candidates.items():
            call()
            due = time.perf_counter()
            for _ in range(turn):
                due += hop_s
                time.sleep(max(0.0, due - time.perf_counter()))
                times[name].append(call())
    return {
        name: {**summarise(each), "late": sum(t > hop_s for t in each)}
        for name, each in times.items()
    }


def file_speed(
    separators: Mapping[str, Separator], seconds: float, *, sound_s: float = 60.0
) -> dict[str, dict[str, float]]:
    """Time `separate` on whole recordings, interleaved.

    Args:
        separators: by name.
        seconds: approximate total time; each separator gets three turns at least.
        sound_s: length of the recording in seconds.

    Returns:
        by name `p50`, `min` and `max` speed as a multiple of real time, and the count `n`.
    """
    sound = sound_of(sound_s)
    for separator in separators.values():
        separator.separate(sound[: len(sound) // 4])
    speeds: dict[str, list[float]] = {name: [] for name in separators}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(min(speeds.values(), key=len)) < 3:
        for name, separator in separators.items():
            start = time.perf_counter()
            separator.separate(sound)
            speeds[name].append(sound_s / (time.perf_counter() - start))
    return {
        name: {
            "p50": float(np.median(each)),
            "min": min(each),
            "max": max(each),
            "n": len(each),
        }
        for name, each in speeds.items()
    }


def open_precisions(
    model: str = DEFAULT,
    precisions: tuple[str, ...] = PRECISIONS,
    on_compile: Callable[[], None] | None = None,
) -> dict[str, Separator]:
    """Open a model once per precision, for blocks of whole hops.

    Raises:
        ModelError, UsageError: as `load`.
    """
    hop = hop_of(model)
    return {
        precision: load(model, precision=precision, block=hop, on_compile=on_compile)
        for precision in precisions
    }


def measure(
    model: str = DEFAULT,
    precisions: tuple[str, ...] = PRECISIONS,
    seconds: float = 40.0,
    on_compile: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Measure the time per hop against its deadline, and the speed on whole recordings.

    Args:
        model: name or folder.
        precisions: to compare.
        seconds: approximate measuring time, without opening the model.
        on_compile: see `load`.

    Returns:
        plain values for JSON: `hot`, `paced` (µs) and `files` (multiples of real time)
        by precision, `deadline_ms`, and a description of computer and model.
    """
    separators = open_precisions(model, precisions, on_compile)
    first = next(iter(separators.values()))
    hop_s = first.hop / first.sample_rate
    calls = {name: Hops(step_of(each), first.hop) for name, each in separators.items()}
    hot = take_turns(calls, _TIME_FRACTIONS["hot"] * seconds)
    paced = pace(calls, _TIME_FRACTIONS["paced"] * seconds, hop_s)
    # The recording is short enough for warm-up and three turns of each within the time.
    slowest_s = max(each["p50_us"] for each in hot.values()) * 1e-6
    budget_s = _TIME_FRACTIONS["files"] * seconds
    sound_s = min(60.0, max(2.0, budget_s * hop_s / slowest_s / (4 * len(separators))))
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "model": first.config.name,
        "deadline_ms": 1000 * hop_s,
        "auto": load(model).precision,
        "weight_bytes": {name: each.weight_bytes for name, each in separators.items()},
        "hot": hot,
        "paced": paced,
        "files": file_speed(separators, budget_s / 2, sound_s=sound_s),
    }


def advice(result: dict[str, Any]) -> str:
    """Return one line on what the result of `measure` means for this computer."""
    deadline_ms, paced = result["deadline_ms"], result["paced"]
    best = min(paced, key=lambda name: (paced[name]["p99_us"], paced[name]["p50_us"]))
    p99_ms = paced[best]["p99_us"] / 1000
    summary = (
        f"this computer runs {best} {result['files'][best]['p50']:.0f}x faster than real time;"
        f" live, 99 % of hops take less than {p99_ms:.2f} ms of a {deadline_ms:.0f} ms deadline"
    )
    if p99_ms > deadline_ms:
        return f"{summary}: too slow for rtmtass live; recordings can still be separated"
    if p99_ms > 0.5 * deadline_ms:
        return (
            f"{summary}: little headroom; close other programs, or add a buffer:"
            " rtmtass live --extra-buffer 10"
        )
    default = paced.get(result["auto"], paced[best])
    if default["p99_us"] > 1.5 * paced[best]["p99_us"]:
        return f"{summary}; {result['auto']}, the default, is slower: add --precision {best}"
    return summary
