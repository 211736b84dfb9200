"""The two-stage separator: complex ratio masks, then compensation from the residual."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rtmtass.config import ModelConfig, NetConfig
from rtmtass.net.layers import (
    Affine,
    GatedBlock,
    MultiScaleBlock,
    RecurrentBlock,
    compress,
)
from rtmtass.net.separation import NetState, SeparationNet, Stages
from rtmtass.net.streaming import Chain, StreamingModule
from rtmtass.net.subbands import SubBands


class Trunk(StreamingModule[tuple[Any, ...]]):
    """Stage 1 up to its heads.

    Shape: features (B, T, 3F) or, for the published backbone, the magnitude
    (B, T, F) -> (B, T, channels).
    """

    def __init__(self, config: NetConfig, n_bins: int) -> None:
        super().__init__()
        self.multiscale = config.backbone == "multiscale"
        activation = "relu" if self.multiscale else "prelu"
        self.in_proj = Affine(
            n_bins if self.multiscale else 3 * n_bins, config.channels, activation
        )
        self.blocks = nn.ModuleList()
        for dilation in config.dilations:
            if self.multiscale:
                block: StreamingModule[Any] = MultiScaleBlock(
                    config.channels, n_bins, config.bands, config.kernel, dilation, config.dropout
                )
            else:
                block = GatedBlock(
                    config.channels, config.hidden, config.kernel, dilation, "prelu", config.dropout
                )
            self.blocks.append(block)
        for _ in range(config.recurrent_layers):
            self.blocks.append(
                RecurrentBlock(config.channels, config.recurrent, config.recurrent_groups)
            )
        self.out_proj = Affine(config.channels, config.channels, activation)

    def init_state(self, batch: int) -> tuple[Any, ...]:
        """Return the states of all blocks."""
        return tuple(block.init_state(batch) for block in self.blocks)  # type: ignore[operator]

    def step(self, x: Tensor, state: tuple[Any, ...]) -> tuple[Tensor, tuple[Any, ...]]:
        """Process T frames."""
        y = self.in_proj(x)
        new_states: list[Any] = []
        for block, old in zip(self.blocks, state, strict=True):
            if isinstance(block, MultiScaleBlock):
                y, new = block.step_with(y, x, old)
            else:
                y, new = block.step(y, old)  # type: ignore[operator]
            new_states.append(new)
        return self.out_proj(y), tuple(new_states)


class Compensation(StreamingModule[tuple[Any, ...]]):
    """Stage 2 for one stem: estimates the stem's part of the residual of stage 1.

    Shape: (B, T, C_in) -> (B, T, 2F).

    Source: section 3.3 of arXiv 2107.06467.
    """

    def __init__(self, config: NetConfig, n_bins: int) -> None:
        super().__init__()
        published = config.backbone == "multiscale"
        activation = "relu" if published else "prelu"
        c_in = (2 if published else 3) * n_bins
        if config.compensation_uses_trunk:
            c_in += config.channels
        width = config.compensation_channels
        self.in_proj = Affine(c_in, width, activation, config.dropout)
        self.blocks = Chain(
            [
                GatedBlock(
                    width,
                    config.compensation_hidden,
                    config.kernel,
                    dilation,
                    activation,
                    config.dropout,
                )
                for dilation in config.compensation_dilations
            ]
        )
        outputs = 1 if config.compensation_target == "magnitude_mask" else 2
        self.out_proj = Affine(width, outputs * n_bins, "none")

    def init_state(self, batch: int) -> tuple[Any, ...]:
        """Return the states of the blocks."""
        return self.blocks.init_state(batch)

    def step(self, x: Tensor, state: tuple[Any, ...]) -> tuple[Tensor, tuple[Any, ...]]:
        """Process T frames."""
        y, state = self.blocks.step(self.in_proj(x), state)
        return self.out_proj(y), state


class MtassNet(SeparationNet):
    """Stage 1 over the whole spectrum, with sub-bands; stage 2 for each stem.

    Shape: as `SeparationNet`.

    Source: Zhang, Li, Deng, Wang, "Multi-Task Audio Source Separation", ASRU
    2021 (arXiv 2107.06467), made causal; differences are in DECISIONS.md.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        net, n_bins = config.net, config.stft.n_bins
        self.trunk = Trunk(net, n_bins)
        outputs = 1 if net.target == "magnitude_mask" else 2
        self.heads = nn.ModuleList(
            Affine(net.channels, outputs * n_bins, "none") for _ in config.stems
        )
        self.subbands = None
        if net.subband_bins:
            self.subbands = SubBands(net, n_bins, outputs * self.n_stems)
        self.compensations = nn.ModuleList(
            Compensation(net, n_bins) for _ in config.stems if net.compensation_target != "none"
        )

    def init_state(self, batch: int) -> NetState:
        """Return the state of `batch` streams before their first frame."""
        return self.blank_state(
            batch,
            self.trunk.init_state(batch),
            (self.subbands.init_state(batch),) if self.subbands else (),
            tuple(part.init_state(batch) for part in self.compensations),  # type: ignore[operator]
        )

    def stages(self, x: Tensor, state: NetState) -> tuple[Stages, NetState]:
        """Process T frames and return both stages' stems, for training."""
        net = self.config.net
        level, level_state = self.level_of(x, state)
        compressed = compress(x[:, :, 0], x[:, :, 1], level)
        features = compressed[2] if net.backbone == "multiscale" else torch.cat(compressed, dim=-1)
        hidden, trunk_state = self.trunk.step(features, state.trunk)

        outputs = [head(hidden) for head in self.heads]
        subband_state: tuple[Tensor, ...] = ()
        if self.subbands is not None:
            stacked = torch.cat(outputs, dim=-1)
            stacked, new = self.subbands.correct(compressed, hidden, stacked, *state.subbands)
            subband_state = (new,)
            outputs = list(stacked.chunk(self.n_stems, dim=-1))

        mixture, past = self.aligned(x, state)
        first, final, compensation_state = [], [], []
        for stem, output in enumerate(outputs):
            estimate = self.estimate(output, mixture, level, net.target)
            first.append(estimate)
            if self.compensations:
                part = self.compensations[stem]
                residual = mixture - estimate
                spectrum = compress(residual[:, :, 0], residual[:, :, 1], level)
                pieces = list(spectrum[:2] if net.backbone == "multiscale" else spectrum)
                if net.compensation_uses_trunk:
                    pieces.append(hidden.to(spectrum[0].dtype))
                output, new = part.step(  # type: ignore[operator]
                    torch.cat(pieces, dim=-1), state.compensation[stem]
                )
                compensation_state.append(new)
                estimate = estimate + self.estimate(
                    output, residual, level, net.compensation_target
                )
            final.append(estimate)
        stems, expander_state = self.finished(final, mixture, state)
        return Stages(torch.stack(first, dim=2), stems), NetState(
            level_state, past, trunk_state, subband_state, tuple(compensation_state), expander_state
        )
