"""What all separators share: level, masks, mixture consistency, expander, and their state."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from rtmtass.config import ModelConfig
from rtmtass.net.constants import CONSISTENCY_FLOOR, CONSISTENCY_TINY
from rtmtass.net.expander import StemExpander
from rtmtass.net.layers import RunningLevel, expand
from rtmtass.net.streaming import StreamingModule


class NetState(NamedTuple):
    """The state of a stream; see `init_state` of each part."""

    level: Tensor
    past: Tensor
    """(B, lookahead, 2, F): mixture frames that await their masks."""
    trunk: tuple[Any, ...]
    subbands: tuple[Tensor, ...]
    """Empty without sub-bands."""
    compensation: tuple[tuple[Any, ...], ...]
    expander: tuple[Tensor, ...]
    """Empty without an expander."""


class Stages(NamedTuple):
    """Both estimates of the stems' spectra, each (B, T, S, 2, F)."""

    first: Tensor
    final: Tensor


class SeparationNet(StreamingModule[NetState]):
    """Mixture spectrum in, stem spectra out, frame by frame, summing to the mixture.

    Shape: (B, T, 2, F), real and imaginary part, -> (B, T, S, 2, F). With
    `lookahead` L the stems of frame t are returned with frame t + L.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.n_stems = len(config.stems)
        self.level = RunningLevel(
            config.level_decay,
            config.net.level_by_power,
            config.level_window,
            config.level_rank,
            config.level_fall,
        )
        self.expander = None
        if config.net.expander_db:
            self.expander = StemExpander(
                self.n_stems,
                config.expander_decays,
                config.expander_threshold,
                config.net.expander_ratio,
            )

    def stages(self, x: Tensor, state: NetState) -> tuple[Stages, NetState]:
        """Process T frames and return both stages' stems, for training."""
        raise NotImplementedError

    def step(self, x: Tensor, state: NetState) -> tuple[Tensor, NetState]:
        """Process T frames: (B, T, 2, F) -> (B, T, S, 2, F)."""
        stages, state = self.stages(x, state)
        return stages.final, state

    def blank_state(
        self,
        batch: int,
        trunk: tuple[Any, ...],
        subbands: tuple[Tensor, ...],
        compensation: tuple[Any, ...],
    ) -> NetState:
        """Return the state of `batch` streams before their first frame, given that of the parts."""
        blank = next(self.parameters()).new_zeros(
            batch, self.config.net.lookahead, 2, self.config.stft.n_bins
        )
        return NetState(
            self.level.init_state(batch).to(blank),
            blank,
            trunk,
            subbands,
            compensation,
            (self.expander.init_state(batch).to(blank),) if self.expander else (),
        )

    def level_of(self, x: Tensor, state: NetState) -> tuple[Tensor, Tensor]:
        """Return the running level (B, T, 1) of T frames, and its state."""
        power = (x * x).sum(dim=2).mean(dim=-1, keepdim=True)
        return self.level.step(power, state.level)

    def aligned(self, x: Tensor, state: NetState) -> tuple[Tensor, Tensor]:
        """Return the mixture's frames that await their masks, (B, T, 2, F), and those after."""
        waiting = torch.cat([state.past, x], dim=1)
        return waiting[:, : x.shape[1]], waiting[:, x.shape[1] :]

    def estimate(self, output: Tensor, source: Tensor, level: Tensor, target: str) -> Tensor:
        """Turn a head's output into a spectrum (B, T, 2, F): a mask on `source`, or a spectrum."""
        output = output.to(source.dtype)
        re, im = source[:, :, 0], source[:, :, 1]
        limit = self.config.net.mask_limit
        if target == "magnitude_mask":
            return source * torch.sigmoid(output)[:, :, None]
        a, b = output.chunk(2, dim=-1)
        if target == "spectral_mapping":
            return torch.stack(expand(a, b, level), dim=2)
        a, b = limit * torch.tanh(a / limit), limit * torch.tanh(b / limit)
        return torch.stack([a * re - b * im, a * im + b * re], dim=2)

    def finished(
        self, stems: list[Tensor], mixture: Tensor, state: NetState
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Make the stems sum to the mixture, lower what leaks, and return the expander's state."""
        summing = mixture_consistency(torch.stack(stems, dim=2), mixture)
        return self.expanded(summing, mixture, state)

    def expanded(
        self, stems: Tensor, mixture: Tensor, state: NetState
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Lower what leaks in stems (B, T, S, 2, F), and return the expander's state."""
        if self.expander is None:
            return stems, ()
        expanded, new = self.expander.step_with(stems, mixture, *state.expander)
        return expanded, (new,)


def mixture_consistency(stems: Tensor, mixture: Tensor) -> Tensor:
    """Make the stems sum to the mixture: the residual is distributed by power.

    Args:
        stems: (B, T, S, 2, F).
        mixture: (B, T, 2, F).

    Returns:
        (B, T, S, 2, F), summing over S to `mixture`.

    Source: mixture consistency, Wisdom et al., arXiv 1811.08521, with the power weights of
    its section 3.
    """
    floor = CONSISTENCY_FLOOR * (mixture * mixture).sum(dim=2)[:, :, None] + CONSISTENCY_TINY
    power = (stems * stems).sum(dim=3) + floor
    fractions = power / power.sum(dim=2, keepdim=True)
    residual = mixture - stems.sum(dim=2)
    return stems + fractions[:, :, :, None] * residual[:, :, None]
