"""Frozen dataclasses that describe a model, saved as JSON beside its weights."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rtmtass.errors import ModelError
from rtmtass.limits import check_bounds, check_types, shown

STEMS = ("speech", "music", "noise")
"""The stems, in this order everywhere."""

TARGETS = ("complex_ratio_mask", "magnitude_mask", "spectral_mapping")
"""Training targets: what the heads of the network estimate."""
BACKBONES = ("recurrent", "multiscale", "bands")
"""Architectures of stage 1, see `NetConfig.backbone`."""
PRECISIONS = ("f32", "bf16", "int8")
"""Weight formats of the compiled runtime's matmuls."""
TORCH_PRECISIONS = ("f32", "tf32", "bf16")
"""Matmul precisions of the torch runtime; tf32 rounds the inputs of float32 matmuls on GPUs."""
PASSES = (1, 2, 4)
"""TTA passes: 2 adds polarity inversion; 4 adds a half-hop shift of both."""

LEVEL_WINDOW_S = 2.0
"""Window in which the running level measures how long a sound has lasted, in seconds."""
LEVEL_FALL_DB_PER_S = 125.0
"""Release rate of the running level after a pop."""
LEVEL_HEADROOM = 4.0
"""Power of a peak relative to the sustained level: 6 dB."""
EXPANDER_S = (0.1, 1.0)
"""Time constants of the two averages that the expander reads, in seconds."""

_WIDTH = (1, 8192)
STFT_BOUNDS = {
    "sample_rate": (1000, 768_000),
    "n_fft": (8, 65536),
    "hop": (1, 32768),
    "synthesis": (2, 65536),
}
NET_BOUNDS = {
    "channels": _WIDTH,
    "hidden": _WIDTH,
    "kernel": (1, 64),
    "dilations": (1, 65536),
    "recurrent": (0, 8192),
    "recurrent_groups": (1, 64),
    "recurrent_layers": (0, 64),
    "compensation_channels": _WIDTH,
    "compensation_hidden": _WIDTH,
    "compensation_dilations": (1, 65536),
    "mask_limit": (1e-3, 1e6),
    "level_half_life_s": (1e-3, 1e4),
    "lookahead": (0, 256),
    "bands": (1, 1024),
    "band_bins": (1, 32769),
    "band_context": (1, 1024),
    "compensation_layers": (1, 64),
    "subband_bins": (0, 32769),
    "subband_overlap": (0, 1024),
    "subband_context": (1, 1024),
    "subband_channels": _WIDTH,
    "subband_groups": (1, 64),
    "expander_db": (-60, 0),
    "expander_ratio": (2, 5),
    "dropout": (0, 0.99),
}
"""Beyond these no network is useful, and some would need all memory."""
_STEM = r"\w[\w -]{0,31}"
_MOST_STEMS = 16

T = TypeVar("T")


@dataclass(frozen=True)
class StftConfig:
    """The STFT.

    A synthesis window shorter than the analysis window lowers the delay and
    keeps the frequency resolution.

    Attributes:
        sample_rate: in Hz.
        n_fft: length of the FFT and of the analysis window, in samples; a power of two,
            at least 8.
        hop: samples between frames; divides `n_fft` and `synthesis`.
        synthesis: length of the synthesis window, in samples; from two hops to `n_fft`.

    Raises:
        ModelError: the lengths don't fit each other.
    """

    sample_rate: int = 16000
    n_fft: int = 512
    hop: int = 256
    synthesis: int = 512

    def __post_init__(self) -> None:
        check_types(self)
        if self.n_fft < 8 or self.n_fft & (self.n_fft - 1):
            raise ModelError(f"n_fft must be a power of two, 8 or more, not {self.n_fft}")
        if self.hop < 1 or self.synthesis < 2 * self.hop or self.synthesis % self.hop:
            raise ModelError(
                f"the synthesis window must be a multiple of the hop, at least two hops;"
                f" got synthesis={self.synthesis}, hop={self.hop}"
            )
        if self.synthesis > self.n_fft or self.n_fft % self.hop:
            raise ModelError(
                f"the synthesis window can't be longer than n_fft, and hop must divide n_fft;"
                f" got n_fft={self.n_fft}, synthesis={self.synthesis}, hop={self.hop}"
            )
        check_bounds(self, STFT_BOUNDS)

    @property
    def n_bins(self) -> int:
        """Frequency bins of a frame, F."""
        return self.n_fft // 2 + 1

    @property
    def delay(self) -> int:
        """Offset of the output against the input in samples, for whole hops and no lookahead."""
        return self.synthesis - self.hop


@dataclass(frozen=True)
class NetConfig:
    """The network: backbone, training targets and layer widths.

    The word "recurrent" has two uses here: as a value of `backbone` it selects an
    architecture; as the field `recurrent` it is the width of its GRUs.

    Widths are in channels, kernels and dilations in frames, bands in frequency bins.

    Attributes:
        backbone: architecture of stage 1, one of `BACKBONES`. "recurrent": dilated gated
            convolutions followed by GRUs, as in the presets `small`, `base` and `large`.
            "multiscale": the causal form of the published separator, as in `paper`.
            "bands": GRUs over the frames of each band, all of the same weights, in turn
            with GRUs over the whole spectrum, see `net.bands.BandNet`; stage 2 is more
            of the same blocks. `hidden` and `recurrent` are the widths of the two,
            `channels` is that of each band, and `recurrent_layers` is the number of
            stage 1's blocks.
        target: what stage 1's heads estimate for each stem, one of `TARGETS`: a mask on
            the mixture, or the stem's spectrum itself.
        compensation_target: what stage 2 estimates, one of `TARGETS`; its masks apply to
            the residual of stage 1. "none" leaves stage 2 out.
        channels: width of stage 1 between its blocks.
        hidden: width inside a gated block of stage 1.
        kernel: taps of each dilated convolution, in frames.
        dilations: frames between taps, one value per block of stage 1.
        recurrent: hidden units of each GRU in stage 1 (a width, not the backbone's name);
            GPUs have fast kernels for up to 128.
        recurrent_groups: parallel GRUs per recurrent layer; each reads all channels.
        recurrent_layers: recurrent layers after the convolution blocks; 0 for none.
        compensation_channels: width of stage 2 between its blocks, per stem.
        compensation_hidden: width inside a gated block of stage 2.
        compensation_dilations: frames between taps, one value per block of stage 2.
        compensation_uses_trunk: stage 2 also reads the output of stage 1's trunk.
        mask_limit: largest absolute real or imaginary part of a complex mask.
        level_half_life_s: half-life of the running level that normalises the input, in
            seconds; see `net.layers.RunningLevel`. The level has no weights.
        level_by_power: weight frames by their power in the level, so that it holds
            through pauses.
        level_pop_s: sounds that last less than this many seconds in any window of
            `LEVEL_WINDOW_S` (a clap, a knock) don't raise the level; 0 turns this off.
            Needs `level_by_power`.
        lookahead: future frames that stage 1 waits for; each adds a hop to the delay.
        bands: sub-bands inside a block of the multiscale backbone.
        band_bins: width of each band of the backbone "bands", in bins; they add up to
            the bins of a frame.
        band_context: channels of each band that its GRU over the whole spectrum reads
            and writes.
        compensation_layers: blocks of its stage 2.
        subband_bins: width of each sub-band that refines stage 1's head outputs, in bins,
            see `net.subbands.SubBands`; 0 turns sub-bands off. Recurrent backbone only.
        subband_overlap: extra bins that a sub-band reads on either side.
        subband_context: context channels from stage 1 that each sub-band reads.
        subband_channels: width of the sub-band network, and total units of its GRUs.
        subband_groups: parallel GRUs per sub-band; divides `subband_channels`.
        expander_db: a stem whose share of the mixture's power is below this, in dB, is
            lowered, see `net.expander.StemExpander`; 0 turns this off. It has no weights.
        expander_ratio: how far a stem falls below `expander_db`, in dB per dB that its share
            is below: 2 lowers it by as much again.
        dropout: probability of dropping a channel, in training only.

    Raises:
        ModelError: a field is out of range, or two of them don't fit.
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
    band_bins: tuple[int, ...] = (4,) * 16 + (8,) * 8 + (16,) * 7 + (17,)
    band_context: int = 8
    compensation_layers: int = 2
    subband_bins: int = 0
    subband_overlap: int = 4
    subband_context: int = 16
    subband_channels: int = 64
    subband_groups: int = 1
    expander_db: float = 0.0
    expander_ratio: int = 2
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_types(self)
        for name, value, allowed in (
            ("backbone", self.backbone, BACKBONES),
            ("target", self.target, TARGETS),
            ("compensation_target", self.compensation_target, (*TARGETS, "none")),
        ):
            if value not in allowed:
                raise ModelError(f"{name} must be one of {', '.join(allowed)}, not {shown(value)}")
        if not 0 <= self.level_pop_s < LEVEL_WINDOW_S / 2:
            raise ModelError(
                f"level_pop_s must be at least 0 s and less than {LEVEL_WINDOW_S / 2:g} s,"
                f" not {self.level_pop_s:g}"
            )
        if self.level_pop_s and not self.level_by_power:
            raise ModelError(
                f"level_pop_s = {self.level_pop_s:g} needs level_by_power; set level_by_power,"
                " or level_pop_s to 0"
            )
        if self.recurrent_groups < 1:
            raise ModelError(
                f"recurrent_groups must be 1 or more, not {self.recurrent_groups};"
                " for no GRUs, set recurrent_layers to 0"
            )
        if self.subband_groups < 1 or self.subband_channels % self.subband_groups:
            raise ModelError(
                f"subband_groups must divide subband_channels ({self.subband_channels}),"
                f" {self.subband_groups} doesn't; 1 always does"
            )
        if self.subband_bins and self.backbone != "recurrent":
            raise ModelError(
                f"sub-bands need the recurrent backbone, not {self.backbone}; set subband_bins to 0"
            )
        check_bounds(self, NET_BOUNDS)
        if self.backbone == "bands" and not self.recurrent_layers:
            raise ModelError("recurrent_layers must be 1 or more with the backbone bands, not 0")
        if self.recurrent_layers and not self.recurrent:
            raise ModelError(
                "recurrent must be 1 or more with recurrent layers, not 0; for no GRUs, set"
                " recurrent_layers to 0"
            )

    def n_subbands(self, n_bins: int) -> int:
        """Return the number of sub-bands that cover `n_bins` bins; the last may be narrower."""
        return -(-n_bins // self.subband_bins)


@dataclass(frozen=True)
class ModelConfig:
    """Everything needed to build and run a model.

    Attributes:
        name: of the released model or preset, such as "rtmtass-small".
        stems: names of the outputs, in order.
        stft: the STFT around the network.
        net: the network.

    Raises:
        ModelError: a name can't name a file, or two fields don't fit.
    """

    name: str = "rtmtass-small"
    stems: tuple[str, ...] = STEMS
    stft: StftConfig = field(default_factory=StftConfig)
    net: NetConfig = field(default_factory=NetConfig)

    def __post_init__(self) -> None:
        check_types(self)
        if not self.name.isprintable() or not 1 <= len(self.name) <= 200:
            raise ModelError(f"name must be a line of 1 to 200 characters, not {shown(self.name)}")
        # Stems name files.
        if not all(re.fullmatch(_STEM, stem) for stem in self.stems):
            raise ModelError(
                f"stems must be names of up to 32 letters and digits, not {shown(self.stems)}"
            )
        if not 1 <= len({*map(str.casefold, self.stems)}) == len(self.stems) <= _MOST_STEMS:
            raise ModelError(
                f"stems must be 1 to {_MOST_STEMS} different names, not {shown(self.stems)}"
            )
        if self.net.backbone == "bands" and sum(self.net.band_bins) != self.stft.n_bins:
            raise ModelError(
                f"band_bins must add up to {self.stft.n_bins}, the bins of a frame, not"
                f" {sum(self.net.band_bins)}; the preset gated takes any number"
            )
        if self.net.backbone == "multiscale" and self.net.bands > 2 * self.stft.n_bins:
            raise ModelError(
                f"bands must be at most {2 * self.stft.n_bins}, twice the bins, not"
                f" {self.net.bands}"
            )

    @property
    def delay(self) -> int:
        """Offset of the output against the input in samples, when blocks are whole hops."""
        return self.stft.delay + self.net.lookahead * self.stft.hop

    @property
    def algorithmic_latency(self) -> int:
        """Samples from capture to playback with an infinitely fast computer."""
        return self.delay + self.stft.hop

    @property
    def level_decay(self) -> float:
        """Decay factor per frame of the running level's sums."""
        return float(0.5 ** (1 / (self.net.level_half_life_s * self._frames_per_s)))

    @property
    def level_window(self) -> int:
        """Frames in which the running level detects pops; 0 if it doesn't."""
        return round(LEVEL_WINDOW_S * self._frames_per_s) if self.net.level_pop_s else 0

    @property
    def level_rank(self) -> int:
        """Frames of the window that must be as loud for a sound to raise the level."""
        return max(1, round(self.net.level_pop_s * self._frames_per_s))

    @property
    def level_fall(self) -> float:
        """Decay factor per frame of a pop's power."""
        return float(10 ** (-LEVEL_FALL_DB_PER_S / 10 / self._frames_per_s))

    @property
    def expander_decays(self) -> tuple[float, float]:
        """Decay factors per frame of the expander's short and long sums of powers."""
        short, long = (math.exp(-1 / (s * self._frames_per_s)) for s in EXPANDER_S)
        return short, long

    @property
    def expander_threshold(self) -> float:
        """Share of the mixture's power below which the expander lowers a stem, 0..1."""
        return float(10 ** (self.net.expander_db / 10))

    @property
    def _frames_per_s(self) -> float:
        return self.stft.sample_rate / self.stft.hop

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """Build from the values of `to_dict`.

        Raises:
            ModelError: a key is unknown, or a value is out of range.
        """
        if not isinstance(values, dict):
            raise ModelError(f"a model's config must be a table, not {shown(values)}")
        parts = dict(values)
        parts["stft"] = _build(StftConfig, parts.get("stft", {}))
        parts["net"] = _build(NetConfig, parts.get("net", {}))
        return _build(cls, parts)


def _build(kind: type[T], values: Any) -> T:
    if not isinstance(values, dict):
        raise ModelError(f"a model's config must hold tables, not {shown(values)}")
    known = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(str(name) for name in set(values) - known)
    if unknown:
        more = f" and {len(unknown) - 8} more" if len(unknown) > 8 else ""
        raise ModelError(
            f"unknown keys in the model's config: {', '.join(map(_key, unknown[:8]))}{more};"
            " the model was made by a newer rtmtass: pip install --upgrade rtmtass"
        )
    frozen = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return kind(**frozen)


def _key(name: str) -> str:
    return name if name.isidentifier() and len(name) <= 60 else shown(name)
