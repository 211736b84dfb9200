"""Optimisers: Muon equals torch's up to rounding, learns and resumes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import buzzing_corpus, config
from torch import nn

from rtmtass.errors import DataError, UsageError
from rtmtass.training.optimisers import Muon, Optimisers, orthogonal
from rtmtass.training.train import train


def test_orthogonal_flattens_singular_values_and_keeps_directions() -> None:
    torch.manual_seed(0)
    matrices = torch.randn(3, 6, 20)
    for stack in (matrices, matrices.mT):
        for before, after in zip(stack, orthogonal(stack), strict=True):
            u, _, v = torch.linalg.svd(before, full_matrices=False)
            inner = u.T @ after @ v.T
            values = inner.diagonal()
            assert (values > 0.6).all()
            assert (values < 1.3).all()
            torch.testing.assert_close(inner, torch.diag(values), rtol=0, atol=1e-4)


def test_muon_equals_torchs_up_to_rounding() -> None:
    theirs = getattr(torch.optim, "Muon", None)
    if theirs is None:
        pytest.skip("this torch has no Muon; since 2.9")
    torch.manual_seed(0)
    shapes = [(5, 9), (9, 4), (5, 9)]
    ours = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    twins = [nn.Parameter(p.detach().clone()) for p in ours]
    one = Muon(ours, 1e-2, weight_decay=0.1)
    other = theirs(twins, 1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    start = [p.detach().clone() for p in ours]
    for _ in range(5):
        for p, q in zip(ours, twins, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        one.step()
        other.step()
    moved = max(float((p - s).detach().abs().max()) for p, s in zip(ours, start, strict=True))
    difference = max(float((p - q).detach().abs().max()) for p, q in zip(ours, twins, strict=True))
    print(f"largest move {moved:.1e}, largest difference {difference:.1e}")
    assert difference < 0.01 * moved  # torch's rounds to bf16


def layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def descend(net: nn.Module, optimiser: Optimisers, steps: int) -> float:
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(32, 4, generator=rng)
    loss = torch.zeros(())
    for _ in range(steps):
        loss = ((net(x) - x[:, :2] * x[:, 2:]) ** 2).mean()
        loss.backward()
        optimiser.set_rate(1e-2)
        optimiser.step()
        optimiser.zero_grad()
    return float(loss.detach())


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_loaded_state_continues_identically(kind: str) -> None:
    net = layers()
    optimiser = Optimisers(net, kind, 1e-2, 0.01)
    first = descend(net, optimiser, 1)
    descend(net, optimiser, 30)
    twin = copy.deepcopy(net)
    again = Optimisers(twin, kind, 1e-2, 0.01)
    again.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    assert descend(net, optimiser, 10) == descend(twin, again, 10) < first


def test_checkpoints_from_before_0_4_are_read() -> None:
    net = layers()
    optimiser = Optimisers(net, "adamw", 1e-2, 0.01)
    descend(net, optimiser, 3)
    old = optimiser.state_dict()["parts"][0]
    Optimisers(net, "adamw", 1e-2, 0.01).load_state_dict(old)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_checkpoints_move_between_devices(kind: str) -> None:
    """Device-specific group values (rate tensor, capturable steps) aren't loaded."""
    net = layers()
    optimiser = Optimisers(net, kind, 1e-2, 0.01)
    descend(net, optimiser, 5)
    twin = copy.deepcopy(net)
    again = Optimisers(twin, kind, 3e-3, 0.01)
    foreign = copy.deepcopy(optimiser.state_dict())
    for part in foreign["parts"]:
        for group in part["param_groups"]:
            assert isinstance(group["lr"], float)
            group |= {"lr": torch.tensor(1.0), "capturable": True, "foreach": True, "fused": None}
    again.load_state_dict(foreign)
    for mine, theirs in zip(again._groups(), optimiser._groups(), strict=True):
        assert {k: v for k, v in mine.items() if k not in ("params", "lr")} == {
            k: v for k, v in theirs.items() if k not in ("params", "lr")
        }
        assert mine["lr"] is again._rate
    assert all(t.dtype == torch.float32 for t in again.tensors())
    assert descend(net, optimiser, 5) == descend(twin, again, 5)


def test_a_checkpoint_of_another_optimiser_is_rejected() -> None:
    net = layers()
    state = Optimisers(net, "adamw", 1e-2, 0.01).state_dict()
    with pytest.raises(DataError, match="another optimiser"):
        Optimisers(net, "muon", 1e-2, 0.01).load_state_dict(state)


def test_an_unknown_optimiser_lists_the_valid_ones() -> None:
    with pytest.raises(UsageError, match=r"'sgd'.*adamw, muon"):
        Optimisers(layers(), "sgd", 1e-2, 0.0)


def test_a_network_is_trained_by_muon(tmp_path: Path) -> None:
    corpus = buzzing_corpus(tmp_path)
    losses: list[float] = []

    def note(report: dict[str, Any]) -> None:
        if report["kind"] == "train":
            losses.append(report["loss"])

    train(config(corpus, tmp_path / "run", steps=60, optimiser="muon"), note)
    assert losses[-1] < losses[0]
