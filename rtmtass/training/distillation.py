"""Distillation: training against a teacher network's stems in addition to the true ones."""

from __future__ import annotations

import torch
from torch import Tensor

from rtmtass.config import ModelConfig
from rtmtass.errors import DataError
from rtmtass.net.networks import new_network
from rtmtass.net.stft import Stft
from rtmtass.training.losses import negative_snr
from rtmtass.weights import open_model

WEIGHT = 1.5
"""Factor that brings the SNR against the teacher's stems to about the size of `SeparationLoss`."""


class Teacher:
    """A trained network whose stems are an additional target for the student.

    A teacher's errors are ones that a network of its kind makes, so its stems are
    easier to fit than the true ones.

    Args:
        model: a name or a folder of weights; any network with the student's stems and
            transform. Its look-ahead may differ.
        student: config of the network being trained.
        device: where both compute.

    Raises:
        ModelError: there is no such model.
        DataError: its stems or its transform differ from the student's.

    Source: Hinton, Vinyals and Dean, arXiv 1503.02531, with stems instead of class
    probabilities.
    """

    def __init__(self, model: str, student: ModelConfig, device: torch.device) -> None:
        opened = open_model(model)
        self.config, self.student = opened.config, student
        for part in ("stems", "stft"):
            theirs, ours = getattr(opened.config, part), getattr(student, part)
            if theirs != ours:
                raise DataError(
                    f"the teacher {model} has {part} {theirs}, this config has {ours};"
                    f" name a teacher with the same {part}"
                )
        self.name = f"{opened.folder.name} {opened.about.get('version', '')}".strip()
        self.net = new_network(opened.config).to(device).eval().requires_grad_(False)
        self.net.load_state_dict({k: torch.from_numpy(v) for k, v in opened.weights.items()})
        self.stft = Stft(student.stft).to(device)
        self._initial_state = self.net.init_state(0)

    def stems(self, spec: Tensor) -> Tensor:
        """Return the teacher's stems of mixtures (B, T, 2, F): (B, T, S, 2, F)."""
        with torch.no_grad():
            # Allocated once per batch size: a CUDA graph needs it to stay where it is.
            if len(self._initial_state.past) != len(spec):
                self._initial_state = self.net.init_state(len(spec))
            teacher_stems, _ = self.net.step(spec, self._initial_state)
        return teacher_stems

    def loss(self, student_stems: Tensor, teacher_stems: Tensor, mixture: Tensor) -> Tensor:
        """Return the error of the student's stems against the teacher's; lower is better.

        Args:
            student_stems: (B, T, S, 2, F).
            teacher_stems: (B, T, S, 2, F), from `stems`.
            mixture: (B, N), the samples of the mixture.

        Returns:
            a scalar, `WEIGHT` times `negative_snr`.
        """
        estimate = self._samples(student_stems, self.student.delay)
        target = self._samples(teacher_stems, self.config.delay)
        n = min(estimate.shape[-1], target.shape[-1])
        signals = (estimate, target, mixture[:, None])
        return WEIGHT * negative_snr(*(signal[..., :n] for signal in signals)).mean()

    def _samples(self, stems: Tensor, delay: int) -> Tensor:
        return self.stft.inverse(stems.permute(0, 2, 1, 3, 4))[..., delay:]
