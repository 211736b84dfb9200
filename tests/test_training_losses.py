"""The training loss and the metrics: best for the true stems at the right delay."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from networks import tiny

from rtmtass.config import StftConfig
from rtmtass.dsp.stft import StreamingStft
from rtmtass.evaluation.metrics import bootstrap_interval, sdr, si_sdr
from rtmtass.net.networks import new_network
from rtmtass.net.separation import Stages
from rtmtass.net.stft import Stft
from rtmtass.presets import small
from rtmtass.training.losses import SeparationLoss, negative_snr


@pytest.mark.parametrize(
    "stft",
    [
        StftConfig(),
        StftConfig(hop=128, synthesis=256),
        StftConfig(hop=64, synthesis=128),
        StftConfig(n_fft=64, hop=16, synthesis=64),
    ],
)
def test_both_stfts_are_equal(stft: StftConfig) -> None:
    x = np.random.default_rng(0).standard_normal(stft.hop * 40).astype(np.float32)
    ours = StreamingStft(stft)
    specs = np.stack([ours.step(block).copy() for block in x.reshape(-1, stft.hop)])
    twin = Stft(stft)(torch.from_numpy(x))
    delta = np.abs(specs - torch.complex(twin[:, 0], twin[:, 1]).numpy())
    print(f"analysis: max {delta.max():.1e}, mean {delta.mean():.1e}")
    assert delta.max() < 1e-4
    ours.reset()
    sound = np.concatenate([ours.inverse(ours.step(b)).copy() for b in x.reshape(-1, stft.hop)])
    back = Stft(stft).inverse(twin).numpy()
    np.testing.assert_allclose(sound, back, atol=2e-6)
    np.testing.assert_allclose(back[stft.delay :], x[: len(x) - stft.delay], atol=2e-6)


def test_a_perfect_estimate_has_the_lowest_loss() -> None:
    net_config = tiny()
    stft = Stft(net_config.stft)
    stems = torch.randn(2, 3, 32 * 50)
    spec = stft(stems)
    loss = SeparationLoss(stft)
    truth = spec.permute(0, 2, 1, 3, 4)
    best = float(loss(Stages(truth.clone(), truth), stems, spec))
    worse = [truth * 0.9, truth + 0.1 * torch.randn_like(truth), truth.flip(2), truth * 0]
    assert all(float(loss(Stages(truth.clone(), w), stems, spec)) > best + 0.1 for w in worse)


@pytest.mark.parametrize("lookahead", [1, 2])
def test_the_loss_compensates_for_lookahead(lookahead: int) -> None:
    stft = Stft(tiny().stft)
    stems = torch.randn(2, 3, 32 * 50)
    spec = stft(stems)
    loss = SeparationLoss(stft, lookahead)
    truth = spec.permute(0, 2, 1, 3, 4)

    def late(frames: int) -> Stages:
        blank = torch.zeros_like(truth[:, :frames])
        shifted = torch.cat([blank, truth[:, : truth.shape[1] - frames]], dim=1)
        return Stages(shifted.clone(), shifted)

    losses = [float(loss(late(frames), stems, spec)) for frames in range(4)]
    assert min(losses) == losses[lookahead]
    assert losses[lookahead] < sorted(losses)[1] - 10


def test_leakage_into_silence_raises_the_loss() -> None:
    mixture, silent = torch.randn(1, 1000), torch.zeros(1, 1000)
    quiet, loud = (float(negative_snr(mixture * g, silent, mixture)) for g in (0.01, 0.3))
    assert quiet < 0.5 < 10 < loud


def test_metrics_equal_their_definitions() -> None:
    rng = np.random.default_rng(0)
    target, noise = rng.standard_normal((2, 3, 4000))
    noise -= (noise * target).sum(-1, keepdims=True) / (target**2).sum(-1, keepdims=True) * target
    noise *= np.sqrt((target**2).sum(-1) / (noise**2).sum(-1))[:, None] * 0.1
    np.testing.assert_allclose(sdr(target + noise, target), 20, atol=1e-6)
    np.testing.assert_allclose(si_sdr(7 * (target + noise), target), 20, atol=1e-6)
    np.testing.assert_allclose(sdr(0 * target, target), 0, atol=1e-6)
    low, high = bootstrap_interval(rng.standard_normal(400) + 3)
    assert low < 3 < high
    assert 0.1 < high - low < 0.4


def test_the_small_preset_trains_in_its_released_shape() -> None:
    config = small()
    net = new_network(config).train()
    samples = torch.randn(2, 3, 256 * 30) * 0.05
    stft = Stft(config.stft)
    spec = stft(samples)
    stages, _ = net.stages(spec.sum(dim=1), net.init_state(2))
    loss = SeparationLoss(stft)(stages, samples, spec)
    loss.backward()
    assert torch.isfinite(loss)
