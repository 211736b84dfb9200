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

    Attributes:
        backbone: of stage 1, of `BACKBONES`. "recurrent" is that of the presets `small`,
            `base` and `large`: dilated gated blocks, then GRUs. "multiscale" is that of
            the causal twin of the published separator.
        target: what stage 1's heads give for each stem, of `TARGETS`: a mask on the
            mixture, or the stem's spectrum itself.
        compensation_target: what stage 2 gives, of `TARGETS`, its masks on what stage 1
            left out; "none" is no stage 2.
        channels: width of stage 1 between its blocks.
        hidden: width inside a gated block.
        kernel: frames that a dilated convolution reads.
        dilations: of stage 1's blocks, one a block: how many frames those lie apart.
        recurrent: units of a GRU of stage 1; a GPU has fast kernels up to 128.
        recurrent_groups: GRUs side by side in a layer, all reading all channels.
        recurrent_layers: layers of GRUs, after the blocks.
        compensation_channels: width of stage 2 between its blocks, for each stem.
        compensation_hidden: width inside a gated block of stage 2.
        compensation_dilations: of stage 2's blocks.
        compensation_uses_trunk: stage 2 also reads stage 1's last channels.
        mask_limit: largest real or imaginary part of a complex mask.
        level_half_life_s: seconds after which a frame counts half in the running level,
            see `net.layers.RunningLevel`; the level has no weights.
        level_by_power: loud frames count for more in the level, so that pauses don't
            wear it down.
        level_pop_s: what lasts less than so many seconds in any two (a clap, a knock)
            doesn't move the level; 0 lets everything move it.
        lookahead: frames that stage 1 waits for.
        bands: sub-bands inside a block of the multiscale backbone.
        subband_bins: bins of each of the sub-bands that correct what stage 1's heads
            give, see `net.subbands.SubBands`; 0 is none.
        subband_overlap: bins to either side that a sub-band reads, too.
        subband_context: channels of stage 1 that a sub-band reads.
        subband_channels: width of the sub-bands, and units of their GRUs in all.
        subband_groups: GRUs side by side in a sub-band; divides `subband_channels`.
        dropout: share of channels dropped, in training only.
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
    compensation_uses_trunk: bool = True
    mask_limit: float = 2.0
    level_half_life_s: float = 1.0
    level_by_power: bool = False
    level_pop_s: float = 0.0
    lookahead: int = 0
    bands: int = 8
    subband_bins: int = 0
    subband_overlap: int = 4
    subband_context: int = 16
    subband_channels: int = 64
    subband_groups: int = 1
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
                f"recurrent_groups counts GRUs side by side, from 1 up, not"
                f" {self.recurrent_groups}; for none, set recurrent_layers to 0"
            )
        if self.subband_groups < 1 or self.subband_channels % self.subband_groups:
            raise ModelError(
                f"subband_groups must divide subband_channels, {self.subband_channels}:"
                f" {self.subband_groups} doesn't; 1 always does"
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
    """The preset `small`: 3.7 M parameters, 0.31 GMAC/s; for batteries and for many streams."""
    return ModelConfig(net=NetConfig(level_by_power=True, level_pop_s=0.35, subband_bins=8))


def base() -> ModelConfig:
    """The preset `base`: `small` made wider, 7.2 M parameters, 0.92 GMAC/s.

    Half of the multiplications are in sub-bands, whose weights are read once for all bands.
    """
    net = dataclasses.replace(
        small().net,
        channels=384,
        hidden=192,
        dilations=(1, 2, 4, 8),
        recurrent=128,
        recurrent_groups=4,
        compensation_channels=192,
        compensation_hidden=96,
        subband_context=32,
        subband_channels=192,
        subband_groups=2,
    )
    return ModelConfig(name="rtmtass-base", net=net)


def large() -> ModelConfig:
    """The preset `large`: 17.0 M parameters, 2.7 GMAC/s; for recordings, and as a teacher."""
    net = dataclasses.replace(
        base().net,
        channels=640,
        hidden=320,
        recurrent_groups=6,
        compensation_channels=320,
        compensation_hidden=160,
        subband_channels=384,
        subband_groups=3,
    )
    return ModelConfig(name="rtmtass-large", net=net)


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
            compensation_uses_trunk=False,
            level_by_power=True,
            level_pop_s=0.35,
            dropout=0.2,
        ),
    )


PRESETS = {"small": small, "base": base, "large": large, "paper": paper}
