"""`rtmtass train`: from a config to weights, resumable to the exact step."""

from __future__ import annotations

import csv
import dataclasses
import math
import os
import signal
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rtmtass.config import PRESETS, ModelConfig, NetConfig, StftConfig
from rtmtass.errors import DataError, UsageError
from rtmtass.net.mtass import MtassNet
from rtmtass.net.stft import Stft
from rtmtass.training.dataset import MixtureStream
from rtmtass.training.history import runs_behind
from rtmtass.training.losses import SeparationLoss
from rtmtass.training.metrics import sdr, si_sdr
from rtmtass.training.mixing import dev_mixtures
from rtmtass.training.sources import Corpus
from rtmtass.weights import open_model, save_model

Progress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class TrainConfig:
    """How to train; the keys of a config file's [train] table."""

    corpus: str = "corpus"
    cache: str = "cache"
    runs: str = "runs/small"
    preset: str = "small"
    seconds: float = 4.0
    batch: int = 16
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    warmup_steps: int = 200
    minutes: float = 0.0
    steps: int = 0
    clip: float = 5.0
    ema: float = 0.999
    seed: int = 0
    threads: int = 0
    device: str = "cpu"
    bf16: bool = True
    compile: bool = True
    workers: int = 1
    dev_clips: int = 40
    dev_minutes: float = 10.0
    save_minutes: float = 2.0
    start_from: str = ""
    pin_banks: bool = True
    net: dict[str, Any] = field(default_factory=dict)
    stft: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, **overrides: Any) -> TrainConfig:
        """Read a TOML file; `overrides` win. Unknown keys are a UsageError that names them."""
        try:
            values = tomllib.loads(path.read_text())
        except FileNotFoundError:
            raise UsageError(f"no training config at {path}; see the README, Train it") from None
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"{path} is not valid TOML: {error}") from None
        flat = {**values.get("train", {}), "net": values.get("net", {})}
        flat["stft"] = values.get("stft", {})
        flat.update({k: v for k, v in overrides.items() if v is not None})
        unknown = sorted(set(flat) - {f.name for f in dataclasses.fields(cls)})
        if unknown:
            raise UsageError(f"{path} has keys rtmtass doesn't know: {', '.join(unknown)}")
        config = cls(**flat)
        if not config.minutes and not config.steps:
            raise UsageError(f"{path} sets neither minutes nor steps; add --minutes 60")
        return config

    def model(self) -> ModelConfig:
        """Return the model this run trains: the preset with the [net] and [stft] changes."""
        base = PRESETS[self.preset]()
        net: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in self.net.items()
        }
        try:
            return dataclasses.replace(
                base,
                net=dataclasses.replace(base.net, **net),
                stft=dataclasses.replace(base.stft, **self.stft),
            )
        except TypeError as error:
            known = [f.name for kind in (NetConfig, StftConfig) for f in dataclasses.fields(kind)]
            raise UsageError(f"[net] or [stft]: {error}; known: {', '.join(known)}") from None


class Average:
    """An exponential moving average of the weights: steadier than the last step's.

    Source: Polyak and Juditsky, SIAM J. Control Optim. 30(4), 1992.
    """

    def __init__(self, net: MtassNet, decay: float) -> None:
        self.decay = decay
        self.values = {k: v.detach().clone() for k, v in net.state_dict().items()}

    @torch.no_grad()
    def update(self, net: MtassNet, step: int) -> None:
        """Move towards the net's present weights, faster while training is young."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in net.state_dict().items():
            if value.is_floating_point():
                self.values[name].lerp_(value, 1 - decay)
            else:
                self.values[name].copy_(value)


class Trainer:
    """One training run: its network, optimiser, averages, clock and files."""

    def __init__(self, config: TrainConfig, progress: Progress) -> None:
        self.config, self.progress = config, progress
        self.folder = Path(config.runs)
        self.folder.mkdir(parents=True, exist_ok=True)
        if config.threads:
            torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        torch.backends.cuda.matmul.allow_tf32 = True
        self.model_config = config.model()
        self.device = torch.device(config.device)
        self.net = MtassNet(self.model_config).to(self.device)
        self.stft = Stft(self.model_config.stft).to(self.device)
        self.loss = SeparationLoss(self.stft)
        self.average = Average(self.net, config.ema)
        self.optimiser = torch.optim.AdamW(
            self._groups(), lr=config.learning_rate, betas=(0.9, 0.98), fused=True
        )
        self.step, self.elapsed_s, self.best, self.skipped = 0, 0.0, -math.inf, 0
        self.bank_sizes: dict[str, int] | None = None
        self.earlier: list[dict[str, Any]] = []
        self.stop_asked = False
        self._compute = torch.compile(self._forward) if config.compile else self._forward

    def _groups(self) -> list[dict[str, Any]]:
        decayed = [p for p in self.net.parameters() if p.ndim > 1]
        others = [p for p in self.net.parameters() if p.ndim <= 1]
        return [
            {"params": decayed, "weight_decay": self.config.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]

    # ---- one step
    def _forward(self, stems: Tensor) -> Tensor:
        with torch.no_grad():
            spec = self.stft(stems)
        mixture = spec.sum(dim=1)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bf16):
            stages, _ = self.net.stages(mixture, self.net.init_state(mixture.shape[0]))
        return self.loss(stages, stems, spec)

    def progress_fraction(self) -> float:
        """Return how much of the run is done, 0..1, by whichever bound is set."""
        done = 0.0
        if self.config.minutes:
            done = max(done, self.elapsed_s / 60 / self.config.minutes)
        if self.config.steps:
            done = max(done, self.step / self.config.steps)
        return min(done, 1.0)

    def learning_rate(self) -> float:
        """Return the present rate: linear warm-up, then a cosine to a hundredth."""
        warm = min(1.0, (self.step + 1) / max(1, self.config.warmup_steps))
        fall = 0.5 * (1 + math.cos(math.pi * self.progress_fraction()))
        return self.config.learning_rate * warm * (0.01 + 0.99 * fall)

    def train_step(self, batch: np.ndarray[Any, Any]) -> tuple[float, float]:
        """Learn from one batch (B, S, N); return (loss, gradient norm). NaN is skipped."""
        self.net.train()
        hops = batch.shape[-1] // self.stft.config.hop
        whole = torch.from_numpy(batch[..., : hops * self.stft.config.hop])
        stems = whole.to(self.device, non_blocking=True)
        loss = self._compute(stems)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = float(torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.config.clip))
        rate = self.learning_rate()
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        if math.isfinite(norm) and math.isfinite(float(loss.detach())):
            self.optimiser.step()
            self.average.update(self.net, self.step)
        else:
            self.skipped += 1
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        return float(loss.detach()), norm

    # ---- the whole run
    def run(self, batches: Iterator[np.ndarray[Any, Any]], dev: list[Any]) -> None:
        """Train until a bound is met or a stop is asked for; save and judge on the way."""
        last_save = last_dev = self.elapsed_s
        sums, since = [0.0, 0], time.monotonic()
        while self.progress_fraction() < 1 and not self.stop_asked:
            start = time.monotonic()
            loss, norm = self.train_step(next(batches))
            now = time.monotonic()
            self.elapsed_s += now - start
            sums = [sums[0] + loss, sums[1] + 1]
            if self.step % 20 == 0:
                audio_s = sums[1] * self.config.batch * self.config.seconds
                self._note(
                    loss=sums[0] / sums[1],
                    gradient=norm,
                    speed=audio_s / (now - since),
                )
                sums, since = [0.0, 0], now
            if self.elapsed_s - last_dev > self.config.dev_minutes * 60:
                self.judge(dev)
                last_dev, since = self.elapsed_s, time.monotonic()
            if self.elapsed_s - last_save > self.config.save_minutes * 60:
                self.save()
                last_save = self.elapsed_s
        self.judge(dev)
        self.save()

    def _note(self, **figures: float) -> None:
        row = {
            "step": self.step,
            "minutes": round(self.elapsed_s / 60, 2),
            "rate": self.learning_rate(),
            "skipped": self.skipped,
            **{k: round(v, 4) for k, v in figures.items()},
        }
        kind = "dev" if "si_sdri" in figures else "train"
        path = self.folder / f"{kind}.csv"
        fresh = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(row))
            if fresh:
                writer.writeheader()
            writer.writerow(row)
        self.progress({"kind": kind, "done": self.progress_fraction(), **row})

    @torch.no_grad()
    def judge(self, dev: list[Any]) -> None:
        """Measure the averaged weights on the dev mixtures; keep them if they are the best."""
        net = MtassNet(self.model_config).to(self.device).eval()
        net.load_state_dict(self.average.values)
        figures = dev_figures(net, self.stft, dev, self.device)
        self._note(**figures)
        if figures["si_sdri"] > self.best:
            self.best = figures["si_sdri"]
            self._publish(figures)

    def save(self) -> None:
        """Write all that a resumed run needs, whole or not at all."""
        self._write(
            "last.pt",
            {
                "weights": self.net.state_dict(),
                "average": self.average.values,
                "optimiser": self.optimiser.state_dict(),
                "step": self.step,
                "elapsed_s": self.elapsed_s,
                "best": self.best,
                "skipped": self.skipped,
                "bank_sizes": self.bank_sizes,
                "earlier": self.earlier,
            },
        )

    def _publish(self, figures: dict[str, float]) -> None:
        """Write the averaged weights as a model that `rtmtass separate --model` can open."""
        from safetensors.torch import save

        counters = "num_batches_tracked"
        weights = {
            k: v.float().cpu().contiguous()
            for k, v in self.average.values.items()
            if not k.endswith(counters)
        }
        heard_s = self.step * self.config.batch * self.config.seconds
        training = {
            "steps": self.step,
            "mixture_hours": round(heard_s / 3600, 1),
            "machine_hours": round(self.elapsed_s / 3600, 2),
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "dev": {k: round(v, 3) for k, v in figures.items()},
            "earlier": self.earlier,
        }
        about = {"version": "unreleased", "licence": "MIT", "training": training}
        save_model(self.folder / "best", self.model_config, save(weights), about)

    def _write(self, name: str, values: dict[str, Any]) -> None:
        values["config"] = self.model_config.to_dict()
        part = self.folder / f"{name}.part"
        torch.save(values, part)
        os.replace(part, self.folder / name)

    def resume(self) -> bool:
        """Go on from the folder's last checkpoint, if there is one for this network."""
        path = self.folder / "last.pt"
        if not path.exists():
            if self.config.start_from:
                self._start_from(self.config.start_from)
            return False
        saved = torch.load(path, map_location=self.device, weights_only=True)
        if ModelConfig.from_dict(saved["config"]) != self.model_config:
            raise DataError(
                f"{path} holds another network than this config; use another runs folder"
            )
        self.net.load_state_dict(saved["weights"])
        self.average.values = saved["average"]
        self.optimiser.load_state_dict(saved["optimiser"])
        self.step, self.elapsed_s = saved["step"], saved["elapsed_s"]
        self.best, self.skipped = saved["best"], saved["skipped"]
        self.bank_sizes = saved["bank_sizes"]
        self.earlier = saved.get("earlier", [])
        if "earlier" not in saved and self.config.start_from:  # a checkpoint of before 0.3
            self.earlier = runs_behind(self.config.start_from)
        return True

    def _start_from(self, path: str) -> None:
        opened = open_model(path)
        self.earlier = runs_behind(path)
        if opened.config.net != self.model_config.net:
            raise DataError(f"{path} holds another network than this config; change [net]")
        values = {k: torch.from_numpy(v) for k, v in opened.weights.items()}
        self.net.load_state_dict(values)
        self.average = Average(self.net, self.config.ema)


@torch.no_grad()
def dev_figures(
    net: MtassNet, stft: Stft, dev: list[Any], device: torch.device
) -> dict[str, float]:
    """Return SI-SDRi and SDRi, mean and per stem, of `dev`'s (mixture (N,), stems (S, N))."""
    delay, hop = net.config.delay, net.config.stft.hop
    gains: list[np.ndarray[Any, Any]] = []
    for mixture, stems in dev:
        padded = np.pad(mixture, (0, delay + (-len(mixture) - delay) % hop))
        spec = stft(torch.from_numpy(padded).float().to(device)[None])
        out = stft.inverse(net(spec).permute(0, 2, 1, 3, 4))[0].cpu().numpy()
        out = out[:, delay : delay + len(mixture)]
        both = [f(out, stems) - f(mixture[None], stems) for f in (si_sdr, sdr)]
        gains.append(np.concatenate(both))
    mean = np.mean(gains, axis=0)
    n = len(net.config.stems)
    figures = {"si_sdri": float(mean[:n].mean()), "sdri": float(mean[n:].mean())}
    for i, stem in enumerate(net.config.stems):
        figures[f"si_sdri_{stem}"] = float(mean[i])
        figures[f"sdri_{stem}"] = float(mean[n + i])
    return figures


def train(config: TrainConfig, progress: Progress) -> Path:
    """Run, or go on with, the training `config` describes; return the best model's folder."""
    corpus = Corpus(Path(config.corpus), Path(config.cache))
    trainer = Trainer(config, progress)
    trainer.resume()
    previous = signal.getsignal(signal.SIGINT)

    def stop(*_: Any) -> None:
        trainer.stop_asked = True

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    dev = list(dev_mixtures(corpus, config.dev_clips, seconds=10.0, seed=0))
    stream = MixtureStream(
        corpus,
        "train",
        seconds=config.seconds,
        batch=config.batch,
        seed=config.seed,
        workers=config.workers,
        bank_sizes=trainer.bank_sizes if config.pin_banks else None,
    )
    trainer.bank_sizes = stream.bank_sizes
    try:
        trainer.run(stream.from_step(trainer.step), dev)
    finally:
        stream.close()
        signal.signal(signal.SIGINT, previous)
    return trainer.folder / "best"
