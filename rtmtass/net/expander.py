"""Lowers what leaks into a stem while its share of the mixture is small; has no weights."""

from __future__ import annotations

import torch
from torch import Tensor

from rtmtass.net.constants import EXPANDER_TINY
from rtmtass.net.layers import exponential_sums
from rtmtass.net.streaming import StreamingModule


class StemExpander(StreamingModule[Tensor]):
    """A downward expander on every stem, driven by the stem's share of the mixture's power.

    The share is measured over a short and a long exponential average, and the larger one
    counts: an onset passes at once, and a pause doesn't close the expander at once. Below
    the threshold a stem falls by `ratio` dB per dB: gain = sqrt(share / threshold)^(ratio - 1).
    What is taken from a stem is given to all, by the power that they have left, so that
    they still sum to the mixture. Where every share is above the threshold, nothing changes.

    Shape: stems (B, T, S, 2, F), summing over S to the mixture (B, T, 2, F), -> the same.

    State: (B, 2, S + 1), decaying sums of the stems' powers and of the mixture's; short, long.

    Args:
        n_stems: S.
        decays: factors of the sums from one frame to the next, short and long.
        threshold: share of the mixture's power, 0..1.
        ratio: of expansion, 2 or more.

    Source: the gain law is an audio expander's, Giannoulis, Massberg, Reiss, J. Audio Eng.
    Soc. 60(6), 2012; that the mixture is its side chain, and where its residual goes, are ours.
    """

    def __init__(
        self, n_stems: int, decays: tuple[float, float], threshold: float, ratio: int = 2
    ) -> None:
        super().__init__()
        self.n_stems, self.decays, self.threshold, self.ratio = n_stems, decays, threshold, ratio

    def init_state(self, batch: int) -> Tensor:
        """Return the sums of silence."""
        return torch.zeros(batch, 2, self.n_stems + 1)

    def step_with(self, stems: Tensor, mixture: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Process T frames of stems that sum to the mixture."""
        powers = [(part * part).sum(dim=(-2, -1)) for part in (stems, mixture[:, :, None])]
        both = torch.cat(powers, dim=-1)
        shares, news, sums = [], [], both
        for i in (1, 0):  # the short average last: its sums divide the residual
            sums, new = exponential_sums(both, state[:, i].to(both), self.decays[i])
            sums = sums.clamp(min=EXPANDER_TINY)
            shares.append(sums[..., :-1] / sums[..., -1:])
            news.append(new.clamp(min=EXPANDER_TINY))
        share = torch.maximum(*shares)
        gain = torch.sqrt(share / self.threshold).clamp(max=1) ** (self.ratio - 1)
        left = gain * gain * sums[..., :-1]
        weight = left / left.sum(dim=-1, keepdim=True)
        removed = ((1 - gain)[..., None, None] * stems).sum(dim=2, keepdim=True)
        out = gain[..., None, None] * stems + weight[..., None, None] * removed
        return out, torch.stack(news[::-1], dim=1)
