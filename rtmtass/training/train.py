"""`rtmtass train`: from a config to weights, resumable to the exact step."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rtmtass.errors import DataError
from rtmtass.net.mtass import MtassNet, NetState
from rtmtass.net.stft import Stft
from rtmtass.training.average import Average
from rtmtass.training.branch import BranchOrder, branch_off
from rtmtass.training.checkpoints import BEST, publish, read_last, write_last
from rtmtass.training.dataset import MixtureStream
from rtmtass.training.history import runs_behind
from rtmtass.training.judge import Mixed, dev_figures, write_snapshots
from rtmtass.training.log import Log, Progress
from rtmtass.training.losses import SeparationLoss
from rtmtass.training.memory import Memories
from rtmtass.training.mixing import dev_mixtures
from rtmtass.training.optimisers import Optimisers
from rtmtass.training.schedule import Branch, schedule_of
from rtmtass.training.sources import Corpus
from rtmtass.training.teacher import Teacher
from rtmtass.training.team import Team
from rtmtass.training.train_config import TrainConfig
from rtmtass.weights import open_model

__all__ = ["BranchOrder", "TrainConfig", "Trainer", "train"]

Samples = np.ndarray[Any, Any]

NOTE_STEPS = 20
"""How often the loss is noted."""
MOST_SKIPPED = 100
"""So many useless batches in a row are no accident."""


class Trainer:
    """One training run: its network, optimiser, averages, clock and files."""

    def __init__(self, config: TrainConfig, progress: Progress, team: Team | None = None) -> None:
        self.config, self.team = config, team or Team(config.device)
        self.folder = Path(config.runs)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log: Log | None = None
        if self.team.is_first:
            self.log = Log(self.folder, progress, tensorboard=config.tensorboard)
        if config.threads:
            torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        torch.backends.cuda.matmul.allow_tf32 = True
        self.model_config = config.model()
        self.device = self.team.device
        self.net = MtassNet(self.model_config).to(self.device)
        self.stft = Stft(self.model_config.stft).to(self.device)
        self.loss = SeparationLoss(self.stft, self.model_config.net.lookahead)
        self.teacher: Teacher | None = None
        if config.teacher:
            self.teacher = Teacher(config.teacher, self.model_config, self.device)
        self.average = Average(self.net, config.ema)
        self.memories = Memories(self.net, config.carry, config.seed)
        rates = (config.learning_rate, config.weight_decay)
        self.optimiser = Optimisers(self.net, config.optimiser, *rates, self.team)
        self.step, self.batches, self.elapsed_s, self.mixture_s = 0, 0, 0.0, 0.0
        self.branch: Branch | None = None
        self.schedule = schedule_of(config)
        self.best, self.skipped, self._in_a_row = -math.inf, 0, 0
        self.bank_sizes: dict[str, int] | None = None
        self.earlier: list[dict[str, Any]] = []
        self.stop_asked = False
        compute = torch.compile(self._forward) if config.uses_compile else self._forward
        self._compute = self.team.wrap(self.net, compute)

    # ---- one step
    def _forward(self, stems: Tensor, memory: NetState | None) -> tuple[Tensor, NetState | None]:
        with torch.no_grad():
            spec = self.stft(stems)
        mixture = spec.sum(dim=1)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bf16):
            begun = self.net.init_state(mixture.shape[0]) if memory is None else memory
            stages, after = self.net.stages(mixture, begun)
            told = self.teacher.stems(mixture) if self.teacher else None
        loss = self.loss(stages, stems, spec)
        if self.teacher and told is not None:
            share = self.config.teacher_share
            taught = self.teacher.loss(stages.final, told, stems.sum(dim=1))
            loss = (1 - share) * loss + share * taught
        return loss, None if memory is None else after

    def progress_fraction(self) -> float:
        """Return how much is done, 0..1: of the run, of a trunk's sitting, or of a branch."""
        return self.schedule.span.done(self.step, self.elapsed_s)

    def learning_rate(self) -> float:
        """Return the present rate; see `Schedule`."""
        return self.schedule.learning_rate(self.step, self.elapsed_s)

    def train_step(self, batch: Samples) -> tuple[float, float]:
        """Learn from one batch (B, S, N); return (loss, gradient norm).

        A batch whose loss or gradient isn't finite is skipped, counted and told:
        the network, its norms' statistics included, is as if it had not been.

        Raises:
            DataError: `MOST_SKIPPED` batches in a row were skipped.
        """
        self.net.train()
        hops = batch.shape[-1] // self.stft.config.hop
        whole = torch.from_numpy(batch[..., : hops * self.stft.config.hop])
        stems = whole.to(self.device, non_blocking=True)
        if self.model_config.net.dropout:  # what is dropped depends on the step alone
            torch.manual_seed(hash((self.config.seed, self.batches, self.team.rank)))
        number, memory = self.batches + self.team.rank, None
        if self.config.carry:
            memory = self.memories.begin(len(stems), number)
        before = [(b, b.clone()) for b in self.net.buffers()]
        loss, after = self._compute(stems, memory)
        loss.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.config.clip))
        value = float(self.team.mean(loss.detach()))
        if math.isfinite(norm) and math.isfinite(value):
            self.optimiser.step(self.learning_rate())
            self.average.update(self.net, self.step)
            self._in_a_row = 0
            if after is not None:
                self.memories.end(after)
        else:
            for buffer, old in before:
                buffer.copy_(old)
            self._skip(value, norm)
        self.optimiser.zero_grad()
        self.step += 1
        self.batches += self.team.size
        self.mixture_s += self.config.batch * self.config.seconds * self.team.size
        return value, norm

    def _skip(self, loss: float, norm: float) -> None:
        self.skipped += 1
        self._in_a_row += 1
        if self.log is not None:
            row = {"step": self.step, "skipped": self.skipped, "loss": loss, "gradient": norm}
            self.log.tell("skipped", self.progress_fraction(), row)
        if self._in_a_row >= MOST_SKIPPED:
            raise DataError(
                f"the loss wasn't finite for {MOST_SKIPPED} batches in a row, up to step"
                f" {self.step}; go on from {self.folder / 'last.pt'} with a lower learning_rate"
            )

    # ---- the whole run
    def run(self, batches: Iterator[Samples], dev: Sequence[Mixed]) -> None:
        """Train until a bound is met or a stop is asked for; save and judge on the way."""
        last_save = last_dev = self.elapsed_s
        sums, since = [0.0, 0], time.monotonic()
        while self.progress_fraction() < 1 and not self.stop_asked:
            start = time.monotonic()
            loss, norm = self.train_step(next(batches))
            now = time.monotonic()
            mine = self.elapsed_s + now - start
            self.elapsed_s, stop = self.team.largest(mine, float(self.stop_asked))
            self.stop_asked = bool(stop)
            if math.isfinite(loss):
                sums = [sums[0] + loss, sums[1] + 1]
            if self.step % NOTE_STEPS == 0:
                audio_s = NOTE_STEPS * self.config.batch * self.config.seconds * self.team.size
                mean = sums[0] / sums[1] if sums[1] else math.nan
                self._note("train", loss=mean, gradient=norm, speed=audio_s / (now - since))
                sums, since = [0.0, 0], now
            if self.elapsed_s - last_dev > self.config.dev_minutes * 60:
                self.judge(dev)
                last_dev, since = self.elapsed_s, time.monotonic()
            if self.elapsed_s - last_save > self.config.save_minutes * 60:
                self.save()
                last_save = self.elapsed_s
        self.judge(dev)
        self.save()

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

    def judge(self, dev: Sequence[Mixed]) -> None:
        """Measure the averaged weights on the dev mixtures; keep them if they are the best."""
        if not self.team.is_first:
            return
        net = MtassNet(self.model_config).to(self.device).eval()
        net.load_state_dict(self.average.values)
        figures = dev_figures(net, self.stft, dev, self.device)
        self._note("dev", **figures)
        if figures["si_sdri"] > self.best:
            self.best = figures["si_sdri"]
            publish(self.folder, self.model_config, self.average.values, self._record(figures))
        shown = dev[: self.config.snapshots]
        place = self.folder / "snapshots"
        write_snapshots(place, self.step, net, self.stft, shown, self.device)

    def _record(self, figures: dict[str, float]) -> dict[str, Any]:
        """Return how the present weights came about."""
        return {
            "steps": self.step,
            "mixture_hours": round(self.mixture_s / 3600, 1),
            "machine_hours": round(self.elapsed_s / 3600, 2),
            "device": str(self.device),
            "threads": torch.get_num_threads() * self.team.size,
            "optimiser": self.config.optimiser,
            **({"branch": dataclasses.asdict(self.branch)} if self.branch else {}),
            **({"teacher": self.teacher.name} if self.teacher else {}),
            "dev": {k: round(v, 3) for k, v in figures.items()},
            "earlier": self.earlier,
        }

    def save(self) -> None:
        """Write all that a resumed run needs, whole or not at all."""
        if not self.team.is_first:
            return
        state = {
            "weights": self.net.state_dict(),
            "average": self.average.values,
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "batches": self.batches,
            "elapsed_s": self.elapsed_s,
            "best": self.best,
            "skipped": self.skipped,
            "bank_sizes": self.bank_sizes,
            "earlier": self.earlier,
            "memories": self.memories.to_list(),
            "mixture_s": self.mixture_s,
            **({"branch": dataclasses.asdict(self.branch)} if self.branch else {}),
        }
        write_last(self.folder, self.model_config, state)

    def resume(self) -> bool:
        """Go on from the folder's last checkpoint, if there is one for this network."""
        saved = read_last(self.folder, self.model_config, self.device)
        if saved is None:
            if self.config.start_from:
                self._start_from(self.config.start_from)
            return False
        self.net.load_state_dict(saved["weights"])
        self.average.values = saved["average"]
        self.optimiser.load_state_dict(saved["optimiser"])
        self.step, self.elapsed_s = saved["step"], saved["elapsed_s"]
        self.batches = saved.get("batches", self.step)
        self.best, self.skipped = saved["best"], saved["skipped"]
        before = self.batches * self.config.batch * self.config.seconds  # before there was a sum
        self.mixture_s = saved.get("mixture_s", before)
        self.bank_sizes = saved["bank_sizes"]
        self.memories.from_list(saved.get("memories", []))
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
        opened = open_model(path)
        self.earlier = runs_behind(path)
        values = {k: torch.from_numpy(v) for k, v in opened.weights.items()}
        given, here = opened.config.net, self.model_config.net
        if not given.subband_bins and here.subband_bins:  # sub-bands correct nothing at first
            new = {k: v for k, v in vars(here).items() if k.startswith("subband_")}
            given = dataclasses.replace(given, **new)
            values |= {k: v for k, v in self.net.state_dict().items() if k.startswith("subbands.")}
        if given != here:
            raise DataError(f"{path} holds another network than this config; change [net]")
        self.net.load_state_dict(values)
        self.average = Average(self.net, self.config.ema)


def train(config: TrainConfig, progress: Progress, branch: BranchOrder | None = None) -> Path:
    """Run, or go on with, the training `config` describes; return the best model's folder.

    Under `torchrun` every process calls this; the first one validates, reports and writes.

    Args:
        config: the run's or the trunk's.
        progress: called with every report; see `rtmtass.training.log`.
        branch: train a branch of the trunk, in its own folder, and not the trunk.
    """
    with Team(config.device) as team:
        if branch is not None:
            config = branch_off(config, branch, team)
        corpus = Corpus(Path(config.corpus), Path(config.cache))
        trainer = Trainer(config, progress, team)
        trainer.resume()
        dev = list(dev_mixtures(corpus, config.dev_clips)) if team.is_first else []
        stream = MixtureStream(
            corpus,
            "train",
            seconds=config.seconds,
            batch=config.batch,
            seed=config.seed,
            workers=config.workers,
            stride=team.size,
            bank_sizes=trainer.bank_sizes if config.pin_banks else None,
        )
        trainer.bank_sizes = stream.bank_sizes
        with stream, _stopping(trainer):
            trainer.run(stream.from_step(trainer.batches + team.rank), dev)
        if trainer.log is not None:
            trainer.log.close()
    return trainer.folder / BEST


@contextlib.contextmanager
def _stopping(trainer: Trainer) -> Iterator[None]:
    """While inside, a signal lets the trainer finish its step, judge, save and return."""

    def stop(*_: Any) -> None:
        trainer.stop_asked = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
