"""The loops that training on a CPU uses, against torch's gradients of the same computation."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from networks import seasoned, tiny

from rtmtass.config import ModelConfig
from rtmtass.jit.compiler import kernel
from rtmtass.jit.simd import log
from rtmtass.net import cpu_kernels
from rtmtass.net.separation import SeparationNet
from rtmtass.net.stft import Stft
from rtmtass.training.losses import SeparationLoss
from rtmtass.training.step import Objective
from rtmtass.types import Floats

LOSSES = {
    "bands": tiny("bands"),
    "a correction that doesn't read the trunk": tiny("bands", compensation_uses_trunk=False),
    "magnitudes": tiny("bands", target="magnitude_mask"),
    "one stage": tiny("bands", compensation_target="none"),
    "another backbone": tiny(),
    "a network that looks ahead": tiny(lookahead=1),
    "a short window": dataclasses.replace(
        tiny("bands"), stft=dataclasses.replace(tiny("bands").stft, hop=16, synthesis=32)
    ),
}


def loss_and_gradients(net: SeparationNet, stems: torch.Tensor) -> list[torch.Tensor]:
    """Return the loss, the state after it, and the gradient of every parameter."""
    net.zero_grad()
    loss = SeparationLoss(Stft(net.config.stft), net.config.net.lookahead)
    objective = Objective(net, loss, torch.device("cpu"))
    value, after = objective.compute(stems, net.init_state(len(stems)))
    (8 * value).backward()
    gradients = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    assert len(gradients) == len(list(net.parameters()))
    return [value.detach(), after.level, *gradients]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("config", LOSSES.values(), ids=LOSSES.keys())
def test_a_steps_gradient_is_torchs(
    config: ModelConfig, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = seasoned(config).train()
    torch.manual_seed(1)
    # Loud and quiet stems, silent ones, and an example that is silence.
    levels = torch.tensor([[0.1, 0.03, 0.01], [0.1, 0.0, 0.0], [0.0, 0.0, 0.0]])
    stems = levels[:, :, None] * torch.randn(3, 3, 32 * 11)
    stems[0, :, : 32 * 4] = 0
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    ours = loss_and_gradients(net, stems)
    monkeypatch.setattr(cpu_kernels, "HAS_KERNELS", False)
    theirs = loss_and_gradients(net, stems)
    largest = max(float(gradient.abs().max()) for gradient in theirs[2:])
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-4, atol=1e-5 * largest)


@kernel
def _logs(x: Floats, y: Floats) -> None:
    for i in range(x.size):
        y[i] = log(x[i])


def test_a_logarithm_is_exact_to_rounding() -> None:
    x = np.concatenate((
        np.geomspace(1.2e-38, 3e38, 10001), np.linspace(0.5, 2, 10001), [1.0]
    )).astype(np.float32)  # fmt: skip
    y = np.empty_like(x)
    _logs(x, y)
    expected = np.log(x.astype(np.float64))
    assert np.max(np.abs(y - expected) / np.maximum(1, np.abs(expected))) < 1.5e-7
    assert y[-1] == 0
