"""Where the time of a training step goes: `rtmtass train --profile`."""

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
"""Steps before the first one that is timed; a CUDA graph is captured in the second."""


@dataclass(frozen=True)
class Profile:
    """What a profile found; times are means over its steps.

    Attributes:
        device: its name.
        steps, batch, seconds: so many steps of so many examples of such a length.
        is_captured: whether a step was replayed as a CUDA graph.
        step_ms: one step, examples and all, from the first one's begin to the last one's end.
        steps_per_s: the same as a rate.
        x_real_time: seconds of mixtures learnt from in a second.
        parts_ms: of a step, by part.
        parts_without_graph_ms: of a step whose kernels are started one by one, by part:
            what a captured one can't be taken apart into; empty where none was captured.
        peak_memory_mb: most memory in use: of a GPU, what torch gave out; of a CPU, the
            whole process's.
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
    """Marks when the parts of a step are done: by events on a GPU, by the clock on a CPU.

    Nothing waits for the device until `parts_ms`.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[tuple[str, float | torch.cuda.Event]] = []
        self("")

    def __call__(self, part: str) -> None:
        """Mark the end of a part; it began with the mark before."""
        self._marks.append((part, self._now()))

    def _now(self) -> float | torch.cuda.Event:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    def parts_ms(self) -> dict[str, float]:
        """Return how long the parts took in all, by name, in the order they first came."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        found: dict[str, float] = {}
        for (_, start), (part, end) in itertools.pairwise(self._marks):
            if isinstance(start, float) and isinstance(end, float):
                took = 1000 * (end - start)
            else:
                took = start.elapsed_time(end)  # type: ignore[union-attr, arg-type]
            found[part] = found.get(part, 0.0) + took
        return found


def profile(config: TrainConfig, steps: int, corpus: Corpus | None = None) -> Profile:
    """Train a fresh network of a config for some steps and return where their time goes.

    The run's own folder is neither read nor written.

    Args:
        config: of the run.
        steps: to time; some more come before, as a warm-up.
        corpus: the recordings, if they are open already.
    """
    corpus = corpus or corpus_of(config)
    with DistributedContext(config.device) as distributed, tempfile.TemporaryDirectory() as folder:
        apart = dataclasses.replace(config, runs=folder, tensorboard=False, steps=0, minutes=0.0)
        trainer = Trainer(apart, lambda _: None, distributed)
        opened = open_examples(apart, corpus, trainer.device, stride=distributed.size)
        with opened as examples:
            feed = batches(examples, distributed.rank, distributed.size)
            if trainer.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(trainer.device)
            _run(trainer, feed, WARM_UP)
            parts = _run(trainer, feed, steps)
            peak_mb = _peak_memory_mb(trainer.device)
            apart_ms: dict[str, float] = {}
            is_captured = trainer.step_graph.is_captured
            if is_captured:
                trainer.step_graph.release()
                _run(trainer, feed, 1)
                apart_ms = _run(trainer, feed, steps)
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
            apart_ms,
            peak_mb,
        )


def _run(trainer: Trainer, feed: Iterator[Batch], steps: int) -> dict[str, float]:
    """Take so many steps without waiting for the device; return a step's parts in ms."""
    watch = Stopwatch(trainer.device)
    trainer.step_graph.mark = watch
    for _ in range(steps):
        batch = next(feed)
        watch("examples")
        trainer.launch(batch)
    parts = watch.parts_ms()
    trainer.collect()
    return {part: took / steps for part, took in parts.items()}


def _peak_memory_mb(device: torch.device) -> float:
    """Return the most memory that was in use so far; 0 where the system doesn't say."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    if sys.platform == "win32":
        return 0.0
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
