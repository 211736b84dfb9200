"""What a model is, as small frozen values that travel as JSON beside its weights."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rtmtass.errors import ModelError

STEMS = ("speech", "music", "noise")
"""The stems, in this order everywhere."""

TARGETS = ("complex_ratio_mask", "magnitude_mask", "spectral_mapping")
BACKBONES = ("recurrent", "multiscale")
PRECISIONS = ("f32", "bf16", "int8")
"""What the compiled runtime can keep the weights of its products in."""
TORCH_PRECISIONS = ("f32", "tf32", "bf16")
"""What torch can compute products in; tf32 rounds the factors of float32 on GPUs."""
PASSES = (1, 2, 4)
"""How often a stream can be heard: as it is, also upside down, both also half a hop later."""

LEVEL_WINDOW_S = 2.0
"""How far back the running level looks for how long a loudness has lasted."""
LEVEL_FALL_DB_PER_S = 125.0
"""How fast the running level lets go of a pop."""
LEVEL_HEADROOM = 4.0
"""How far peaks of power lie above the level of a sound that lasts: 6 dB."""

T = TypeVar("T")


@dataclass(frozen=True)
class StftConfig:
    """The transform: how many samples in, how many out, how far apart.

    A synthesis window shorter than the analysis window lowers the delay and
    keeps the frequency resolution. All lengths in samples.
    """

    sample_rate: int = 16000
    n_fft: int = 512
    hop: int = 256
    synthesis: int = 512

    def __post_init__(self) -> None:
        if self.n_fft < 8 or self.n_fft & (self.n_fft - 1):
            raise ModelError(f"n_fft must be a power of two from 8 up, not {self.n_fft}")
        if self.hop < 1 or self.synthesis < 2 * self.hop or self.synthesis % self.hop:
            raise ModelError(
                f"the synthesis window must be a multiple of the hop, two hops or more:"
                f" got synthesis={self.synthesis}, hop={self.hop}"
            )
        if self.synthesis > self.n_fft or self.n_fft % self.hop:
            raise ModelError(
                f"the synthesis window can't outlast n_fft, and hop must divide n_fft:"
                f" got n_fft={self.n_fft}, synthesis={self.synthesis}, hop={self.hop}"
            )

    @property
    def n_bins(self) -> int:
        """Frequency bins of a frame, F."""
        return self.n_fft // 2 + 1

    @property
    def delay(self) -> int:
        """Offset of the output against the input, hop by hop, without look-ahead."""
        return self.synthesis - self.hop


@dataclass(frozen=True)
class NetConfig:
    """The network: which backbone, how wide, which training target.

    `level_by_power` lets loud frames count for more in the running level, so
    that pauses don't; what lasts less than `level_pop_s` seconds in any two seconds
    (a clap, a knock) doesn't move it either, 0 counts everything: see
    `net.layers.RunningLevel`.

    `recurrent` is the backbone of `small`: dilated gated blocks, then GRUs.
    `multiscale` is the causal twin of the published separator.

    `subband_bins` above 0 adds sub-bands of so many bins that correct stage 1's
    answers: see `net.subbands.SubBands`.
    """

    backbone: str = "recurrent"
    target: str = "complex_ratio_mask"
    compensation_target: str = "complex_ratio_mask"
    channels: int = 256
    hidden: int = 128
    kernel: int = 3
    dilations: tuple[int, ...] = (1, 2, 4)
    recurrent: int = 320
    recurrent_groups: int = 1
    recurrent_layers: int = 2
    compensation_channels: int = 128
    compensation_hidden: int = 64
    compensation_dilations: tuple[int, ...] = (1, 2, 4, 8)
    compensation_hears_stage_one: bool = True
    mask_limit: float = 2.0
    level_half_life_s: float = 1.0
    level_by_power: bool = False
    level_pop_s: float = 0.0
    lookahead: int = 0
    bands: int = 8
    subband_bins: int = 0
    subband_overlap: int = 4
    subband_told: int = 16
    subband_channels: int = 64
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("backbone", self.backbone, BACKBONES),
            ("target", self.target, TARGETS),
            ("compensation_target", self.compensation_target, (*TARGETS, "none")),
        ):
            if value not in allowed:
                raise ModelError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")
        if not 0 <= self.level_pop_s < LEVEL_WINDOW_S / 2:
            raise ModelError(
                f"level_pop_s must be from 0 to less than {LEVEL_WINDOW_S / 2:g} seconds,"
                f" not {self.level_pop_s:g}"
            )
        if self.level_pop_s and not self.level_by_power:
            raise ModelError("level_pop_s goes with level_by_power only: set both, or 0")
        if self.recurrent_groups < 1:
            raise ModelError(
                f"recurrent_groups counts GRUs side by side, from 1 up: {self.recurrent_groups}"
                " was given; set recurrent_layers to 0 for none"
            )
        if self.subband_bins and self.backbone != "recurrent":
            raise ModelError("sub-bands go with the recurrent backbone only: set subband_bins to 0")

    def n_subbands(self, n_bins: int) -> int:
        """Return how many sub-bands cover `n_bins` bins; the last may be short."""
        return -(-n_bins // self.subband_bins)


@dataclass(frozen=True)
class ModelConfig:
    """All that is needed to build a model and to run it."""

    name: str = "rtmtass-small"
    stems: tuple[str, ...] = STEMS
    stft: StftConfig = field(default_factory=StftConfig)
    net: NetConfig = field(default_factory=NetConfig)

    @property
    def delay(self) -> int:
        """Output against input, in samples, when blocks are whole hops."""
        return self.stft.delay + self.net.lookahead * self.stft.hop

    @property
    def algorithmic_latency(self) -> int:
        """Capture to playback with an infinitely fast computer, in samples."""
        return self.delay + self.stft.hop

    @property
    def level_decay(self) -> float:
        """What the running level keeps of its sums from one frame to the next."""
        return float(0.5 ** (1 / (self.net.level_half_life_s * self._frames_per_s)))

    @property
    def level_window(self) -> int:
        """Frames among which the running level looks for pops; 0 if it doesn't."""
        return round(LEVEL_WINDOW_S * self._frames_per_s) if self.net.level_pop_s else 0

    @property
    def level_rank(self) -> int:
        """How many of the window's frames must be as loud for the level to believe it."""
        return max(1, round(self.net.level_pop_s * self._frames_per_s))

    @property
    def level_fall(self) -> float:
        """What is left of a pop's power from one frame to the next."""
        return float(10 ** (-LEVEL_FALL_DB_PER_S / 10 / self._frames_per_s))

    @property
    def _frames_per_s(self) -> float:
        return self.stft.sample_rate / self.stft.hop

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """Build from `to_dict`'s values; an unknown key is a ModelError that names it."""
        parts = dict(values)
        parts["stft"] = _build(StftConfig, parts.get("stft", {}))
        parts["net"] = _build(NetConfig, parts.get("net", {}))
        return _build(cls, parts)


def _build(kind: type[T], values: dict[str, Any]) -> T:
    known = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - known)
    if unknown:
        raise ModelError(
            f"the model's config has keys this version doesn't know: {', '.join(unknown)};"
            " it was made by a newer rtmtass: pip install --upgrade rtmtass"
        )
    frozen = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return kind(**frozen)


def small() -> ModelConfig:
    """The preset `small`: at most 4 M parameters, a frame in a few hundred microseconds."""
    return ModelConfig(net=NetConfig(level_by_power=True, level_pop_s=0.35, subband_bins=8))


def paper() -> ModelConfig:
    """The preset `paper`: the causal twin of Complex-MTASSNet, 28.2 M parameters.

    Source: Zhang, Li, Deng, Wang, "Multi-Task Audio Source Separation", ASRU 2021.
    """
    return ModelConfig(
        name="rtmtass-paper",
        net=NetConfig(
            backbone="multiscale",
            compensation_target="spectral_mapping",
            channels=1028,
            hidden=257,
            dilations=(1, 3, 5, 7, 11) * 3,
            recurrent=0,
            recurrent_layers=0,
            compensation_channels=256,
            compensation_hidden=64,
            compensation_dilations=(1, 2, 4, 8, 16, 32, 64, 128) * 5,
            compensation_hears_stage_one=False,
            level_by_power=True,
            level_pop_s=0.35,
            dropout=0.2,
        ),
    )


PRESETS = {"small": small, "paper": paper}
