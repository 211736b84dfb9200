"""What training minimises: errors heard against the mixture's level, in samples and spectra."""

from __future__ import annotations

import torch
from torch import Tensor

from rtmtass.net.mtass import Stages
from rtmtass.net.stft import Stft

SILENCE_DB = -30.0
"""A stem this far below the mixture counts as silent: the floor of the SNR."""
SPECTRAL_WEIGHT = 10.0
STAGE_ONE_WEIGHT = 0.5
COMPRESSION = 0.3
POWER_TINY = 1e-9


def negative_snr(estimate: Tensor, stems: Tensor, mixture: Tensor) -> Tensor:
    """Return the level-aware error in dB per stem, lower is better.

    10 log10((|e|^2 + f |x|^2) / (|s|^2 + f |x|^2)), f = `SILENCE_DB` of the
    mixture's energy: a silent stem asks for little leakage, not for the
    impossible; unlike SI-SDR it holds the stem to its level.

    Args:
        estimate: (..., N) or any shape whose last axes are reduced alike.
        stems: as `estimate`.
        mixture: broadcastable to `estimate`.

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
        level: (B, 1, 1, 1), the mixture's root-mean-square spectrum.

    Source: Ephrat et al., arXiv 1804.03619, with the magnitude term of
    Braun and Tashev, arXiv 2009.12286.
    """
    sides = []
    for spec in (estimate, target):
        re, im = spec[..., 0, :] / level, spec[..., 1, :] / level
        power = re * re + im * im + 1e-8
        magnitude = torch.exp(COMPRESSION / 2 * torch.log(power))  # in half the time of two powers
        gain = magnitude * torch.rsqrt(power)
        sides.append((re * gain, im * gain, magnitude))
    (a, b, m), (c, d, n) = sides
    return (0.5 * ((a - c) ** 2 + (b - d) ** 2) + 0.5 * (m - n) ** 2).mean(dim=(1, 3))


class SeparationLoss:
    """Both terms over both stages; a value per batch, lower is better.

    Args:
        stft: the transform.
        lookahead: frames that the network's answers are late.
    """

    def __init__(self, stft: Stft, lookahead: int = 0) -> None:
        self.stft, self.lookahead = stft, lookahead

    def __call__(self, stages: Stages, stems: Tensor, stems_spec: Tensor) -> Tensor:
        """Compare the estimates with the truth.

        Args:
            stages: the network's answer to the mixture.
            stems: (B, S, N), the true stems.
            stems_spec: (B, S, T, 2, F), their spectra.

        Returns:
            a scalar.
        """
        late = self.lookahead
        delay = self.stft.config.delay + late * self.stft.config.hop
        mixture = stems.sum(dim=1, keepdim=True)
        target = stems_spec.permute(0, 2, 1, 3, 4)
        level = torch.sqrt((target.sum(dim=2) ** 2).mean(dim=(1, 2, 3)) + POWER_TINY)
        level = level[:, None, None, None]
        if late:
            target = torch.cat([torch.zeros_like(target[:, :late]), target[:, :-late]], dim=1)
        final = self.stft.inverse(stages.final.permute(0, 2, 1, 3, 4))[..., delay:]
        heard = stems.shape[-1] - delay
        snr = negative_snr(final, stems[..., :heard], mixture[..., :heard]).mean()
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
