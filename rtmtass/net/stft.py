"""The STFT in torch: the differentiable twin of `dsp.stft`, for training.

Tests pin it to the streaming one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rtmtass.config import StftConfig
from rtmtass.dsp.windows import windows


class Stft(nn.Module):
    """Causal STFT and its inverse over whole batches.

    Frame t covers the n_fft samples up to the end of hop t, with silence before the start,
    exactly as in the streaming STFT.
    """

    analysis: Tensor
    synthesis: Tensor

    def __init__(self, config: StftConfig) -> None:
        super().__init__()
        self.config = config
        analysis, synthesis = windows(config)
        self.register_buffer("analysis", torch.as_tensor(analysis).float(), persistent=False)
        self.register_buffer("synthesis", torch.as_tensor(synthesis).float(), persistent=False)

    def forward(self, samples: Tensor) -> Tensor:
        """Transform (..., N) samples, N a multiple of the hop, to (..., T, 2, F), T = N / hop."""
        n_fft, hop = self.config.n_fft, self.config.hop
        assert samples.shape[-1] % hop == 0
        padded = nn.functional.pad(samples, (n_fft - hop, 0))
        frames = padded.unfold(-1, n_fft, hop) * self.analysis
        return torch.view_as_real(torch.fft.rfft(frames)).transpose(-1, -2)

    def inverse(self, spec: Tensor) -> Tensor:
        """Return (..., N) samples of (..., T, 2, F), `config.delay` samples late."""
        n_fft, hop, length = self.config.n_fft, self.config.hop, self.config.synthesis
        complex_spec = torch.view_as_complex(spec.transpose(-1, -2).contiguous())
        frames = torch.fft.irfft(complex_spec, n_fft)[..., n_fft - length :] * self.synthesis
        parts = frames.unflatten(-1, (length // hop, hop))
        total = parts[..., 0, :]
        for age in range(1, length // hop):
            late = nn.functional.pad(parts[..., age, :], (0, 0, age, 0))
            total = total + late[..., : total.shape[-2], :]
        whole: Tensor = total.flatten(-2)
        return whole
