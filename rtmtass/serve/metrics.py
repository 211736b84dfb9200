"""Counters of the service in Prometheus' text format, version 0.0.4.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import bisect
import time
from collections import Counter
from collections.abc import Iterable, Mapping

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.0005, 0.001, 0.002, 0.004, 0.006, 0.008, 0.01, 0.012, 0.016, 0.024, 0.032, 0.064, 0.25)
"""Upper bounds of the histograms' buckets: fine around a hop."""


class Histogram:
    """Counts times by size; one thread observes."""

    def __init__(self, bounds: tuple[float, ...] = SECONDS) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count a time."""
        self._counts[bisect.bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    def lines(self, name: str) -> Iterable[str]:
        """Yield the samples: buckets are cumulative."""
        counts, total = list(self._counts), 0
        for bound, count in zip((*map(repr, self._bounds), "+Inf"), counts, strict=True):
            total += count
            yield f'{name}_bucket{{le="{bound}"}} {total}'
        yield f"{name}_sum {self._sum!r}"
        yield f"{name}_count {total}"


class Metrics:
    """What the service counts.

    Attributes:
        n_streams: streams admitted.
        n_hops, n_late: hops of all channels; those delivered more than a hop after they were due.
        bytes_in, bytes_out: payloads of messages.
        closes: connections that ended, by (close code, label).
        refusals: connections and streams that were not admitted, by label.
        steps: time in compiled code for all channels of one round.
        ticks: time from a tick's due time until its output was handed to the sockets.
    """

    def __init__(self) -> None:
        self.n_streams = self.n_hops = self.n_late = self.bytes_in = self.bytes_out = 0
        self.closes: Counter[tuple[int, str]] = Counter()
        self.refusals: Counter[str] = Counter()
        self.steps, self.ticks = Histogram(), Histogram()
        self._started = time.time()

    def render(self, gauges: Mapping[str, tuple[str, float]], info: Mapping[str, str]) -> str:
        """Return the text of `/metrics`.

        Args:
            gauges: help and value by name, without the prefix.
            info: labels of `rtmtass_info`.
        """
        lines: list[str] = []

        def add(name: str, kind: str, about: str, samples: Iterable[str]) -> None:
            lines.extend((f"# HELP {name} {about}", f"# TYPE {name} {kind}", *samples))

        def count(name: str, about: str, value: float) -> None:
            add(name, "counter", about, [f"{name} {value!r}"])

        add("rtmtass_info", "gauge", "The model and its version; always 1.",
            [f"rtmtass_info{_labels(info)} 1"])  # fmt: skip
        for key, (about, value) in gauges.items():
            add(f"rtmtass_{key}", "gauge", about, [f"rtmtass_{key} {value!r}"])
        count("rtmtass_streams_opened_total", "Streams admitted.", self.n_streams)
        count("rtmtass_hops_total", "Hops processed, of all channels.", self.n_hops)
        count("rtmtass_late_hops_total",
              "Hops delivered more than a hop after they were due.", self.n_late)  # fmt: skip
        add("rtmtass_bytes_total", "counter", "Sound received (in) and returned (out).", [
            f'rtmtass_bytes_total{{direction="in"}} {self.bytes_in}',
            f'rtmtass_bytes_total{{direction="out"}} {self.bytes_out}',
        ])  # fmt: skip
        refusals = sorted(self.refusals.items())
        add("rtmtass_refusals_total", "counter", "Connections and streams not admitted.",
            [f"rtmtass_refusals_total{_labels({'reason': k})} {v}" for k, v in refusals]
            )  # fmt: skip
        closes = sorted(self.closes.items())
        add("rtmtass_closes_total", "counter", "Connections that ended, by close code and reason.",
            [f"rtmtass_closes_total{_labels({'code': str(c), 'reason': r})} {v}"
             for (c, r), v in closes])  # fmt: skip
        add("rtmtass_step_seconds", "histogram", "Time in compiled code for a round of hops.",
            self.steps.lines("rtmtass_step_seconds"))  # fmt: skip
        add("rtmtass_tick_seconds", "histogram", "Time from a tick's due time to its delivery.",
            self.ticks.lines("rtmtass_tick_seconds"))  # fmt: skip
        count("process_cpu_seconds_total", "CPU time of the process.", time.process_time())
        add("process_start_time_seconds", "gauge", "Start of the process since the epoch.",
            [f"process_start_time_seconds {self._started!r}"])  # fmt: skip
        return "\n".join(lines) + "\n"


def _labels(labels: Mapping[str, str]) -> str:
    pairs = [f'{name}="{_escaped(value)}"' for name, value in labels.items()]
    return "{" + ",".join(pairs) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
