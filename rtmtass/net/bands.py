"""A separator in bands: what happens within each, and between all, in turn."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rtmtass.config import ModelConfig, NetConfig
from rtmtass.net import masks
from rtmtass.net.band_blocks import BlockParameters, run_block
from rtmtass.net.band_projections import decode, encode
from rtmtass.net.constants import RMS_EPSILON
from rtmtass.net.cpu_kernels import trains_on_cpu
from rtmtass.net.gru import run_grus
from rtmtass.net.layers import Affine, compress
from rtmtass.net.separation import NetState, SeparationNet, Stages, mixture_consistency
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

    Shape: (B, T, P, F) -> (B, T, K, C), P planes, K bands.
    """

    def __init__(self, widths: tuple[int, ...], planes: int, channels: int) -> None:
        super().__init__()
        self.widths = widths
        self.projs = nn.ModuleList(Affine(planes * width, channels, "none") for width in widths)

    def forward(self, planes: Tensor) -> Tensor:
        """Apply to every frame."""
        if trains_on_cpu(planes):
            return encode(planes, [proj.linear for proj in self.projs], self.widths)  # type: ignore[no-any-return]
        widths: Any = self.widths
        pieces = zip(self.projs, torch.split(planes, widths, -1), strict=True)
        rows = [proj(piece.flatten(2)) for proj, piece in pieces]
        return torch.stack(rows, dim=2).to(planes.dtype)  # what blocks add to stays precise


class BandDecoder(nn.Module):
    """Projects each band's channels to its bins of some planes, by weights of its own.

    Shape: (B, T, K, C) -> (B, T, P, F).
    """

    def __init__(self, widths: tuple[int, ...], planes: int, channels: int) -> None:
        super().__init__()
        self.widths, self.planes = widths, planes
        self.norm = RmsNorm(channels)
        self.projs = nn.ModuleList(Affine(channels, planes * width, "none") for width in widths)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to every frame."""
        if trains_on_cpu(x):
            linears = [proj.linear for proj in self.projs]
            return decode(x, self.norm.weight, linears, self.widths)  # type: ignore[no-any-return]
        rows = self.norm(x)
        pairs = zip(self.projs, rows.unbind(2), strict=True)
        outputs = [proj(row).unflatten(-1, (self.planes, -1)) for proj, row in pairs]
        return torch.cat(outputs, dim=-1)


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
        if trains_on_cpu(x) and state[0].dtype == x.dtype:
            rows = state[0].reshape(batch * bands, -1)
            out, band_state, wide_state = run_block(x, rows, state[1], self._parameters_of_layers())
            return out, (band_state.reshape(batch, -1), wide_state)
        rows = self.band_norm(x).transpose(0, 1).flatten(1, 2).transpose(0, 1)  # time first
        rows, band_state = run_grus(rows, state[0].reshape(batch * bands, -1), self.band_gru)
        y = self.band_expand(rows.transpose(0, 1)).view(frames, batch, bands, -1)
        x = x + y.transpose(0, 1).to(x.dtype)
        whole = self.in_proj(self.reduce(self.norm(x)).flatten(2))
        whole, wide_state = run_grus(whole, state[1], self.gru)
        y = self.expand(self.out_proj(whole).unflatten(-1, (bands, self.context)))
        return x + y.to(x.dtype), (band_state.reshape(batch, -1), wide_state)

    def _parameters_of_layers(self) -> BlockParameters:
        band_gru, gru = (tuple(layer.parameters()) for layer in (self.band_gru, self.gru))
        band_expand, reduce, in_proj, out_proj, expand = (
            (layer.linear.weight, layer.linear.bias)
            for layer in (self.band_expand, self.reduce, self.in_proj, self.out_proj, self.expand)
        )
        assert self.in_proj.slope is not None
        return BlockParameters._make((
            self.band_norm.weight, *band_gru, *band_expand, self.norm.weight, *reduce, *in_proj,
            self.in_proj.slope, *gru, *out_proj, *expand,
        ))  # fmt: skip


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
        spectrum = torch.stack(compress(x[:, :, 0], x[:, :, 1], level), dim=2)
        hidden, trunk_state = self.trunk.step(self.encoder(spectrum), state.trunk)
        heads = self.heads(hidden).unflatten(2, (self.n_stems, -1))
        mixture, past = self.aligned(x, state)
        if self._has_fast_masks(heads):
            first, residuals = masks.first_stage(heads, mixture, level, net.mask_limit)
        else:
            first, residuals = self._first_stage(heads, mixture, level)
        compensation_state = state.compensation
        if self.compensates:
            rest = self.residual_encoder(residuals.flatten(2, -2))
            hidden = hidden + rest if net.compensation_uses_trunk else rest
            hidden, compensation_state = self.compensation.step(hidden, state.compensation)
            heads = self.compensation_heads(hidden).unflatten(2, (self.n_stems, -1))
            if self._has_fast_masks(heads):
                final = masks.second_stage(heads, first, mixture, net.mask_limit)
            else:
                final = self._second_stage(heads, first, mixture, level)
        else:
            final = mixture_consistency(first, mixture)
        stems, expander_state = self.expanded(final, mixture, state)
        return Stages(first, stems), NetState(
            level_state, past, trunk_state, (), compensation_state, expander_state
        )

    def _has_fast_masks(self, heads: Tensor) -> bool:
        kinds = (self.config.net.target, self.config.net.compensation_target)
        return trains_on_cpu(heads) and set(kinds) == {"complex_ratio_mask"}

    def _first_stage(self, heads: Tensor, mixture: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Return the estimates of heads (B, T, S, 1 or 2, F), and the compressed residuals."""
        target = self.config.net.target
        outputs = [head.flatten(2) for head in heads.unbind(2)]
        first = [self.estimate(output, mixture, level, target) for output in outputs]
        residuals = [mixture - estimate for estimate in first]
        planes = [p for r in residuals for p in compress(r[:, :, 0], r[:, :, 1], level)]
        return torch.stack(first, dim=2), torch.stack(planes, dim=2)

    def _second_stage(self, heads: Tensor, first: Tensor, mixture: Tensor, level: Tensor) -> Tensor:
        """Return the stems that heads (B, T, S, 1 or 2, F) correct the estimates to."""
        target = self.config.net.compensation_target
        pairs = zip(heads.unbind(2), first.unbind(2), strict=True)
        stems = [
            estimate + self.estimate(head.flatten(2), mixture - estimate, level, target)
            for head, estimate in pairs
        ]
        return mixture_consistency(torch.stack(stems, dim=2), mixture)
