"""The network: streaming equals offline, it is causal, and the stems sum to the mixture."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import pytest
import torch
from networks import SUBBANDS, seasoned, tiny

from benchmarks.harness.costs import macs_per_s
from rtmtass.config import ModelConfig
from rtmtass.net.gru import gru_scan, torch_grus
from rtmtass.net.layers import RecurrentBlock, RunningLevel, compress, expand
from rtmtass.net.networks import new_network
from rtmtass.net.separation import SeparationNet, mixture_consistency
from rtmtass.presets import PRESETS, paper
from rtmtass.training.growth import can_grow

CONFIGS = {
    "recurrent": tiny(),
    "multiscale": tiny("multiscale"),
    "bands": tiny("bands"),
    "lookahead": tiny(lookahead=2),
    "magnitude_mask": tiny(target="magnitude_mask", compensation_target="none"),
    "level_by_power": tiny(level_by_power=True),
    "spectral_mapping": tiny(target="spectral_mapping"),
    "subbands": tiny(**SUBBANDS),
    "pops": tiny(level_pop_s=0.02),
    "expander": tiny(expander_db=-5.0),
    "steep expander": tiny(expander_db=-5.0, expander_ratio=3),
    "groups": tiny(
        recurrent=9, recurrent_groups=3, **{**SUBBANDS, "subband_channels": 14, "subband_groups": 2}
    ),
}


def spec(config: ModelConfig, frames: int, batch: int = 1, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    loud = torch.rand(1, frames, 1, 1, generator=generator, dtype=torch.float64)
    noise = torch.randn(
        batch, frames, 2, config.stft.n_bins, generator=generator, dtype=torch.float64
    )
    return noise * loud


@functools.cache
def offline(name: str) -> tuple[SeparationNet, torch.Tensor, torch.Tensor]:
    """A network, its input, and its output of all frames at once."""
    net, x = seasoned(CONFIGS[name]).double(), spec(CONFIGS[name], 130, batch=2)
    return net, x, net(x)


def feed(net: SeparationNet, x: torch.Tensor, chunk: int) -> torch.Tensor:
    state, out = net.init_state(x.shape[0]), []
    for start in range(0, x.shape[1], chunk):
        y, state = net.step(x[:, start : start + chunk], state)
        out.append(y)
    return torch.cat(out, dim=1)


@pytest.mark.parametrize("chunk", [1, 2, 7, 64, 65, 1000])
@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_streaming_equals_offline(name: str, chunk: int) -> None:
    net, x, expected = offline(name)
    torch.testing.assert_close(feed(net, x, chunk), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("by_power", [False, True])
@torch.no_grad()
def test_a_level_spans_chunks_longer_than_its_inner_blocks(by_power: bool) -> None:
    level = RunningLevel(0.99, by_power)
    power = torch.rand(1, 1500, 1, dtype=torch.float64)
    slow, state = [], level.init_state(1).double()
    for t in range(1500):
        y, state = level.step(power[:, t : t + 1], state)
        slow.append(y)
    torch.testing.assert_close(level(power), torch.cat(slow, dim=1), rtol=0, atol=1e-12)


@torch.no_grad()
def test_a_level_by_power_restarts_after_silence() -> None:
    level = RunningLevel(0.99, by_power=True)
    sound = torch.rand(1, 50, 1, dtype=torch.float64) + 0.1
    _, state = level.step(1e-4 * sound, level.init_state(1).double())
    held, state = level.step(torch.zeros(1, 200, 1, dtype=torch.float64), state)
    torch.testing.assert_close(held[:, -1], held[:, 0], rtol=1e-3, atol=0)
    _, state = level.step(torch.zeros(1, 2000, 1, dtype=torch.float64), state)
    after, _ = level.step(sound, state)
    torch.testing.assert_close(after, level(sound), rtol=1e-6, atol=0)


@pytest.mark.parametrize("frame", [1, 50, 99])
@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_the_future_cannot_reach_the_past(name: str, frame: int) -> None:
    config = CONFIGS[name]
    net, x = seasoned(config).double(), spec(config, 100)
    rewritten = torch.cat([x[:, :frame], spec(config, 100 - frame, seed=2)], dim=1)
    after = net(rewritten)
    assert torch.equal(after[:, :frame], net(x)[:, :frame])
    assert not torch.equal(after[:, frame:], net(x)[:, frame:])


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_stems_sum_to_the_mixture(name: str) -> None:
    config = CONFIGS[name]
    x, late = spec(config, 60), config.net.lookahead
    total = seasoned(config).double()(x).sum(dim=2)
    torch.testing.assert_close(total[:, late:], x[:, : 60 - late], rtol=0, atol=1e-12)


@torch.no_grad()
def test_two_streams_share_one_network() -> None:
    net = seasoned(CONFIGS["recurrent"]).double()
    a, b = spec(net.config, 40, seed=3), spec(net.config, 40, seed=4)
    states = [net.init_state(1), net.init_state(1)]
    outs: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    for t in range(40):
        for i, x in enumerate((a, b)):
            y, states[i] = net.step(x[:, t : t + 1], states[i])
            outs[i].append(y)
    torch.testing.assert_close(torch.cat(outs[0], dim=1), net(a), rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.cat(outs[1], dim=1), net(b), rtol=0, atol=1e-12)


@torch.no_grad()
def test_stems_scale_with_the_mixture() -> None:
    for name in ("recurrent", "spectral_mapping", "multiscale", "bands"):
        net, x = seasoned(CONFIGS[name]).double(), 30 * spec(CONFIGS[name], 80)
        quiet = net(x * 0.01) * 100
        change = (quiet - net(x)).norm() / net(x).norm()
        assert change < 0.01, f"{name}: {change}"


@pytest.mark.parametrize(
    ("preset", "millions", "gmacs_per_s"),
    [
        ("small", 1.66, 0.234),
        ("gated", 3.7, 0.31),
        ("base", 3.01, 0.449),
        ("large", 17.0, 2.67),
        ("paper", 28.2, 1.75),
    ],
)
def test_presets_have_their_documented_sizes(
    preset: str, millions: float, gmacs_per_s: float
) -> None:
    config = PRESETS[preset]()
    with torch.device("meta"):
        net = new_network(config)
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, rel=0.01)
    shapes = {name: p.shape for name, p in net.named_parameters()}
    assert macs_per_s(shapes, config) / 1e9 == pytest.approx(gmacs_per_s, rel=0.01)


def test_the_grus_of_large_fit_the_fast_kernels_of_a_gpu() -> None:
    with torch.device("meta"):
        net = new_network(PRESETS["large"]())
    grus = [module for module in net.modules() if isinstance(module, torch.nn.GRU)]
    assert max(gru.hidden_size for gru in grus) <= 128


def test_a_trained_small_can_be_grown_into_base() -> None:
    assert can_grow(PRESETS["small"]().net, PRESETS["base"]().net)


def test_the_published_net_has_its_published_macs() -> None:
    with torch.device("meta"):
        net = new_network(paper())
    weights = sum(
        m.weight.numel() for m in net.modules() if isinstance(m, torch.nn.Linear)
    )  # one multiplication of each per frame
    assert abs(weights * 16000 / 256 / 1.76e9 - 1) < 0.02


def test_compress_and_expand_are_inverse() -> None:
    a, b = torch.randn(2, 1, 5, 9, dtype=torch.float64)
    level = torch.full((1, 5, 1), 0.3, dtype=torch.float64)
    back = expand(*compress(a, b, level)[:2], level)
    torch.testing.assert_close(torch.stack(back), torch.stack([a, b]), rtol=1e-4, atol=1e-6)


def test_the_residual_is_distributed_by_power() -> None:
    stems = torch.zeros(1, 1, 3, 2, 4, dtype=torch.float64)
    stems[:, :, 1] = 1.0
    mixture = torch.full((1, 1, 2, 4), 1.5, dtype=torch.float64)
    shared = mixture_consistency(stems, mixture)
    assert shared[0, 0, 1].min() > 1.49
    assert shared[0, 0, 0].abs().max() < 0.01


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("batch", [3, 20])
def test_the_gru_gradient_matches_torch(
    groups: int, batch: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    grus = [torch.nn.GRU(6, 5, batch_first=True) for _ in range(groups)]
    x = torch.randn(batch, 9, 6, requires_grad=True)
    h = torch.randn(batch, groups * 5, requires_grad=True)
    weight = torch.randn(batch, 9, groups * 5)
    parameters = [p for gru in grus for p in gru.parameters()]

    def gradients(run: Callable[..., tuple[torch.Tensor, torch.Tensor]]) -> list[torch.Tensor]:
        for parameter in (*parameters, x, h):
            parameter.grad = None
        y, last = run(x, h, *grus)
        ((y * weight).sum() + last.square().sum()).backward()
        return [y.detach(), last.detach(), *(p.grad.clone() for p in (*parameters, x, h))]  # type: ignore[union-attr]

    for ours, theirs in zip(gradients(gru_scan), gradients(torch_grus), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-5)


def test_parallel_grus_equal_separate_grus() -> None:
    """Each reads all channels and has its slice of the state and of the output."""
    torch.manual_seed(0)
    block = RecurrentBlock(6, 5, groups=2)
    x, state = torch.randn(3, 9, 6), torch.randn(3, 10)
    both = [
        gru(x, h[None].contiguous()) for gru, h in zip(block.grus, state.split(5, 1), strict=True)
    ]
    expected = x + block.expand(torch.cat([y for y, _ in both], dim=2))
    for is_training in (True, False):
        with torch.set_grad_enabled(is_training):
            y, last = block.step(x, state)
        torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(last, torch.cat([h[0] for _, h in both], dim=1))


def test_every_parameter_has_a_gradient() -> None:
    net = new_network(dataclasses.replace(CONFIGS["recurrent"])).train()
    stages, _ = net.stages(spec(net.config, 20, batch=2).float(), net.init_state(2))
    (stages.final.square().mean() + stages.first[:, :, 0].square().mean()).backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []
