"""How fast is it here? A hop after the other, a hop every 16 ms as live, and whole recordings."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtmtass.config import PRECISIONS
from rtmtass.separator import Separator, load
from rtmtass.weights import DEFAULT, hop_of

Samples = NDArray[np.float32]
Step = Callable[[Samples], object]
"""Takes the next hop, (hop, 1) float32."""

TURN = 50
"""Hops of one candidate before the next has its turn."""
_WARM_UP = 100
_PACED_TURN_S = 1.0
_SOUND_S = 10
_PARTS = {"hot": 0.2, "paced": 0.5, "files": 0.3}
"""What the time given is spent on."""


def cpu_model() -> str:
    """Return the processor's own name for itself, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def sound_of(seconds: float, sample_rate: int = 16000) -> Samples:
    """Return noise bursts over a gliding tone, (n,): nothing is silent, nothing is steady."""
    rng = np.random.default_rng(0)
    n = int(seconds * sample_rate)
    t = np.arange(n) / sample_rate
    tone = np.sin(2 * np.pi * (200 + 50 * np.sin(t)) * t)
    bursts = np.repeat(rng.random(n // 800 + 1), 800)[:n] * rng.standard_normal(n)
    return (0.1 * tone + 0.1 * bursts).astype(np.float32)


class Hops:
    """Feeds a step with sound, hop by hop, and times each.

    Args:
        step: called with (hop, 1) blocks.
        hop: samples of each.
        is_silent: after `_WARM_UP` hops of sound, feed silence.
    """

    def __init__(self, step: Step, hop: int, *, is_silent: bool = False) -> None:
        self._step, self._hop, self._is_silent = step, hop, is_silent
        self._sound = sound_of(_SOUND_S)[:, None].copy()
        self._silence = np.zeros((hop, 1), np.float32)
        self._count = 0

    def __call__(self) -> float:
        """Run the next hop and return the seconds it took."""
        at = self._count * self._hop % (len(self._sound) - self._hop)
        block = self._sound[at : at + self._hop]
        if self._is_silent and self._count >= _WARM_UP:
            block = self._silence
        self._count += 1
        start = time.perf_counter()
        self._step(block)
        return time.perf_counter() - start


def step_of(separator: Separator) -> Step:
    """Return a new stream of a separator, as a function that takes hops and returns the stems."""
    stream = separator.fork(block=separator.hop, channels=1)
    out = np.zeros((len(stream.stems), stream.hop, 1), np.float32)
    highband_weights = np.zeros(out.shape[:2], np.float32)

    def step(block: Samples) -> Samples:
        stream.process_into(block, out, highband_weights)
        return out

    return step


def summarise(times_s: list[float]) -> dict[str, float]:
    """Return p50, p99, p99.9 and the largest in µs, and of how many."""
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
    """Time the candidates one call after the other, in turns, for about so many seconds.

    Other load on the machine so hits all of them alike. Each has one turn at least.
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
    """Time one call every `hop_s`, in turns of a second: caches go cold in between, as live.

    `late` of the result counts calls that took longer than `hop_s`.
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
    """Time `separate` on whole recordings, in turns; how many times faster than real time.

    Args:
        separators: by name.
        seconds: to spend, about; each has three turns at least.
        sound_s: how long the recording is.

    Returns:
        by name p50, the slowest and the fastest, and of how many.
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
    """Measure the two that matter: a hop against its deadline, and whole recordings.

    Args:
        model: name or folder.
        precisions: which to compare.
        seconds: to spend, about, beyond opening the model.
        on_compile: see `load`.

    Returns:
        plain values for JSON: `hot`, `paced` (µs) and `files` (times real time) by
        precision, `deadline_ms`, and what was measured on.
    """
    separators = open_precisions(model, precisions, on_compile)
    first = next(iter(separators.values()))
    hop_s = first.hop / first.sample_rate
    calls = {name: Hops(step_of(each), first.hop) for name, each in separators.items()}
    hot = take_turns(calls, _PARTS["hot"] * seconds)
    paced = pace(calls, _PARTS["paced"] * seconds, hop_s)
    # Three turns of each, and what warming up takes, must fit the time given.
    slowest_s = max(each["p50_us"] for each in hot.values()) * 1e-6
    budget_s = _PARTS["files"] * seconds
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
    """Say in a line what the figures of `measure` mean for this computer."""
    deadline_ms, paced = result["deadline_ms"], result["paced"]
    best = min(paced, key=lambda name: (paced[name]["p99_us"], paced[name]["p50_us"]))
    p99_ms = paced[best]["p99_us"] / 1000
    live = (
        f"this computer runs {best} {result['files'][best]['p50']:.0f}x faster than real time;"
        f" live, 99 of 100 hops take less than {p99_ms:.2f} ms of the {deadline_ms:.0f} there are"
    )
    if p99_ms > deadline_ms:
        return f"{live}: too slow for rtmtass live; recordings can be separated all the same"
    if p99_ms > 0.5 * deadline_ms:
        return f"{live}: that is tight; close other programs, or rtmtass live --extra-buffer 10"
    chosen = paced.get(result["auto"], paced[best])
    if chosen["p99_us"] > 1.5 * paced[best]["p99_us"]:
        return f"{live}; {result['auto']}, the default, is slower: add --precision {best}"
    return live
