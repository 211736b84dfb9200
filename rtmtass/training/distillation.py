"""Distillation: a network that is taught by the stems another one makes, beside the true ones."""

from __future__ import annotations

import torch
from torch import Tensor

from rtmtass.config import ModelConfig
from rtmtass.errors import DataError
from rtmtass.net.mtass import MtassNet
from rtmtass.net.stft import Stft
from rtmtass.training.losses import negative_snr
from rtmtass.weights import open_model

WEIGHT = 1.5
"""Brings the SNR to the teacher's stems to about the size of `SeparationLoss`."""


class Teacher:
    """A finished network whose stems a student is asked for, as well.

    What a teacher can't separate it leaves mixed in a way a network of its kind
    can reach, so its stems are easier to learn than the true ones.

    Args:
        model: a name or a folder of weights; any network for the same stems and
            transform, look-ahead included.
        student: who is taught.
        device: where both compute.

    Raises:
        ModelError: there is no such model.
        DataError: it has other stems or another transform than the student.

    Source: Hinton, Vinyals and Dean, arXiv 1503.02531, with the stems in the
    place of class probabilities.
    """

    def __init__(self, model: str, student: ModelConfig, device: torch.device) -> None:
        opened = open_model(model)
        self.config, self.student = opened.config, student
        for what in ("stems", "stft"):
            theirs, ours = getattr(opened.config, what), getattr(student, what)
            if theirs != ours:
                raise DataError(
                    f"the teacher {model} has {what} {theirs}, this config has {ours};"
                    " name a teacher with the same"
                )
        self.name = f"{opened.folder.name} {opened.about.get('version', '')}".strip()
        self.net = MtassNet(opened.config).to(device).eval().requires_grad_(False)
        self.net.load_state_dict({k: torch.from_numpy(v) for k, v in opened.weights.items()})
        self.stft = Stft(student.stft).to(device)
        self._begin = self.net.init_state(0)

    def stems(self, spec: Tensor) -> Tensor:
        """Return what the teacher makes of mixtures (B, T, 2, F): (B, T, S, 2, F)."""
        with torch.no_grad():
            if len(self._begin.past) != len(spec):  # made once: no CUDA graph could hold it
                self._begin = self.net.init_state(len(spec))
            told, _ = self.net.step(spec, self._begin)
        return told

    def loss(self, final: Tensor, told: Tensor, mixture: Tensor) -> Tensor:
        """Return how far a student is from its teacher; lower is better.

        Args:
            final: (B, T, S, 2, F), the student's stems.
            told: the same of the teacher; see `stems`.
            mixture: (B, N), the samples both heard.

        Returns:
            a scalar, `WEIGHT` times `negative_snr`.
        """
        heard = self._samples(final, self.student.delay)
        target = self._samples(told, self.config.delay)
        both = min(heard.shape[-1], target.shape[-1])
        sides = (heard, target, mixture[:, None])
        return WEIGHT * negative_snr(*(side[..., :both] for side in sides)).mean()

    def _samples(self, stems: Tensor, delay: int) -> Tensor:
        return self.stft.inverse(stems.permute(0, 2, 1, 3, 4))[..., delay:]
