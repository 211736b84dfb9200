"""A training run: its network, clock, log and files; how it steps, validates, saves and resumes."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rtmtass.errors import DataError
from rtmtass.net.mtass import MtassNet
from rtmtass.net.stft import Stft
from rtmtass.runtime.torch.steps import Capture, cuda_graph
from rtmtass.training.accumulator import Figures, Meter
from rtmtass.training.checkpoints import (
    LAST,
    publish,
    read_last,
    starting_weights,
    write_last,
)
from rtmtass.training.config import TrainConfig
from rtmtass.training.data.loader import Batch
from rtmtass.training.distillation import Teacher
from rtmtass.training.distributed import DistributedContext
from rtmtass.training.ema import EMA
from rtmtass.training.lineage import runs_behind
from rtmtass.training.log import Log, Progress
from rtmtass.training.losses import SeparationLoss
from rtmtass.training.optimisers import Optimisers
from rtmtass.training.schedule import Branch, schedule_of
from rtmtass.training.state_carryover import StateCarryover
from rtmtass.training.step import Objective, StepGraph
from rtmtass.training.validation import Mixed, dev_figures, write_snapshots

NOTE_STEPS = 20
"""How often the loss is noted on a CPU."""
NOTE_S = 2.0
"""How often, at most, on a GPU."""
STEPS_AHEAD = 50
"""How many steps a GPU is given before the host waits for it and reads what they came to."""
MOST_SKIPPED = 100
"""So many useless batches in a row are no accident."""
GRADIENT_SCALE = 1024.0
"""Of the loss on a GPU under autocast, where cuDNN's GRUs run in half precision, whose
smallest number, 6e-8, small gradients would otherwise fall below."""


class Trainer:
    """One training run: its network, optimiser, EMA, clock and files.

    Args:
        config: of the run.
        progress: called with every report.
        distributed: processes that train together; by default this one.
        capture: turns a step into something that replays it; by default `cuda_graph`
            where the config wants one.
    """

    def __init__(
        self,
        config: TrainConfig,
        progress: Progress,
        distributed: DistributedContext | None = None,
        capture: Capture | None = None,
    ) -> None:
        self.config, self.distributed = config, distributed or DistributedContext(config.device)
        self.folder = Path(config.runs)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log: Log | None = None
        if self.distributed.is_first:
            self.log = Log(self.folder, progress, tensorboard=config.tensorboard)
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
        self.stop_asked = False

    def _build(self, capture: Capture | None) -> None:
        """Make the network and all that moves with it."""
        config, device = self.config, self.device
        self.model_config = config.model()
        self.net = MtassNet(self.model_config).to(device)
        self.net.train()
        self.stft = Stft(self.model_config.stft).to(device)
        self.teacher: Teacher | None = None
        if config.teacher:
            self.teacher = Teacher(config.teacher, self.model_config, device)
        self.ema = EMA(self.net, config.ema)
        self.carryover = StateCarryover(self.net, config.carry, config.seed)
        rates = (config.learning_rate, config.weight_decay)
        self.optimiser = Optimisers(self.net, config.optimiser, *rates, self.distributed)
        objective = Objective(
            self.net,
            SeparationLoss(self.stft, self.model_config.net.lookahead),
            device,
            bf16=config.bf16,
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
            scale=GRADIENT_SCALE if config.bf16 and device.type == "cuda" else 1.0,
            seed=config.seed if self.model_config.net.dropout else None,
            capture=capture,
        )

    # ---- steps
    def progress_fraction(self) -> float:
        """Return how much is done, 0..1: of the run, of a trunk's sitting, or of a branch."""
        return self.schedule.span.done(self.step, self.elapsed_s)

    def learning_rate(self) -> float:
        """Return the present rate; see `Schedule`."""
        return self.schedule.learning_rate(self.step, self.elapsed_s)

    def launch(self, batch: Batch) -> None:
        """Learn from one batch without waiting for the device; see `StepGraph`."""
        number = self.batches + self.distributed.rank
        self.step_graph.run(self._placed(batch), number, self.step, self.learning_rate())
        self.step += 1
        self.batches += self.distributed.size
        self.mixture_s += self.config.batch * self.config.seconds * self.distributed.size

    def _placed(self, batch: Batch) -> Tensor:
        """Return whole hops of a batch, on the device."""
        hop = self.stft.config.hop
        stems = batch if isinstance(batch, Tensor) else torch.from_numpy(batch)
        stems = stems[..., : stems.shape[-1] // hop * hop]
        if stems.device.type == self.device.type:
            return stems
        return stems.pin_memory().to(self.device, non_blocking=True)

    def collect(self) -> Figures:
        """Wait for the device and return what the steps since the last time came to.

        Skipped batches are counted and reported.

        Raises:
            DataError: `MOST_SKIPPED` batches in a row were skipped.
        """
        figures = self.step_graph.tally.read()
        if not figures.skipped:
            return figures
        self.skipped += figures.skipped
        if self.log is not None:
            row = {"loss": figures.bad_loss, "gradient": figures.bad_norm}
            row |= {"step": self.step, "skipped": self.skipped}
            self.log.tell("skipped", self.progress_fraction(), row)
        if figures.in_a_row >= MOST_SKIPPED:
            raise DataError(
                f"the loss wasn't finite for {MOST_SKIPPED} batches in a row, up to step"
                f" {self.step}; go on from {self.folder / LAST} with a lower learning_rate"
            )
        return figures

    def train_step(self, batch: Batch) -> tuple[float, float]:
        """Learn from one batch and wait for it; return (loss, gradient norm)."""
        self.launch(batch)
        figures = self.collect()
        return figures.loss, figures.norm

    # ---- the whole run
    def run(self, batches: Iterator[Batch], dev: Sequence[Mixed]) -> None:
        """Train until a bound is met or a stop is asked for; save and validate on the way."""
        last_save = last_dev = self.elapsed_s
        meter, step_s = Meter(), 0.0
        while self.progress_fraction() < 1 and not self.stop_asked:
            start, first = time.monotonic(), self.step
            for _ in range(self._steps_ahead(step_s)):
                self.launch(next(batches))
            figures = self.collect()
            now = time.monotonic()
            mine = self.elapsed_s + now - start
            self.elapsed_s, stop = self.distributed.largest(mine, float(self.stop_asked))
            self.stop_asked = bool(stop)
            step_s = (now - start) / (self.step - first)
            meter.add(figures, self.step - first)
            if self._is_noted(now - meter.since):
                audio_s = (
                    meter.steps * self.config.batch * self.config.seconds * self.distributed.size
                )
                speed = audio_s / (now - meter.since)
                self._note("train", loss=meter.mean, gradient=figures.norm, speed=speed)
                meter = Meter(now)
            if self.elapsed_s - last_dev > self.config.dev_minutes * 60:
                self.validate(dev)
                last_dev, meter.since = self.elapsed_s, time.monotonic()
            if self.elapsed_s - last_save > self.config.save_minutes * 60:
                self.save()
                last_save = self.elapsed_s
        self.validate(dev)
        self.save()

    def _steps_ahead(self, step_s: float) -> int:
        """Return how many steps to launch before waiting, if one takes `step_s`.

        All processes of a team must find the same.
        """
        if self.device.type == "cpu":
            return 1  # nothing runs ahead of anything
        steps = STEPS_AHEAD - self.step % STEPS_AHEAD
        span = self.schedule.span
        if span.steps:
            steps = min(steps, span.first_step + span.steps - self.step)
        if span.minutes and step_s and self.distributed.size == 1:  # no step too many
            left_s = span.first_s + 60 * span.minutes - self.elapsed_s
            steps = min(steps, math.ceil(left_s / step_s))
        return max(1, steps)

    def _is_noted(self, since_s: float) -> bool:
        """Return whether it is time for a note, the last one `since_s` ago."""
        if self.device.type == "cpu":
            return self.step % NOTE_STEPS == 0
        return since_s > NOTE_S or self.progress_fraction() == 1

    def _note(self, kind: str, **figures: float) -> None:
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
        self.log.note(kind, self.progress_fraction(), row, minutes_left=round(left, 2))

    def validate(self, dev: Sequence[Mixed]) -> None:
        """Validate the EMA on the dev mixtures; keep it if it is the best so far."""
        if not self.distributed.is_first:
            return
        net = MtassNet(self.model_config).to(self.device).eval()
        net.load_state_dict(self.ema.values)
        figures = dev_figures(net, self.stft, dev, self.device)
        self._note("dev", **figures)
        if figures["si_sdri"] > self.best:
            self.best = figures["si_sdri"]
            publish(self.folder, self.model_config, self.ema.values, self._record(figures))
        shown = dev[: self.config.snapshots]
        place = self.folder / "snapshots"
        write_snapshots(place, self.step, net, self.stft, shown, self.device)

    def _record(self, figures: dict[str, float]) -> dict[str, Any]:
        """Return how the present weights came about."""
        return {
            "steps": self.step,
            "mixture_hours": round(self.mixture_s / 3600, 1),
            "machine_hours": round(self.elapsed_s / 3600, 2),
            "device": self.distributed.device_name,
            "threads": torch.get_num_threads() * self.distributed.size,
            "optimiser": self.config.optimiser,
            **self._branched(),
            **({"teacher": self.teacher.name} if self.teacher else {}),
            "dev": {k: round(v, 3) for k, v in figures.items()},
            "earlier": self.earlier,
        }

    def _branched(self) -> dict[str, Any]:
        return {"branch": dataclasses.asdict(self.branch)} if self.branch else {}

    # ---- checkpoints
    def save(self) -> None:
        """Write all that a resumed run needs, whole or not at all."""
        self.saved_step = self.step
        if not self.distributed.is_first:
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
            **self._branched(),
        }
        write_last(self.folder, self.model_config, state)

    def resume(self) -> bool:
        """Go on from the folder's last checkpoint, if there is one for this network.

        Raises:
            DataError: it is of another network or optimiser.
        """
        saved = read_last(self.folder, self.model_config, self.device)
        if saved is None:
            if self.config.start_from:
                self._start_from(self.config.start_from)
            return False
        self.net.load_state_dict(saved["weights"])
        self.ema.load(saved["average"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.step, self.elapsed_s = saved["step"], saved["elapsed_s"]
        self.saved_step = self.step
        self.batches = saved.get("batches", self.step)
        before = self.batches * self.config.batch * self.config.seconds  # before there was a sum
        self.mixture_s = saved.get("mixture_s", before)
        self.best, self.skipped = saved["best"], saved["skipped"]
        self.bank_sizes = saved["bank_sizes"]
        self.carryover.from_list(saved.get("memories", []))
        self.earlier = saved.get("earlier", [])
        if "earlier" not in saved and self.config.start_from:  # a checkpoint of before 0.3
            self.earlier = runs_behind(self.config.start_from)
        if saved.get("branch"):
            self.branch = Branch(**saved["branch"])
        self.schedule = schedule_of(self.config, self.step, self.elapsed_s, self.branch)
        if self.log is not None:
            self.log.rewind(self.step)
        return True

    def _start_from(self, path: str) -> None:
        self.earlier = runs_behind(path)
        self.net.load_state_dict(starting_weights(path, self.model_config, self.net.state_dict()))
        self.ema.load(self.net.state_dict())
