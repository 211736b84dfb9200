"""Corrects stage 1's head outputs in sub-bands that share their weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rtmtass.config import NetConfig
from rtmtass.net.layers import Affine, RecurrentBlock
from rtmtass.net.streaming import StreamingModule


class SubBands(StreamingModule[Tensor]):
    """Corrects stage 1's head outputs in narrow bands, all by the same small network.

    A band reads its own bins of the mixture and some on either side, stage 1's outputs for
    them, and a few context channels from the trunk, which tell the bands apart and carry
    the rest of the spectrum. So the look of a partial or of hiss is learnt once, not for
    every bin. Each band has a GRU over time. Corrections are zero before training.

    Shape: compressed mixture, 3 of (B, T, F); hidden (B, T, channels); head outputs
    (B, T, A * F) -> corrected (B, T, A * F), where A planes are each the real part,
    imaginary part or magnitude of a stem.

    State: (B, K * subband_channels), K bands.

    Source: full-band context for shared sub-bands after Hao et al., "FullSubNet",
    ICASSP 2021 (arXiv 2010.15508).
    """

    def __init__(self, config: NetConfig, n_bins: int, planes: int) -> None:
        super().__init__()
        self.n_bins, self.planes = n_bins, planes
        self.bins, self.overlap = config.subband_bins, config.subband_overlap
        self.context, self.width = config.subband_context, config.subband_channels
        self.bands = config.n_subbands(n_bins)
        c_in = 3 * (self.bins + 2 * self.overlap) + planes * self.bins + self.context
        self.context_proj = Affine(config.channels, self.bands * self.context, "none")
        self.in_proj = Affine(c_in, self.width)
        self.memory = RecurrentBlock(
            self.width, self.width // config.subband_groups, config.subband_groups
        )
        self.out_proj = Affine(self.width, planes * self.bins, "none")
        nn.init.zeros_(self.out_proj.linear.weight)
        nn.init.zeros_(self.out_proj.linear.bias)

    def init_state(self, batch: int) -> Tensor:
        """Return zeros for every band."""
        return self.out_proj.linear.weight.new_zeros(batch, self.bands * self.width)

    def cut(self, x: Tensor, overlap: int = 0) -> Tensor:
        """Cut bins into bands, zero-padded: (..., F) -> (..., K, bins + 2 * overlap)."""
        missing = self.bands * self.bins - self.n_bins
        padded = nn.functional.pad(x, (overlap, overlap + missing))
        return padded.unfold(-1, self.bins + 2 * overlap, self.bins)

    def correct(
        self,
        spectrum: tuple[Tensor, Tensor, Tensor],
        hidden: Tensor,
        heads: Tensor,
        state: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Process T frames; return the corrected head outputs and the new state."""
        batch = len(hidden)
        pieces = [self.cut(part, self.overlap) for part in spectrum]
        dtype = pieces[0].dtype
        split = heads.reshape(*heads.shape[:2], self.planes, self.n_bins)
        pieces.append(self.cut(split.to(dtype)).transpose(2, 3).flatten(3))
        pieces.append(self.context_proj(hidden).unflatten(-1, (self.bands, self.context)).to(dtype))
        rows = self.in_proj(torch.cat(pieces, dim=-1).transpose(1, 2)).flatten(0, 1)
        rows, new = self.memory.step(rows, state.reshape(len(rows), self.width))
        correction = self.out_proj(rows).unflatten(0, (batch, self.bands)).transpose(1, 2)
        correction = correction.unflatten(-1, (self.planes, self.bins)).transpose(2, 3)
        corrected = split + correction.flatten(3)[..., : self.n_bins].to(heads.dtype)
        return corrected.flatten(2), new.reshape(batch, -1)
