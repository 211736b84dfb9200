"""Lowers what all networks share, and GRUs: level, spectra in, masks, the stems' sum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rtmtass.config import TARGETS, ModelConfig
from rtmtass.jit.simd import in_vectors
from rtmtass.runtime.compiled.builder import Builder
from rtmtass.runtime.compiled.program import (
    Compress,
    Estimate,
    Expander,
    Gru,
    Level,
    MixtureConsistency,
    Register,
)
from rtmtass.runtime.folding import Gru as GruWeights
from rtmtass.runtime.folding import input_layer


def running_level(make: Builder, config: ModelConfig, mixture: Register, imag_offset: int) -> int:
    """Lower `net.layers.RunningLevel`; return the address of the levels."""
    net, window = config.net, config.level_window
    level = make.register(1, 1).at
    make.emit(
        Level(
            x=mixture.at,
            x_stride=mixture.stride,
            bins=config.stft.n_bins,
            imag_offset=imag_offset,
            level=level,
            constants=make.store(np.array([config.level_decay, config.level_fall], np.float32)),
            state=make.allocate_state(3 + window if window else 2),
            by_power=int(net.level_by_power),
            window=window,
            rank=config.level_rank,
        )
    )
    return level


def _on_stems(
    config: ModelConfig, mixture: Register, stems: Register, imag_offset: int
) -> dict[str, int]:
    """Return the fields of `program.OnStems`."""
    return {
        "x": mixture.at,
        "x_stride": mixture.stride,
        "bins": config.stft.n_bins,
        "imag_offset": imag_offset,
        "stems": stems.at,
        "stems_stride": stems.stride,
        "n_stems": len(config.stems),
    }


def expander(
    make: Builder, config: ModelConfig, mixture: Register, stems: Register, imag_offset: int
) -> None:
    """Lower `net.expander.StemExpander`, in place."""
    n_stems = len(config.stems)
    constants = np.array([*config.expander_decays, config.expander_threshold], np.float32)
    make.emit(
        Expander(
            **_on_stems(config, mixture, stems, imag_offset),
            state=make.allocate_state(2 * (n_stems + 1)),
            constants=make.store(constants),
            gains=make.register(2 * n_stems, 1).at,
            steeper=config.net.expander_ratio - 2,
        )
    )


@dataclass(frozen=True)
class Spectra:
    """The spectra of a frame, and the steps between a spectrum and a network's layers.

    Attributes:
        make: of the program.
        n_bins: bins of a spectrum, F.
        imag_offset: floats from the real to the imaginary part.
        level: address of the running levels.
        limit: address of the mask limit in the weights.
        mixture, aligned, stems: registers, as of `Program`.
    """

    make: Builder
    n_bins: int
    imag_offset: int
    level: int
    limit: int
    mixture: Register
    aligned: Register
    stems: Register

    def stem(self, s: int) -> Register:
        """Return the register of a stem's spectrum."""
        size = 2 * self.imag_offset
        return self.stems.columns(size * s, size)

    def compress(self, x: Register, parts: int = 3, extra: int = 0) -> Register:
        """Lower `net.layers.compress`; `extra` channels after it are left to the caller."""
        out = self.make.register(parts * self.n_bins + extra)
        self.make.emit(
            Compress(
                x=x.at,
                x_stride=x.stride,
                bins=self.n_bins,
                imag_offset=self.imag_offset,
                level=self.level,
                y=out.at,
                y_stride=out.stride,
                parts=parts,
            )
        )
        return out

    def estimate(
        self, head: Register, source: Register, out: Register, target: str, adds: bool = False
    ) -> None:
        """Lower the step from a head's output to a spectrum: written to `out`, or added to it."""
        self.make.emit(
            Estimate(
                head=head.at,
                head_stride=head.stride,
                bins=self.n_bins,
                x=source.at,
                x_stride=source.stride,
                imag_offset=self.imag_offset,
                level=self.level,
                y=out.at,
                y_stride=out.stride,
                target=TARGETS.index(target),
                adds=int(adds),
                limit=self.limit,
            )
        )


def mixture_consistency(
    make: Builder, config: ModelConfig, mixture: Register, stems: Register, imag_offset: int
) -> None:
    """Lower `net.separation.mixture_consistency`, in place."""
    make.emit(MixtureConsistency(**_on_stems(config, mixture, stems, imag_offset)))


def parallel_grus(make: Builder, x: Register, grus: list[GruWeights]) -> Register:
    """Lower GRUs that read the same x, their outputs side by side: one input matmul for all."""
    hidden, groups = grus[0].w_state.shape[1], len(grus)
    wide = 3 * hidden
    inputs = make.affine(x, input_layer(grus))
    out = make.register(groups * hidden, rows=x.rows)
    padded, state_stride = in_vectors(wide), in_vectors(hidden)
    scratch = make.register(padded, 1, x.rows).at
    for g, gru in enumerate(grus):
        make.emit(
            Gru(
                x=inputs.at + g * wide,
                x_stride=inputs.stride,
                width=hidden,
                y=out.at + g * hidden,
                y_stride=out.stride,
                weights=make.store_weight(gru.w_state),
                bias=make.store(gru.b_state),
                state=make.allocate_state(state_stride * x.rows),
                scratch=scratch,
                precision=make.precision_number(hidden),
                rows=x.rows,
                padded=padded,
                state_stride=state_stride,
            )
        )
    return out
