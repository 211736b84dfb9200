"""`rtmtass train --profile`: times the parts of a training step."""

from __future__ import annotations

import dataclasses
import itertools
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from rtmtass.training.config import TrainConfig
from rtmtass.training.data.corpus import Corpus
from rtmtass.training.data.loader import Batch, batches, corpus_of, open_examples
from rtmtass.training.distributed import DistributedContext
from rtmtass.training.trainer import Trainer

WARM_UP = 5
"""Untimed steps at the start; a CUDA graph is captured in the second."""


@dataclass(frozen=True)
class Profile:
    """Result of a profile; times are means over its steps.

    Attributes:
        device: name of the device.
        steps, batch, seconds: number of steps, examples per batch, length of an example.
        is_captured: whether the steps were replays of a CUDA graph.
        step_ms: wall time of a step, including its examples.
        steps_per_s: 1000 / `step_ms`.
        x_real_time: seconds of mixtures trained on per second.
        parts_ms: time of each part of a step.
        parts_without_graph_ms: time of each part of an eager step, as a captured one
            can't be broken down; empty if none was captured.
        peak_memory_mb: peak memory: on a GPU, what torch allocated; on a CPU, the
            process's resident set.
    """

    device: str
    steps: int
    batch: int
    seconds: float
    is_captured: bool
    step_ms: float
    steps_per_s: float
    x_real_time: float
    parts_ms: dict[str, float]
    parts_without_graph_ms: dict[str, float] = field(default_factory=dict)
    peak_memory_mb: float = 0.0


class Stopwatch:
    """Times the parts of steps: by events on a GPU, by the clock on a CPU.

    Only `parts_ms` waits for the device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[tuple[str, float | torch.cuda.Event]] = []
        self("")

    def __call__(self, part: str) -> None:
        """Mark the end of a part, which began at the previous mark."""
        self._marks.append((part, self._now()))

    def _now(self) -> float | torch.cuda.Event:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    def parts_ms(self) -> dict[str, float]:
        """Return the total time of each part by name, in order of first occurrence."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        totals: dict[str, float] = {}
        for (_, start), (part, end) in itertools.pairwise(self._marks):
            if isinstance(start, float) and isinstance(end, float):
                took = 1000 * (end - start)
            else:
                took = start.elapsed_time(end)  # type: ignore[union-attr, arg-type]
            totals[part] = totals.get(part, 0.0) + took
        return totals


def profile(config: TrainConfig, steps: int, corpus: Corpus | None = None) -> Profile:
    """Time the training steps of a new network; the run's folder is neither read nor written.

    Args:
        config: of the run.
        steps: steps to time, after the warm-up.
        corpus: the recordings, if they are already open.
    """
    corpus = corpus or corpus_of(config)
    with DistributedContext(config.device) as distributed, tempfile.TemporaryDirectory() as folder:
        isolated = dataclasses.replace(config, runs=folder, tensorboard=False, steps=0, minutes=0.0)
        trainer = Trainer(isolated, lambda _: None, distributed)
        opened = open_examples(isolated, corpus, trainer.device, stride=distributed.size)
        with opened as examples:
            feed = batches(examples, distributed.rank, distributed.size)
            if trainer.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(trainer.device)
            _run(trainer, feed, WARM_UP)
            parts = _run(trainer, feed, steps)
            peak_mb = _peak_memory_mb(trainer.device)
            eager_ms: dict[str, float] = {}
            is_captured = trainer.step_graph.is_captured
            if is_captured:
                trainer.step_graph.release()
                _run(trainer, feed, 1)
                eager_ms = _run(trainer, feed, steps)
        step_ms = sum(parts.values())
        return Profile(
            distributed.device_name,
            steps,
            config.batch,
            config.seconds,
            is_captured,
            step_ms,
            1000 / step_ms,
            1000 / step_ms * config.batch * config.seconds * distributed.size,
            parts,
            eager_ms,
            peak_mb,
        )


def _run(trainer: Trainer, feed: Iterator[Batch], steps: int) -> dict[str, float]:
    """Run `steps` steps without waiting for the device; return the parts of one step in ms."""
    stopwatch = Stopwatch(trainer.device)
    trainer.step_graph.mark = stopwatch
    for _ in range(steps):
        batch = next(feed)
        stopwatch("examples")
        trainer.launch(batch)
    parts = stopwatch.parts_ms()
    trainer.collect()
    return {part: took / steps for part, took in parts.items()}


def _peak_memory_mb(device: torch.device) -> float:
    """Return the peak memory so far; 0 on Windows, which has no such counter here."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    if sys.platform == "win32":
        return 0.0
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
