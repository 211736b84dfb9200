"""A separator in bands: what happens within each, and between all, in turn."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rtmtass.config import ModelConfig, NetConfig
from rtmtass.net.constants import RMS_EPSILON
from rtmtass.net.gru import run_grus
from rtmtass.net.layers import Affine, compress
from rtmtass.net.separation import NetState, SeparationNet, Stages
from rtmtass.net.streaming import Chain, StreamingModule

BlockState = tuple[Tensor, Tensor]


class RmsNorm(nn.Module):
    """Divides by the root mean square over the channels, and scales each.

    Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", NeurIPS 2019
    (arXiv 1910.07467).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis."""
        mean = (x * x).mean(-1, keepdim=True)
        return x * torch.rsqrt(mean + RMS_EPSILON) * self.weight


class BandEncoder(nn.Module):
    """Projects each band's bins of some planes to its channels, by weights of its own.

    Shape: planes, each (B, T, F) -> (B, T, K, C), K bands.
    """

    def __init__(self, widths: tuple[int, ...], planes: int, channels: int) -> None:
        super().__init__()
        self.widths = widths
        self.projs = nn.ModuleList(Affine(planes * width, channels, "none") for width in widths)

    def forward(self, planes: list[Tensor]) -> Tensor:
        """Apply to every frame."""
        widths: Any = self.widths
        pieces = zip(*(torch.split(plane, widths, -1) for plane in planes), strict=True)
        rows = [proj(torch.cat(piece, -1)) for proj, piece in zip(self.projs, pieces, strict=True)]
        return torch.stack(rows, dim=2).to(planes[0].dtype)  # what blocks add to stays precise


class BandDecoder(nn.Module):
    """Projects each band's channels to its bins of some planes, by weights of its own.

    Shape: (B, T, K, C) -> (B, T, planes * F).
    """

    def __init__(self, widths: tuple[int, ...], planes: int, channels: int) -> None:
        super().__init__()
        self.planes = planes
        self.norm = RmsNorm(channels)
        self.projs = nn.ModuleList(Affine(channels, planes * width, "none") for width in widths)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to every frame."""
        rows = zip(self.projs, self.norm(x).unbind(2), strict=True)
        outputs = [proj(row).unflatten(-1, (self.planes, -1)) for proj, row in rows]
        return torch.cat(outputs, dim=-1).flatten(2)


class BandBlock(StreamingModule[BlockState]):
    """A residual GRU over each band's frames, then one over the whole spectrum's.

    The bands share the first one's weights, and each has a state of its own. The second
    reads and writes a few channels of every band.

    Shape: (B, T, K, C) -> (B, T, K, C).

    State: (B, K * hidden) and (B, recurrent).

    Source: in turn within and between bands after Luo and Yu, "Music Source Separation with
    Band-Split RNN" (arXiv 2209.15174); a causal path over the whole spectrum, as the bands'
    own can't run both ways.
    """

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        channels, wide = config.channels, config.recurrent
        self.bands, self.context = len(config.band_bins), config.band_context
        self.hidden, self.wide = config.hidden, wide
        self.band_norm = RmsNorm(channels)
        self.band_gru = nn.GRU(channels, config.hidden, batch_first=True)
        self.band_expand = Affine(config.hidden, channels, "none")
        self.norm = RmsNorm(channels)
        self.reduce = Affine(channels, self.context, "none")
        self.in_proj = Affine(self.bands * self.context, wide, "prelu", has_norm=False)
        self.gru = nn.GRU(wide, wide, batch_first=True)
        self.out_proj = Affine(wide, self.bands * self.context, "none")
        self.expand = Affine(self.context, channels, "none")

    def init_state(self, batch: int) -> BlockState:
        """Return states of zeros."""
        blank = self.norm.weight
        return blank.new_zeros(batch, self.bands * self.hidden), blank.new_zeros(batch, self.wide)

    def step(self, x: Tensor, state: BlockState) -> tuple[Tensor, BlockState]:
        """Process T frames."""
        batch, frames, bands, _ = x.shape
        rows = self.band_norm(x).transpose(0, 1).flatten(1, 2).transpose(0, 1)  # time first
        rows, band_state = run_grus(rows, state[0].reshape(batch * bands, -1), self.band_gru)
        y = self.band_expand(rows.transpose(0, 1)).view(frames, batch, bands, -1)
        x = x + y.transpose(0, 1).to(x.dtype)
        whole = self.in_proj(self.reduce(self.norm(x)).flatten(2))
        whole, wide_state = run_grus(whole, state[1], self.gru)
        y = self.expand(self.out_proj(whole).unflatten(-1, (bands, self.context)))
        return x + y.to(x.dtype), (band_state.reshape(batch, -1), wide_state)


class BandNet(SeparationNet):
    """Masks from the first blocks; the others also read the residuals, and compensate.

    Where stage 2 of `MtassNet` is a network for each stem, here all stems share it.

    Shape: as `SeparationNet`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        net = config.net
        planes = self.n_stems * (1 if net.target == "magnitude_mask" else 2)
        self.encoder = BandEncoder(net.band_bins, 3, net.channels)
        self.trunk = Chain([BandBlock(net) for _ in range(net.recurrent_layers)])
        self.heads = BandDecoder(net.band_bins, planes, net.channels)
        self.compensates = net.compensation_target != "none"
        if self.compensates:
            outputs = 1 if net.compensation_target == "magnitude_mask" else 2
            planes = self.n_stems * outputs
            self.residual_encoder = BandEncoder(net.band_bins, 3 * self.n_stems, net.channels)
            self.compensation = Chain([BandBlock(net) for _ in range(net.compensation_layers)])
            self.compensation_heads = BandDecoder(net.band_bins, planes, net.channels)

    def init_state(self, batch: int) -> NetState:
        """Return the state of `batch` streams before their first frame."""
        trunk = self.trunk.init_state(batch)
        compensation = self.compensation.init_state(batch) if self.compensates else ()
        return self.blank_state(batch, trunk, (), compensation)

    def stages(self, x: Tensor, state: NetState) -> tuple[Stages, NetState]:
        """Process T frames and return both stages' stems, for training."""
        net = self.config.net
        level, level_state = self.level_of(x, state)
        hidden = self.encoder(list(compress(x[:, :, 0], x[:, :, 1], level)))
        hidden, trunk_state = self.trunk.step(hidden, state.trunk)
        outputs = self.heads(hidden).chunk(self.n_stems, dim=-1)
        mixture, past = self.aligned(x, state)
        first = [self.estimate(output, mixture, level, net.target) for output in outputs]
        final, compensation_state = first, state.compensation
        if self.compensates:
            residuals = [mixture - estimate for estimate in first]
            planes = [p for r in residuals for p in compress(r[:, :, 0], r[:, :, 1], level)]
            rest = self.residual_encoder(planes)
            hidden = hidden + rest if net.compensation_uses_trunk else rest
            hidden, compensation_state = self.compensation.step(hidden, state.compensation)
            outputs = self.compensation_heads(hidden).chunk(self.n_stems, dim=-1)
            final = [
                estimate + self.estimate(output, residual, level, net.compensation_target)
                for estimate, output, residual in zip(first, outputs, residuals, strict=True)
            ]
        stems, expander_state = self.finished(final, mixture, state)
        return Stages(torch.stack(first, dim=2), stems), NetState(
            level_state, past, trunk_state, (), compensation_state, expander_state
        )
