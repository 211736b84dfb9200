"""The training configuration: a frozen dataclass read from a TOML file."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from rtmtass.config import NET_BOUNDS, STFT_BOUNDS, ModelConfig, NetConfig, StftConfig
from rtmtass.errors import ModelError, UsageError
from rtmtass.presets import PRESETS
from rtmtass.training.config_values import (
    Between,
    OneOf,
    Rule,
    Text,
    checked,
    did_you_mean,
    explain_unknown,
    rules_of,
    shorten,
)
from rtmtass.training.data.recipe import Recipe
from rtmtass.types import SAMPLE_RATE

OPTIMISERS = {"adamw": "AdamW", "muon": "Muon"}
"""Values of `optimiser`, and the optimisers' names."""
SCHEDULES = ("cosine", "wsd")
"""Values of `schedule`; see `TrainConfig`."""
EXAMPLES = ("host", "device")
"""Values of `examples`: where training examples are mixed."""
ALIASES = {"carry": "carryover_prob"}
"""Former keys of [train], and what they are called now."""
LARGEST_FILE = 1_000_000
"""Largest config file that is read, in bytes."""
MOST_BATCH_S = 100_000
"""Longest batch of one process, in seconds of mixtures; its three stems take 19 GB."""

PATH = Text(r"[^\x00]{1,4096}", "the path of a folder")
NAME = Text(r"[^\x00-\x1f\x7f/\\]{0,100}", "up to 100 characters without slashes")
PROBABILITY = Between(0, 1)
NET_RULES: dict[str, Rule] = {name: Between(*bounds) for name, bounds in NET_BOUNDS.items()}
"""Ranges of [net]; what depends on two fields, `NetConfig` checks."""
STFT_RULES: dict[str, Rule] = {
    **{name: Between(*bounds) for name, bounds in STFT_BOUNDS.items()},
    "sample_rate": Between(SAMPLE_RATE, SAMPLE_RATE),  # of the decoded recordings
}
"""Ranges of [stft], likewise `StftConfig`."""
RECIPE_RULES: dict[str, Rule] = {
    item.name: Between(0, 60 if item.name.endswith("_db") else 1) for item in fields(Recipe)
}
"""Ranges of [recipe]: probabilities, and SNRs in dB."""


@dataclass(frozen=True)
class TrainConfig:
    """Training configuration; the keys of a config file's [train] table.

    Attributes:
        corpus: folder of the recordings and their index.
        packs: folder of packs to decode instead of `corpus`; empty for none.
        cache: folder of the banks and of the decoded packs.
        runs: folder of the run: checkpoint, best model, log, snapshots.
        preset: name in `rtmtass.presets.PRESETS`; the tables [net] and [stft] change it.
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
        bf16: autocast to bfloat16. If not given, on a GPU only: a CPU has compiled loops
            for float32, and few have fast bfloat16.
        graph: on CUDA with a single process, record a whole step as one CUDA graph and
            replay it, which saves launching its kernels one by one. No effect on a CPU.
        compile: use torch.compile. If not given, only without a CUDA graph, and not for a
            network in bands in float32 on a CPU, which has compiled loops of its own. With
            a graph, a wide `gated` trained 1.37 times as fast on an H100, after two minutes of
            compiling.
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
        recipe: the table [recipe]: fields of `Recipe`, how examples are mixed and
            augmented, that differ from its defaults.
    """

    corpus: Annotated[str, PATH] = "corpus"
    packs: str = ""
    cache: Annotated[str, PATH] = "cache"
    runs: Annotated[str, PATH] = "runs/small"
    preset: Annotated[str, OneOf(tuple(PRESETS))] = "small"
    name: Annotated[str, NAME] = ""
    seconds: Annotated[float, Between(0.1, 600)] = 4.0
    batch: Annotated[int, Between(1, 65536)] = 16
    examples: Annotated[str, OneOf(EXAMPLES)] = "host"
    workers: Annotated[int, Between(0, 256)] = 1
    pin_banks: bool = True
    seed: Annotated[int, Between(0, 2**63 - 1)] = 0
    optimiser: Annotated[str, OneOf(tuple(OPTIMISERS))] = "adamw"
    learning_rate: Annotated[float, Between(0, 10, above=True)] = 2e-3
    weight_decay: Annotated[float, Between(0, 10)] = 0.01
    clip: Annotated[float, Between(0, 1e6, above=True)] = 5.0
    schedule: Annotated[str, OneOf(SCHEDULES)] = "cosine"
    warmup_steps: int = 200
    decay: Annotated[float, PROBABILITY] = 0.2
    minutes: float = 0.0
    steps: int = 0
    ema: Annotated[float, Between(0, 0.999999)] = 0.999
    carryover_prob: Annotated[float, PROBABILITY] = 0.0
    threads: Annotated[int, Between(0, 512)] = 0
    device: Annotated[str, Text(r"cpu|cuda(:\d{1,3})?", "cpu, cuda or cuda:N")] = "cpu"
    bf16: bool | None = None
    graph: bool = True
    compile: bool | None = None
    dev_clips: Annotated[int, Between(1, 100_000)] = 100
    dev_minutes: float = 10.0
    save_minutes: float = 2.0
    snapshots: Annotated[int, Between(0, 10_000)] = 3
    start_from: str = ""
    teacher: str = ""
    teacher_share: Annotated[float, PROBABILITY] = 0.5
    tensorboard: bool = False
    net: dict[str, Any] = field(default_factory=dict)
    stft: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, **overrides: Any) -> TrainConfig:
        """Read a TOML file.

        Args:
            path: the file, with the tables [train], [net], [stft] and [recipe].
            overrides: options of the command line, which replace the file's keys of the
                same names; None leaves the file's.

        Raises:
            UsageError: the file can't be read or isn't TOML; a table or key is unknown;
                a value has another type, is out of range or contradicts another.
        """
        tables = _read_tables(path)
        given = {key: value for key, value in overrides.items() if value is not None}
        values = _checked_table("train", tables["train"], f"{path} has ")
        values |= _checked_table("train", given, "--")
        config = cls(**{**values, **{name: tables[name] for name in _FIELDS_THAT_ARE_TABLES}})
        config._check(path)
        return config

    def _check(self, path: Path) -> None:
        """Raise a UsageError for values that contradict each other."""
        if not (self.minutes or self.steps or self.is_trunk):
            raise UsageError(f"{path} sets neither minutes nor steps; add --minutes 60")
        try:
            model, recipe = self.model(), self.mixing()
        except (UsageError, ModelError) as error:
            raise UsageError(f"{path}: {error}") from None
        absent = recipe.one_alone + recipe.one_missing + recipe.all_silent
        if absent > 1:
            raise UsageError(
                f"{path}: [recipe] one_alone, one_missing and all_silent add up to {absent:g};"
                " give at most 1"
            )
        if model.net.recurrent_layers and not model.net.recurrent:
            raise UsageError(
                f"{path}: [net] recurrent = 0, but recurrent_layers ="
                f" {model.net.recurrent_layers}; for no GRUs, set recurrent_layers = 0"
            )
        self._check_name(path)
        batch_s, shortest = self.batch * self.seconds, 2 * (model.delay + model.stft.n_fft)
        if batch_s > MOST_BATCH_S:
            raise UsageError(
                f"{path} has batch = {self.batch} of {self.seconds:g} s, {batch_s:,.0f} s in all;"
                f" give at most {MOST_BATCH_S:,.0f} s"
            )
        if self.seconds * SAMPLE_RATE < shortest:
            raise UsageError(
                f"{path} has seconds = {self.seconds:g}, too short for this network; give"
                f" {math.ceil(100 * shortest / SAMPLE_RATE) / 100:g} or more"
            )

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
        if self.compile is not None:
            return self.compile
        has_own_loops = self.device == "cpu" and not self.uses_bf16
        is_by_hand = has_own_loops and self.model().net.backbone == "bands"
        return not self.uses_graph and not is_by_hand

    @property
    def uses_bf16(self) -> bool:
        """Whether the forward pass is autocast to bfloat16."""
        return self.device.startswith("cuda") if self.bf16 is None else self.bf16

    def model(self) -> ModelConfig:
        """Return the model this run trains: the preset with the [net] and [stft] changes.

        Raises:
            UsageError: no preset of that name, or an unknown field of [net] or [stft].
        """
        if self.preset not in PRESETS:
            raise UsageError(f"unknown preset {self.preset!r}; give one of: {', '.join(PRESETS)}")
        base = PRESETS[self.preset]()
        return dataclasses.replace(
            base,
            name=self.name or base.name,
            net=dataclasses.replace(base.net, **_checked_table("net", self.net)),
            stft=dataclasses.replace(base.stft, **_checked_table("stft", self.stft)),
        )

    def mixing(self) -> Recipe:
        """Return how examples are mixed: the default recipe with the [recipe] changes.

        Raises:
            UsageError: an unknown field of [recipe], or a value out of range.
        """
        return Recipe(**_checked_table("recipe", self.recipe))


_FIELDS_THAT_ARE_TABLES = ("net", "stft", "recipe")
_RULES = {
    "train": {k: v for k, v in rules_of(TrainConfig).items() if k not in _FIELDS_THAT_ARE_TABLES},
    "net": rules_of(NetConfig, NET_RULES),
    "stft": rules_of(StftConfig, STFT_RULES),
    "recipe": {k: v for k, v in rules_of(Recipe, RECIPE_RULES).items() if v.kind is float},
}
"""What every key of every table accepts."""


def _checked_table(table: str, values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return a table's values, checked, by the current names of their keys.

    Args:
        table: "train", "net", "stft" or "recipe".
        values: as in the file, or options of the command line.
        before: begins the messages: the file, or "--" for options.

    Raises:
        UsageError: a key is unknown, or a value isn't what its field accepts.
    """
    rules = _RULES[table]
    current = {ALIASES.get(key, key) if table == "train" else key: key for key in values}
    unknown = set(current) - set(rules)
    if unknown:
        keys = ", ".join(shorten(key)[1:-1] for key in sorted(unknown))
        known = "" if table == "train" else f"; known: {', '.join(rules)}"
        raise UsageError(
            f"{before}unknown keys in [{table}]: {keys}; remove them, or correct their spelling"
            f"{explain_unknown(unknown, _RULES, table)}{known}"
        )
    of = "" if table == "train" else f"[{table}] "
    return {
        name: checked(values[key], rules[name], f"{before}{of}{name}")
        for name, key in current.items()
    }


def _read_tables(path: Path) -> dict[str, dict[str, Any]]:
    """Return the tables of a TOML file, those of `_RULES`; a missing one is empty.

    Raises:
        UsageError: the file can't be read, isn't TOML, or holds anything else.
    """
    try:
        values = tomllib.loads(_read_text(path))
    except RecursionError:
        raise UsageError(f"{path} is not valid TOML: too many brackets in brackets") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from None
    except ValueError:
        raise UsageError(
            f"{path} is not valid TOML: it has a number of thousands of digits"
        ) from None
    for key, value in values.items():
        if key in _RULES and not isinstance(value, dict):
            raise UsageError(
                f"{path} has {key} = {shorten(value)}; {key} is a table: write [{key}] on a line"
                " of its own, and its keys below"
            )
        if key in _RULES:
            continue
        table = next((name for name, rules in _RULES.items() if key in rules), "")
        if table and not isinstance(value, dict):
            raise UsageError(
                f"{path} has {key} outside of its table; move it below the line [{table}]"
            )
        what = f"table [{key}]" if isinstance(value, dict) else f"key {key}"
        raise UsageError(
            f"{path} has the unknown {what}{did_you_mean(key, _RULES)}; known tables:"
            f" {', '.join(f'[{name}]' for name in _RULES)}"
        )
    return {name: values.get(name, {}) for name in _RULES}


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except FileNotFoundError:
        raise UsageError(f"no training config at {path}; see the README, Train it") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{path} can't be read: {reason}; give a TOML file") from None
    if len(data) > LARGEST_FILE:
        raise UsageError(f"{path} is larger than {LARGEST_FILE // 1000} kB; give a TOML file")
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")  # as editors on Windows write it
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UsageError(
            f"{path} is not UTF-8 text (byte 0x{data[error.start]:02x} in line {line}); save it as"
            " UTF-8"
        ) from None
