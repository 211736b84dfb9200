"""The training configuration: a frozen dataclass read from a TOML file."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rtmtass.config import PRESETS, ModelConfig, NetConfig, StftConfig
from rtmtass.errors import UsageError

OPTIMISERS = {"adamw": "AdamW", "muon": "Muon"}
"""Values of `optimiser`, and the optimisers' names."""
SCHEDULES = ("cosine", "wsd")
"""Values of `schedule`; see `TrainConfig`."""
EXAMPLES = ("host", "device")
"""Values of `examples`: where training examples are mixed."""
ALIASES = {"carry": "carryover_prob"}
"""Former keys of [train], and what they are called now."""


@dataclass(frozen=True)
class TrainConfig:
    """Training configuration; the keys of a config file's [train] table.

    Attributes:
        corpus: folder of the recordings and their index.
        packs: folder of packs to decode instead of `corpus`; empty for none.
        cache: folder of the banks and of the decoded packs.
        runs: folder of the run: checkpoint, best model, log, snapshots.
        preset: name in `rtmtass.config.PRESETS`; the tables [net] and [stft] change it.
        name: the model's name. Empty: the preset's, which is only allowed while [net]
            and [stft] leave the preset unchanged.
        seconds: length of an example.
        batch: examples per batch and process.
        examples: "host" mixes them on the CPU, "device" on the training device, which
            leaves a GPU's host idle.
        workers: processes that mix ahead if `examples` is "host"; 0 mixes in the
            training process.
        pin_banks: keep using the bank sizes of the run's start, even if the banks have
            grown since.
        seed: seed of the initial weights, the examples and every other random draw.
        optimiser: key of `OPTIMISERS`; "muon" updates the matrices, AdamW the rest.
        learning_rate: peak learning rate.
        weight_decay: of the matrices; vectors don't decay.
        clip: limit of the gradient's norm.
        schedule: "cosine": linear warm-up, then half a cosine down to 1 % at the end of
            the run. "wsd": linear warm-up, constant, then linear down to 1 % over the
            last `decay` of the run.
        warmup_steps: steps over which the rate rises linearly to `learning_rate`.
        decay: fraction of a "wsd" run, 0..1, over which the rate falls. 0 makes the
            run a trunk: it has no end and its rate stays constant; finish copies of it
            with `rtmtass train CONFIG --branch decay`.
        minutes, steps: length of the run over all sessions; the first one reached ends
            it, 0 is no limit. For a trunk, the length of each session: `rtmtass train
            CONFIG --minutes 10` trains for 10 more minutes. Only training counts, not
            validation or saving.
        ema: decay per step of the exponential moving average of the weights. The
            averaged weights are the ones validated and saved as the best model.
        carryover_prob: probability that an example starts from the final state of an
            example of the previous batch (state carry-over), 0..1, so that short crops
            train for long streams; 0 starts every example from the initial state.
        threads: torch's CPU threads; 0 for torch's default.
        device: "cpu", "cuda" or "cuda:N".
        bf16: autocast to bfloat16.
        graph: on CUDA with a single process, record a whole step as one CUDA graph and
            replay it, which saves launching its kernels one by one. No effect on a CPU.
        compile: use torch.compile. If not given, only without a CUDA graph: the
            compiler breaks at every GRU, and a graph saves most of what it would.
        dev_clips: mixtures in the validation set.
        dev_minutes: minutes of training between validations.
        save_minutes: minutes of training between checkpoints.
        snapshots: validation mixtures whose stems are written as audio and
            spectrograms at every validation.
        start_from: a model whose weights initialise the network; empty for none.
        teacher: a model, of any size, to distil from; empty for none.
        teacher_share: weight of the distillation loss, 0..1; the loss against the true
            stems has the rest.
        tensorboard: also log to TensorBoard; needs the extra `tensorboard`.
        net, stft: the tables [net] and [stft]: fields of `NetConfig` and `StftConfig`
            that differ from the preset's.
    """

    corpus: str = "corpus"
    packs: str = ""
    cache: str = "cache"
    runs: str = "runs/small"
    preset: str = "small"
    name: str = ""
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
    carryover_prob: float = 0.0
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
        """Read a TOML file.

        Args:
            path: the file, with the tables [train], [net] and [stft].
            overrides: fields that replace the file's; None leaves the file's.

        Raises:
            UsageError: no such file, not valid TOML, an unknown key or a value out of range.
        """
        try:
            values = tomllib.loads(path.read_text())
        except FileNotFoundError:
            raise UsageError(f"no training config at {path}; see the README, Train it") from None
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"{path} is not valid TOML: {error}") from None
        flat = {ALIASES.get(k, k): v for k, v in values.get("train", {}).items()}
        flat |= {"net": values.get("net", {}), "stft": values.get("stft", {})}
        flat.update({k: v for k, v in overrides.items() if v is not None})
        unknown = sorted(set(flat) - {f.name for f in dataclasses.fields(cls)})
        if unknown:
            raise UsageError(
                f"{path} has unknown keys in [train]: {', '.join(unknown)}; remove them, or"
                " correct their spelling"
            )
        config = cls(**flat)
        config._check(path)
        return config

    def _check(self, path: Path) -> None:
        """Raise a UsageError for values that are out of range or contradict each other."""
        if not (self.minutes or self.steps or self.is_trunk):
            raise UsageError(f"{path} sets neither minutes nor steps; add --minutes 60")
        for key, known in (
            ("schedule", SCHEDULES),
            ("examples", EXAMPLES),
            ("preset", tuple(PRESETS)),
        ):
            if getattr(self, key) not in known:
                raise UsageError(
                    f"{path} has {key} = {getattr(self, key)!r}; give one of: {', '.join(known)}"
                )
        for key in ("decay", "teacher_share", "carryover_prob"):
            if not 0 <= getattr(self, key) <= 1:
                raise UsageError(f"{path} has {key} = {getattr(self, key):g}; give 0 to 1")
        self._check_name(path)

    def _check_name(self, path: Path) -> None:
        """Raise a UsageError if a changed network would be called like a preset."""
        model, preset = self.model(), PRESETS[self.preset]()
        is_changed = (model.net, model.stft) != (preset.net, preset.stft)
        if is_changed and model.name in {make().name for make in PRESETS.values()}:
            raise UsageError(
                f"{path} changes the network of preset {self.preset!r} but calls the model"
                f" {model.name!r}; a changed network needs a name of its own: add"
                ' name = "my-model" to [train]'
            )

    @property
    def is_trunk(self) -> bool:
        """Whether the run has no end, and `minutes` and `steps` count per session."""
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
        """Return the model this run trains: the preset with the [net] and [stft] changes.

        Raises:
            UsageError: no preset of that name, or an unknown field of [net] or [stft].
        """
        if self.preset not in PRESETS:
            raise UsageError(f"unknown preset {self.preset!r}; give one of: {', '.join(PRESETS)}")
        base = PRESETS[self.preset]()
        net: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in self.net.items()
        }
        try:
            return dataclasses.replace(
                base,
                name=self.name or base.name,
                net=dataclasses.replace(base.net, **net),
                stft=dataclasses.replace(base.stft, **self.stft),
            )
        except TypeError as error:
            known = [f.name for kind in (NetConfig, StftConfig) for f in dataclasses.fields(kind)]
            raise UsageError(f"[net] or [stft]: {error}; known: {', '.join(known)}") from None
