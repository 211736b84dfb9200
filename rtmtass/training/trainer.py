"""The training loop of a run: steps, validation, checkpoints and resuming."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rtmtass.errors import DataError
from rtmtass.net.cpu_kernels import HAS_KERNELS
from rtmtass.net.networks import new_network
from rtmtass.net.stft import Stft
from rtmtass.runtime.torch.steps import Capture, cuda_graph
from rtmtass.training.accumulator import Figures, Meter
from rtmtass.training.checkpoints import (
    LAST,
    damaged,
    has_best,
    publish,
    read_last,
    start_from,
    write_last,
)
from rtmtass.training.config import TrainConfig
from rtmtass.training.data.loader import Batch
from rtmtass.training.distillation import Teacher
from rtmtass.training.distributed import DistributedContext
from rtmtass.training.ema import EMA
from rtmtass.training.lineage import lineage_of
from rtmtass.training.log import Log, Messages, OnReport
from rtmtass.training.losses import SeparationLoss
from rtmtass.training.optimisers import Optimisers
from rtmtass.training.schedule import Branch, schedule_of
from rtmtass.training.state_carryover import StateCarryover
from rtmtass.training.step import Objective, StepGraph
from rtmtass.training.stop import StopSignals
from rtmtass.training.validation import Mixed, dev_figures, write_snapshots

LOG_STEPS = 20
"""Steps between log rows on a CPU."""
LOG_S = 2.0
"""Shortest time between log rows on a GPU, in seconds."""
STEPS_AHEAD = 50
"""Steps launched on a GPU before the host waits for it and reads their metrics."""
MOST_SKIPPED = 100
"""Skipped batches in a row after which the run stops with an error."""
GRADIENT_SCALE = 1024.0
"""Scale of the loss on a GPU under autocast: cuDNN's GRUs run in half precision, where small
gradients would fall below the smallest number, 6e-8."""


class Trainer:
    """One training run: network, optimiser, EMA, schedule, log and files.

    Args:
        config: of the run.
        on_report: called with every report.
        distributed: processes that train together; by default only this one.
        capture: captures a step for replay; by default `cuda_graph` if the config
            enables graphs.
        messages: what is shown besides the reports.
        stop: says when to stop early; by default never.
    """

    def __init__(
        self,
        config: TrainConfig,
        on_report: OnReport,
        distributed: DistributedContext | None = None,
        capture: Capture | None = None,
        messages: Messages | None = None,
        stop: StopSignals | None = None,
    ) -> None:
        self.messages = messages or Messages()
        self.stop = stop or StopSignals(self.messages.note)
        self.config, self.distributed = config, distributed or DistributedContext(config.device)
        self.folder = Path(config.runs)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log: Log | None = None
        if self.distributed.is_first:
            self.log = Log(self.folder, on_report, tensorboard=config.tensorboard)
        if config.threads:
            torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self.device = self.distributed.device
        if self.device.type == "cuda":
            torch.set_float32_matmul_precision("high")  # TF32
        self._build(capture)
        self.step, self.batches, self.elapsed_s, self.mixture_s = 0, 0, 0.0, 0.0
        self.branch: Branch | None = None
        self.schedule = schedule_of(config)
        self.best, self.skipped = -math.inf, 0
        self.saved_step: int | None = None
        self.bank_sizes: dict[str, int] | None = None
        self.earlier: list[dict[str, Any]] = []

    def _build(self, capture: Capture | None) -> None:
        """Create the network and everything a step updates."""
        config, device = self.config, self.device
        self.model_config = config.model()
        self.net = new_network(self.model_config).to(device)
        self.net.train()
        self.stft = Stft(self.model_config.stft).to(device)
        self.teacher: Teacher | None = None
        if config.teacher:
            self.teacher = Teacher(config.teacher, self.model_config, device)
        self.ema = EMA(self.net, config.ema)
        self.carryover = StateCarryover(self.net, config.carryover_prob, config.seed)
        rates = (config.learning_rate, config.weight_decay)
        self.optimiser = Optimisers(self.net, config.optimiser, *rates, self.distributed)
        objective = Objective(
            self.net,
            SeparationLoss(self.stft, self.model_config.net.lookahead),
            device,
            bf16=config.uses_bf16,
            teacher=self.teacher,
            teacher_share=config.teacher_share,
        )
        compute = torch.compile(objective.compute) if config.uses_compile else objective.compute
        if capture is None and config.uses_graph and self.distributed.size == 1:
            capture = cuda_graph
        self.step_graph = StepGraph(
            self.net,
            self.distributed.wrap(self.net, compute),
            self.optimiser,
            self.ema,
            self.carryover,
            self.distributed,
            device,
            clip=config.clip,
            scale=GRADIENT_SCALE if config.uses_bf16 and device.type == "cuda" else 1.0,
            seed=config.seed if self.model_config.net.dropout else None,
            capture=capture,
        )

    # ---- steps
    def progress_fraction(self) -> float:
        """Return the fraction done, 0..1, of the run, a trunk's session or a branch."""
        return self.schedule.span.done(self.step, self.elapsed_s)

    def learning_rate(self) -> float:
        """Return the current learning rate; see `Schedule`."""
        return self.schedule.learning_rate(self.step, self.elapsed_s)

    def launch(self, batch: Batch) -> None:
        """Train on one batch without waiting for the device; see `StepGraph`."""
        number = self.batches + self.distributed.rank
        self.step_graph.run(self._to_device(batch), number, self.step, self.learning_rate())
        self.step += 1
        self.batches += self.distributed.size
        self.mixture_s += self.config.batch * self.config.seconds * self.distributed.size

    def _to_device(self, batch: Batch) -> Tensor:
        """Return a batch on the device, cut to whole hops."""
        hop = self.stft.config.hop
        stems = batch if isinstance(batch, Tensor) else torch.from_numpy(batch)
        stems = stems[..., : stems.shape[-1] // hop * hop]
        if stems.device.type == self.device.type:
            return stems
        return stems.pin_memory().to(self.device, non_blocking=True)

    def collect(self) -> Figures:
        """Wait for the device and return the metrics of the steps since the last call.

        Skipped batches are counted and reported.

        Raises:
            DataError: `MOST_SKIPPED` batches in a row were skipped.
        """
        figures = self.step_graph.accumulator.read()
        if not figures.skipped:
            return figures
        self.skipped += figures.skipped
        if self.log is not None:
            row = {"loss": figures.bad_loss, "gradient": figures.bad_norm}
            row |= {"step": self.step, "skipped": self.skipped}
            self.log.report("skipped", self.progress_fraction(), row)
        if figures.in_a_row >= MOST_SKIPPED:
            raise DataError(
                f"the loss wasn't finite for {MOST_SKIPPED} batches in a row, up to step"
                f" {self.step}; resume from {self.folder / LAST} with a lower learning_rate"
            )
        return figures

    def train_step(self, batch: Batch) -> tuple[float, float]:
        """Train on one batch and wait for it; return (loss, gradient norm)."""
        self.launch(batch)
        figures = self.collect()
        return figures.loss, figures.norm

    # ---- the whole run
    def run(self, batches: Iterator[Batch], dev: Sequence[Mixed]) -> None:
        """Train until the run's length is reached or a stop is requested; validate and save.

        Args:
            batches: endless training batches.
            dev: the validation mixtures.
        """
        last_save = last_dev = self.elapsed_s
        meter, step_s, is_ready = Meter(), 0.0, False
        while self.progress_fraction() < 1 and not self.stop.is_requested:
            start, first = time.monotonic(), self.step
            with self._step_context(is_ready):
                for _ in range(self._steps_ahead(step_s)):
                    self.launch(next(batches))
                figures = self.collect()
            now, is_ready = time.monotonic(), True
            local_s = self.elapsed_s + now - start
            requested = float(self.stop.is_requested)
            self.elapsed_s, stop = self.distributed.largest(local_s, requested)
            self.stop.is_requested = bool(stop)
            step_s = (now - start) / (self.step - first)
            meter.add(figures, self.step - first)
            if self._is_log_due(now - meter.since):
                audio_s = (
                    meter.steps * self.config.batch * self.config.seconds * self.distributed.size
                )
                speed = audio_s / (now - meter.since)
                self._log_figures("train", loss=meter.mean, gradient=figures.norm, speed=speed)
                meter = Meter(now)
            if self.elapsed_s - last_dev > self.config.dev_minutes * 60:
                self.save()  # first, so that a validation can be stopped at once
                self.validate(dev)
                last_dev = last_save = self.elapsed_s
                meter.since = time.monotonic()
            if self.elapsed_s - last_save > self.config.save_minutes * 60:
                self.save()
                last_save = self.elapsed_s
        self.save()
        self.validate(dev)
        self.save()

    @contextlib.contextmanager
    def _step_context(self, is_ready: bool) -> Iterator[None]:
        """Let a signal wait for the end of a step; the first one compiles and can be stopped."""
        if is_ready:
            with self.stop.deferred("this step"):
                yield
            return
        start = time.monotonic()
        if self.config.uses_compile:
            self.messages.note("compiling the network, which can take minutes …")
        with _kernel_hint(lambda: self.messages.note("compiling for this CPU, once …")):
            yield
        if self.config.uses_compile:
            self.messages.note(f"compiled and trained a step in {time.monotonic() - start:.0f} s")

    def _steps_ahead(self, step_s: float) -> int:
        """Return how many steps to launch before waiting, if one takes `step_s`.

        It must be the same in all processes.
        """
        if self.device.type == "cpu":
            return 1  # steps aren't asynchronous there
        steps = STEPS_AHEAD - self.step % STEPS_AHEAD
        span = self.schedule.span
        if span.steps:
            steps = min(steps, span.first_step + span.steps - self.step)
        if span.minutes and step_s and self.distributed.size == 1:  # don't overrun the time
            left_s = span.first_s + 60 * span.minutes - self.elapsed_s
            steps = min(steps, math.ceil(left_s / step_s))
        return max(1, steps)

    def _is_log_due(self, since_s: float) -> bool:
        """Return whether to log now, `since_s` seconds after the last row."""
        if self.device.type == "cpu":
            return self.step % LOG_STEPS == 0
        return since_s > LOG_S or self.progress_fraction() == 1

    def _log_figures(self, kind: str, **figures: float) -> None:
        if self.log is None:
            return
        row = {
            "step": self.step,
            "minutes": round(self.elapsed_s / 60, 2),
            "rate": self.learning_rate(),
            "skipped": self.skipped,
            **{k: round(v, 4) for k, v in figures.items()},
        }
        left = self.schedule.span.minutes_left(self.step, self.elapsed_s)
        self.log.write(kind, self.progress_fraction(), row, minutes_left=round(left, 2))

    def validate(self, dev: Sequence[Mixed]) -> None:
        """Validate the EMA weights on the dev mixtures; save them if they are the best so far."""
        if not self.distributed.is_first:
            return
        net = new_network(self.model_config).to(self.device).eval()
        net.load_state_dict(self.ema.values)
        progress = self.messages.progress
        figures = dev_figures(net, self.stft, dev, self.device, progress)
        with self.stop.deferred("this validation"):
            self._log_figures("dev", **figures)
            if figures["si_sdri"] > self.best:
                publish(self.folder, self.model_config, self.ema.values, self._record(figures))
                self.best = figures["si_sdri"]
            clips, folder = dev[: self.config.snapshots], self.folder / "snapshots"
            write_snapshots(folder, self.step, net, self.stft, clips, self.device)

    def _record(self, figures: dict[str, float]) -> dict[str, Any]:
        """Return the training record of the current weights."""
        return {
            "steps": self.step,
            "mixture_hours": round(self.mixture_s / 3600, 1),
            "machine_hours": round(self.elapsed_s / 3600, 2),
            "device": self.distributed.device_name,
            "threads": torch.get_num_threads() * self.distributed.size,
            "optimiser": self.config.optimiser,
            "bank_sizes": self.bank_sizes or {},
            **self._branch_record(),
            **({"teacher": self.teacher.name} if self.teacher else {}),
            "dev": {k: round(v, 3) for k, v in figures.items()},
            "earlier": self.earlier,
        }

    def _branch_record(self) -> dict[str, Any]:
        return {"branch": dataclasses.asdict(self.branch)} if self.branch else {}

    # ---- checkpoints
    def save(self) -> None:
        """Write a checkpoint, atomically."""
        if not self.distributed.is_first:
            self.saved_step = self.step
            return
        state = {
            "weights": self.net.state_dict(),
            "average": self.ema.values,
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "batches": self.batches,
            "elapsed_s": self.elapsed_s,
            "mixture_s": self.mixture_s,
            "best": self.best,
            "skipped": self.skipped,
            "bank_sizes": self.bank_sizes,
            "earlier": self.earlier,
            "memories": self.carryover.to_list(),
            **self._branch_record(),
        }
        with self.stop.deferred("the checkpoint"):
            write_last(self.folder, self.model_config, state)
            self._mark_saved()

    def _mark_saved(self) -> None:
        self.saved_step = self.step
        self.stop.kept = f"the last checkpoint is {self.folder / LAST}, step {self.step}"

    def resume(self) -> bool:
        """Load the folder's last checkpoint; without one, load `start_from` if given.

        Returns:
            Whether there was a checkpoint.

        Raises:
            DataError: the checkpoint is damaged, or of another network or optimiser.
        """
        saved = read_last(self.folder, self.model_config, self.device)
        if saved is None:
            if self.config.start_from:
                self._start_from(self.config.start_from)
            return False
        try:
            self._restore(saved)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "loading state_dict" not in str(error):
                raise  # of the device
            raise DataError(damaged(self.folder / LAST, error)) from error
        if self.distributed.is_first and self.best > -math.inf and not has_best(self.folder):
            self.best = -math.inf  # so that the next validation writes it again
        if self.log is not None:
            self.log.rewind(self.step)
        return True

    def _restore(self, saved: dict[str, Any]) -> None:
        self.net.load_state_dict(saved["weights"])
        self.ema.load(saved["average"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.step, self.elapsed_s = saved["step"], saved["elapsed_s"]
        self._mark_saved()
        self.batches = saved.get("batches", self.step)
        estimate_s = self.batches * self.config.batch * self.config.seconds
        self.mixture_s = saved.get("mixture_s", estimate_s)  # old checkpoints lack it
        self.best, self.skipped = saved["best"], saved["skipped"]
        self.bank_sizes = saved["bank_sizes"]
        self.carryover.from_list(saved.get("memories", []))
        self.earlier = saved.get("earlier", [])
        if "earlier" not in saved and self.config.start_from:  # a checkpoint from before 0.3
            self.earlier = lineage_of(self.config.start_from)
        if saved.get("branch"):
            self.branch = Branch(**saved["branch"])
        self.schedule = schedule_of(self.config, self.step, self.elapsed_s, self.branch)

    def _start_from(self, path: str) -> None:
        self.earlier = lineage_of(path)
        start_from(path, self.net)
        self.ema.load(self.net.state_dict())


def _kernel_hint(on_compile: Callable[[], None]) -> contextlib.AbstractContextManager[None]:
    """Call `on_compile` if the context compiles the loops that training on a CPU uses."""
    if not HAS_KERNELS:
        return contextlib.nullcontext()
    from rtmtass.jit.compiler import compile_hint

    return compile_hint(on_compile)
