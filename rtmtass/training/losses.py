"""The training loss: errors relative to the mixture's level, in the time and spectral domain."""

from __future__ import annotations

import torch
from torch import Tensor

from rtmtass.net.constants import LOSS_FLOOR
from rtmtass.net.cpu_kernels import HAS_KERNELS, trains_on_cpu
from rtmtass.net.separation import Stages
from rtmtass.net.stft import Stft

if HAS_KERNELS:
    from rtmtass.training.fused_loss import Terms, fused_loss

SILENCE_DB = -30.0
"""Floor of the SNR, relative to the mixture: a stem below it counts as silent."""
SPECTRAL_WEIGHT = 10.0
STAGE_ONE_WEIGHT = 0.5
COMPRESSION = 0.3
POWER_TINY = 1e-9


def negative_snr(estimate: Tensor, stems: Tensor, mixture: Tensor) -> Tensor:
    """Return the negative SNR with a floor, in dB per stem; lower is better.

    10 log10((|e|^2 + f |x|^2) / (|s|^2 + f |x|^2)), where f is `SILENCE_DB` as a power
    ratio: for a silent stem leakage well below the floor gains nothing. Unlike SI-SDR
    it penalises a wrong level.

    Args:
        estimate: (..., N); the last axis is averaged over.
        stems: as `estimate`.
        mixture: broadcastable to `estimate`.

    Returns:
        (...), dB.

    Source: the silence-aware SNR of Wisdom et al., arXiv 2011.00801, eq. 2.
    """
    floor = 10 ** (SILENCE_DB / 10)
    energy = (mixture * mixture).mean(-1)
    error = ((estimate - stems) ** 2).mean(-1)
    target = (stems * stems).mean(-1)
    tiny = floor * energy + POWER_TINY
    return 10 * torch.log10((error + tiny) / (target + tiny))


def compressed_distance(estimate: Tensor, target: Tensor, level: Tensor) -> Tensor:
    """Return the distance of compressed spectra, complex and magnitude, per stem.

    Args:
        estimate: (B, T, S, 2, F).
        target: as `estimate`.
        level: (B, 1, 1, 1), root mean square of the mixture's spectrum.

    Returns:
        (B, S).

    Source: Ephrat et al., arXiv 1804.03619, with the magnitude term of
    Braun and Tashev, arXiv 2009.12286.
    """
    compressed = []
    for spec in (estimate, target):
        re, im = spec[..., 0, :] / level, spec[..., 1, :] / level
        power = re * re + im * im + LOSS_FLOOR
        magnitude = torch.exp(COMPRESSION / 2 * torch.log(power))  # twice as fast as two powers
        gain = magnitude * torch.rsqrt(power)
        compressed.append((re * gain, im * gain, magnitude))
    (a, b, m), (c, d, n) = compressed
    return (0.5 * ((a - c) ** 2 + (b - d) ** 2) + 0.5 * (m - n) ** 2).mean(dim=(1, 3))


class SeparationLoss:
    """Weighted sum of both loss terms over both stages; lower is better.

    Args:
        stft: the transform.
        lookahead: the network's look-ahead, by which its output is delayed, in frames.
    """

    def __init__(self, stft: Stft, lookahead: int = 0) -> None:
        self.stft, self.lookahead = stft, lookahead
        if HAS_KERNELS:
            self._terms = Terms(
                stft=stft.config,
                silence=10 ** (SILENCE_DB / 10),
                power_tiny=POWER_TINY,
                compression=COMPRESSION,
                spectral=SPECTRAL_WEIGHT,
                first=STAGE_ONE_WEIGHT,
            )

    def __call__(self, stages: Stages, stems: Tensor, stems_spec: Tensor) -> Tensor:
        """Return the loss of the estimates.

        Args:
            stages: the network's output for the mixture.
            stems: (B, S, N), the true stems.
            stems_spec: (B, S, T, 2, F), their spectra.

        Returns:
            a scalar.
        """
        lookahead = self.lookahead
        has_both = stages.first is not stages.final
        if has_both and not lookahead and trains_on_cpu(stages.final):
            return fused_loss(self._terms, stages.first, stages.final, stems, stems_spec)  # type: ignore[no-any-return]
        delay = self.stft.config.delay + lookahead * self.stft.config.hop
        mixture = stems.sum(dim=1, keepdim=True)
        target = stems_spec.permute(0, 2, 1, 3, 4)
        level = torch.sqrt((target.sum(dim=2) ** 2).mean(dim=(1, 2, 3)) + POWER_TINY)
        level = level[:, None, None, None]
        if lookahead:
            silence = torch.zeros_like(target[:, :lookahead])
            target = torch.cat([silence, target[:, :-lookahead]], dim=1)
        final = self.stft.inverse(stages.final.permute(0, 2, 1, 3, 4))[..., delay:]
        n = stems.shape[-1] - delay
        snr = negative_snr(final, stems[..., :n], mixture[..., :n]).mean()
        spectral = compressed_distance(stages.final, target, level).mean()
        if stages.first is stages.final:
            return snr + SPECTRAL_WEIGHT * spectral
        flat = (stages.first, target, target.sum(dim=2, keepdim=True))
        first_snr = negative_snr(*(part.transpose(1, 2).flatten(-3) for part in flat)).mean()
        first_spectral = compressed_distance(stages.first, target, level).mean()
        return (
            snr
            + SPECTRAL_WEIGHT * spectral
            + STAGE_ONE_WEIGHT * (first_snr + SPECTRAL_WEIGHT * first_spectral)
        )
