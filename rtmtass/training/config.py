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
SCHEDULES = ("cosine", "wsd")
"""How the learning rate may change; see `TrainConfig`."""
EXAMPLES = ("host", "device")
"""Where training examples may be mixed."""


@dataclass(frozen=True)
class TrainConfig:
    """How to train; the keys of a config file's [train] table.

    Attributes:
        corpus: folder of the recordings and their index.
        packs: folder of packs to unpack a corpus from, in the place of `corpus`; empty
            for none.
        cache: folder of the banks, and of what packs are unpacked into.
        runs: folder of the run: checkpoint, best model, log, snapshots.
        preset: of `rtmtass.config.PRESETS`; the tables [net] and [stft] change it.
        seconds: length of an example.
        batch: examples in a batch; where several processes train together, of each one's.
        examples: "host" mixes them on the CPU, "device" where the network trains: on a
            GPU without work for the CPU.
        workers: processes that mix ahead where `examples` is "host"; 0 mixes in between.
        pin_banks: go on with the banks as large as they were when the run began.
        seed: decides the first weights, the examples and all else that is drawn.
        optimiser: of `OPTIMISERS`; "muon" moves the matrices, AdamW the rest.
        learning_rate: the highest.
        weight_decay: of the matrices; vectors don't decay.
        clip: limit of the gradient's norm.
        schedule: how the learning rate changes. "cosine": up over `warmup_steps`, then
            down half a cosine to 1 % at the end of the run. "wsd": up, constant, and
            linearly down to 1 % over the last `decay` of the run.
        warmup_steps: steps over which the rate rises linearly to `learning_rate`.
        decay: of "wsd", the part of the run, 0..1, over which the rate falls. 0 makes
            the run a trunk: it has no end and its rate stays constant; bring copies
            of it to a finish by `rtmtass train CONFIG --branch decay`.
        minutes, steps: length of the run, all sittings together; whichever is reached
            first ends it, 0 is no bound. Of a trunk they are the length of each
            sitting: `rtmtass train CONFIG --minutes 10` trains 10 minutes more from
            where the trunk stands. Minutes are of training: validation and saving
            come on top.
        ema: decay of the exponential moving average of the weights, which is what is
            validated and kept.
        carry: share of the examples that begin with the state another example ended
            with (state carry-over), so that long streams are learnt from short crops;
            0 begins all with silence.
        threads: of torch; 0 leaves it the choice.
        device: "cpu", "cuda" or "cuda:N".
        bf16: compute in bfloat16 where torch's autocast finds it safe.
        graph: on CUDA, record a whole step as one CUDA graph and replay it, which saves
            the launching of its kernels one by one; only where one process trains.
            Without effect on a CPU.
        compile: use torch.compile. Not given: yes, but where a graph is recorded: the
            compiler stops at every GRU, and a graph saves most of what it would.
        dev_clips: mixtures of the validation set.
        dev_minutes: minutes of training between validations.
        save_minutes: minutes of training between checkpoints.
        snapshots: validation mixtures whose stems are written, as sound and picture,
            at every validation.
        start_from: a model whose weights to begin with.
        teacher: a model, of any size, to distil from: its stems are learnt from beside
            the true ones.
        teacher_share: how much of the loss asks for the teacher's stems, 0..1.
        tensorboard: log for TensorBoard, too; needs the extra `tensorboard`.
        net, stft: the tables [net] and [stft]: fields of `NetConfig` and `StftConfig`
            that differ from the preset's.
    """

    corpus: str = "corpus"
    packs: str = ""
    cache: str = "cache"
    runs: str = "runs/small"
    preset: str = "small"
    seconds: float = 4.0
    batch: int = 16
    examples: str = "host"
    workers: int = 1
    pin_banks: bool = True
    seed: int = 0
    optimiser: str = "adamw"
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    clip: float = 5.0
    schedule: str = "cosine"
    warmup_steps: int = 200
    decay: float = 0.2
    minutes: float = 0.0
    steps: int = 0
    ema: float = 0.999
    carry: float = 0.0
    threads: int = 0
    device: str = "cpu"
    bf16: bool = True
    graph: bool = True
    compile: bool | None = None
    dev_clips: int = 100
    dev_minutes: float = 10.0
    save_minutes: float = 2.0
    snapshots: int = 3
    start_from: str = ""
    teacher: str = ""
    teacher_share: float = 0.5
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
        config._check(path)
        return config

    def _check(self, path: Path) -> None:
        """Raise a UsageError where values can't be."""
        if not (self.minutes or self.steps or self.is_trunk):
            raise UsageError(f"{path} sets neither minutes nor steps; add --minutes 60")
        for name, known in (("schedule", SCHEDULES), ("examples", EXAMPLES)):
            if getattr(self, name) not in known:
                raise UsageError(
                    f"{path} has {name} = {getattr(self, name)!r}; give one of: {', '.join(known)}"
                )
        for name in ("decay", "teacher_share", "carry"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{path} has {name} = {getattr(self, name):g}; give 0 to 1")

    @property
    def is_trunk(self) -> bool:
        """Whether the run has no length, and `minutes` and `steps` are a sitting's."""
        return self.schedule == "wsd" and not self.decay

    @property
    def uses_graph(self) -> bool:
        """Whether a step is recorded as a CUDA graph."""
        return self.graph and self.device.startswith("cuda")

    @property
    def uses_compile(self) -> bool:
        """Whether torch.compile is used."""
        return not self.uses_graph if self.compile is None else self.compile

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
