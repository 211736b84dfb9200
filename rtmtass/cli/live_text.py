"""What `rtmtass live` prints: one line a second, JSON, and the summary at the end."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rtmtass.live.events import Event, minutes

if TYPE_CHECKING:
    from pathlib import Path

    from rtmtass.live.recorder import Take
    from rtmtass.live.stats import Stats


def printable(text: str, encoding: str | None = None) -> str:
    """Return the text with "?" for control characters and for what the encoding lacks."""
    plain = "".join(char if char.isprintable() else "?" for char in text)
    return plain.encode(encoding, "replace").decode(encoding) if encoding else plain


def plain_line(stats: Stats, events: Sequence[Event] = ()) -> str:
    """Return the engine's state in one line, and the events to print.

    Levels are RMS in dBFS; of a stem before its gain, and after it where it differs.
    """
    steps, device = stats.steps, stats.device
    recording = f"  rec {stats.recording.seconds:.0f} s" if stats.recording.is_running else ""
    measured_ms = device.latency.measured_ms
    measured = "" if measured_ms is None else f" (measured {measured_ms:.1f})"
    printed = "".join(f"  | {event}" for event in events)
    return (
        f"{stats.state} {stats.seconds:.0f} s  dB: {_levels(stats)}"
        f"  step {steps.p50_ms:.2f}/{steps.p99_ms:.2f}/{steps.max_ms:.2f} of"
        f" {steps.deadline_ms:.0f} ms  late {stats.deadline_misses + stats.skipped}"
        f"  lost {device.overruns}+{device.underruns}  xruns {device.xruns}"
        f"  drift {device.drift_ppm:+.0f} ppm  latency {device.latency.total_ms:.1f} ms{measured}"
        f"  cpu {100 * stats.cpu_share:.0f} %{recording}{printed}"
    )


def _levels(stats: Stats) -> str:
    levels = stats.levels

    def clip(name: str) -> str:
        return " CLIP" if name in levels.clipped else ""

    words = [f"in {levels.mixture[0]:.0f}{clip('mixture')}"]
    for stem, (after_db, _peak) in levels.stems.items():
        before_db = levels.separated.get(stem, (after_db, 0.0))[0]
        is_same = before_db == after_db or abs(before_db - after_db) < 0.5
        words.append(f"{stem} {before_db:.0f}" + ("" if is_same else f">{after_db:.0f}"))
    return "  ".join([*words, f"out {levels.output[0]:.0f}{clip('output')}"])


def event_object(event: Event) -> dict[str, Any]:
    """Return an event for JSON."""
    return {
        "event": event.text,
        "at": minutes(event.at_s),
        "at_s": round(event.at_s, 3),
        "count": event.count,
    }


@dataclass(frozen=True)
class Summary:
    """A finished stream.

    Attributes:
        stats: the last of its statistics.
        takes: that were recorded.
        gains_db: of the mix in the end, by stem.
        model: as given with --model, or None.
    """

    stats: Stats
    takes: Sequence[Take]
    gains_db: Mapping[str, float]
    model: str | None = None

    def command(self, take: Take) -> str:
        """Return the command that separates a take's mixture again and writes a remix."""
        model = ["--model", self.model] if self.model else []
        return shlex.join([
            "rtmtass", "separate", _argument(take.folder / "mixture.wav"), *model,
            "--stems", "none", "--mix", _argument(take.folder / "remix.wav"),
            "--gain", format_gains(self.gains_db),
        ])  # fmt: skip

    def lines(self) -> list[str]:
        """Return the summary as text."""
        stats, device = self.stats, self.stats.device
        measured_ms = device.latency.measured_ms
        measured = "" if measured_ms is None else f" (measured {measured_ms:.1f} ms)"
        late = stats.deadline_misses + stats.skipped
        share = f", {100 * late / stats.hops:.2g} %" if late else ""
        lines = [
            f"ended after {minutes(stats.seconds)}",
            f"late     {late} of {stats.hops} hops{share}; xruns {device.xruns}; lost"
            f" {device.overruns} samples in, {device.underruns} out; reopened {device.reopened}",
            f"latency  {device.latency.total_ms:.1f} ms{measured}; step p50"
            f" {stats.steps.p50_ms:.2f}, p99 {stats.steps.p99_ms:.2f}, max"
            f" {stats.steps.max_ms:.2f} of {stats.steps.deadline_ms:.0f} ms",
            f"levels   {self._levels()}",
        ]
        for take in self.takes:
            tracks = ", ".join(take.tracks) + (", as RF64: over 4 GB" if take.is_rf64 else "")
            lines += [
                f"take     {take.folder}: {minutes(take.seconds)} of {tracks}",
                f"         to remix it: {self.command(take)}",
            ]
        return lines

    def _levels(self) -> str:
        run = self.stats.run_levels
        names = [*(name for name in ("mixture",) if name in run.levels)]
        names += [name for name in run.levels if name not in ("mixture", "output")]
        names += [name for name in ("output",) if name in run.levels]
        words = [
            f"{name} {run.levels[name][0]:.1f} dB (peak {run.levels[name][1]:.1f})"
            for name in names
        ]
        clipped = [f"{name} clipped {n} times" for name, n in run.clipped.items() if n]
        return ", ".join([*words, *clipped])

    def to_dict(self) -> dict[str, Any]:
        """Return the same facts for JSON."""
        return {
            "seconds": round(self.stats.seconds, 3),
            "late": self.stats.deadline_misses + self.stats.skipped,
            "hops": self.stats.hops,
            "xruns": self.stats.device.xruns,
            "latency_ms": round(self.stats.device.latency.total_ms, 3),
            "takes": [
                {
                    "folder": str(take.folder),
                    "seconds": round(take.seconds, 3),
                    "tracks": list(take.tracks),
                    "command": self.command(take),
                }
                for take in self.takes
            ],
        }


def format_gains(gains_db: Mapping[str, float]) -> str:
    """Return gains as --gain takes them."""
    return ",".join(f"{stem}={gain:g}" for stem, gain in gains_db.items())


def audible_gains(
    gains_db: Mapping[str, float], muted: frozenset[str], soloed: frozenset[str]
) -> dict[str, float]:
    """Return gains in dB with mutes and solos applied: -inf for what they silence."""
    return {
        stem: -math.inf if stem in muted or (soloed and stem not in soloed) else gain
        for stem, gain in gains_db.items()
    }


def _argument(path: Path) -> str:
    """Return a path that isn't taken for an option."""
    return f"./{path}" if str(path).startswith("-") else str(path)
