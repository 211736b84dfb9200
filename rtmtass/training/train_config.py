"""How a separator is trained, as a small frozen value read from a TOML file."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rtmtass.config import PRESETS, ModelConfig, NetConfig, StftConfig
from rtmtass.errors import UsageError

OPTIMISERS = {"adamw": "AdamW", "muon": "Muon"}
"""What a config may name, and what people call it."""


@dataclass(frozen=True)
class TrainConfig:
    """How to train; the keys of a config file's [train] table.

    Attributes:
        corpus, cache, runs: folders; what a run writes lies under `runs`.
        preset: of `rtmtass.config.PRESETS`; `net` and `stft` change it.
        seconds, batch: length and number of the examples in a batch; where several
            processes train together, of each one's batch.
        optimiser: of `OPTIMISERS`; "muon" moves the matrices, AdamW the rest.
        learning_rate, weight_decay, warmup_steps, clip: the optimiser's; `clip` limits
            the gradient's norm.
        minutes, steps: whichever is reached first ends the run; 0 is no bound.
        ema: decay of the averaged weights, which are the ones judged and kept.
        threads: of torch; 0 leaves it the choice.
        device: "cpu" or "cuda".
        bf16, compile: autocast and torch.compile.
        workers: processes that mix ahead; 0 mixes in between.
        dev_clips, dev_minutes: how many dev mixtures are judged, and how often.
        save_minutes: how often a checkpoint is written.
        start_from: a model whose weights to begin with.
        teacher: a model, of any size, whose stems are learnt from beside the true ones.
        teacher_share: how much of the loss asks for the teacher's stems, 0..1.
        pin_banks: go on with the banks as large as they were when the run began.
        carry: share of the examples that begin with a memory left by another example,
            so that long streams are learnt from short crops; 0 begins all blank.
        snapshots: dev mixtures whose stems are written, as sound and picture, at
            every judgement.
        tensorboard: log for TensorBoard, too; needs the extra `tensorboard`.
    """

    corpus: str = "corpus"
    cache: str = "cache"
    runs: str = "runs/small"
    preset: str = "small"
    seconds: float = 4.0
    batch: int = 16
    optimiser: str = "adamw"
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
    dev_clips: int = 100
    dev_minutes: float = 10.0
    save_minutes: float = 2.0
    start_from: str = ""
    teacher: str = ""
    teacher_share: float = 0.5
    pin_banks: bool = True
    carry: float = 0.0
    snapshots: int = 3
    tensorboard: bool = False
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
        if not 0 <= config.teacher_share <= 1:
            raise UsageError(f"{path} has teacher_share = {config.teacher_share:g}; give 0 to 1")
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
