"""Sub-bands that share their weights: what stage 1 answers, corrected band by band."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rtmtass.config import NetConfig
from rtmtass.net.layers import Affine, RecurrentBlock
from rtmtass.net.streaming import StreamingModule


class SubBands(StreamingModule[Tensor]):
    """Corrects stage 1's answers in narrow bands, all of them by the same small network.

    A band hears its own bins of the mixture and some beside them, what stage 1
    answered for them, and a few channels that the trunk tells it: which band it
    is and what goes on elsewhere. What a partial or a hiss looks like is thus
    learnt once, not for every bin. Each band remembers by a GRU over time.
    Corrections are zero at first.

    Shape: the mixture as the net hears it, 3 of (B, T, F); hidden (B, T, channels);
    answers (B, T, A * F) -> answers (B, T, A * F).

    Memory: (B, K * subband_channels), K bands.

    Source: full-band context for shared sub-bands after Hao et al., "FullSubNet",
    ICASSP 2021 (arXiv 2010.15508).
    """

    def __init__(self, config: NetConfig, n_bins: int, answers: int) -> None:
        super().__init__()
        self.n_bins, self.answers = n_bins, answers
        self.bins, self.overlap = config.subband_bins, config.subband_overlap
        self.context, self.width = config.subband_context, config.subband_channels
        self.bands = config.n_subbands(n_bins)
        c_in = 3 * (self.bins + 2 * self.overlap) + answers * self.bins + self.context
        self.context_proj = Affine(config.channels, self.bands * self.context, "none")
        self.in_proj = Affine(c_in, self.width)
        self.memory = RecurrentBlock(
            self.width, self.width // config.subband_groups, config.subband_groups
        )
        self.out_proj = Affine(self.width, answers * self.bins, "none")
        nn.init.zeros_(self.out_proj.linear.weight)
        nn.init.zeros_(self.out_proj.linear.bias)

    def init_state(self, batch: int) -> Tensor:
        """Return silence for every band."""
        return self.out_proj.linear.weight.new_zeros(batch, self.bands * self.width)

    def cut(self, x: Tensor, overlap: int = 0) -> Tensor:
        """Cut bins into bands, silence beyond: (..., F) -> (..., K, bins + 2 * overlap)."""
        missing = self.bands * self.bins - self.n_bins
        padded = nn.functional.pad(x, (overlap, overlap + missing))
        return padded.unfold(-1, self.bins + 2 * overlap, self.bins)

    def correct(
        self, heard: tuple[Tensor, Tensor, Tensor], hidden: Tensor, answers: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Advance by T frames and return corrected answers."""
        batch = len(hidden)
        pieces = [self.cut(part, self.overlap) for part in heard]
        kind = pieces[0].dtype
        apart = answers.reshape(*answers.shape[:2], self.answers, self.n_bins)
        pieces.append(self.cut(apart.to(kind)).transpose(2, 3).flatten(3))
        pieces.append(self.context_proj(hidden).unflatten(-1, (self.bands, self.context)).to(kind))
        rows = self.in_proj(torch.cat(pieces, dim=-1).transpose(1, 2)).flatten(0, 1)
        rows, now = self.memory.step(rows, state.reshape(len(rows), self.width))
        change = self.out_proj(rows).unflatten(0, (batch, self.bands)).transpose(1, 2)
        change = change.unflatten(-1, (self.answers, self.bins)).transpose(2, 3)
        corrected = apart + change.flatten(3)[..., : self.n_bins].to(answers.dtype)
        return corrected.flatten(2), now.reshape(batch, -1)
