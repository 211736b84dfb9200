"""The training step: the same captured or eager, unaffected by bad batches, without waiting."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import NET, config
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rtmtass.runtime.torch.steps import Body
from rtmtass.training import optimisers
from rtmtass.training.accumulator import Meter, MetricAccumulator
from rtmtass.training.distributed import DistributedContext
from rtmtass.training.schedule import Span
from rtmtass.training.train import Trainer

CARRIED = {"carryover_prob": 0.5, "optimiser": "muon", "steps": 100}


def batches(n: int, batch: int = 4) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    return [0.1 * rng.standard_normal((batch, 3, 5120), np.float32) for _ in range(n)]


def trainer(folder: Path, capture: Callable[[Body], Body] | None = None, **changes: Any) -> Trainer:
    settings = config(folder, folder / "run", **{**CARRIED, **changes})
    return Trainer(settings, lambda _: None, capture=capture)


def standing(run: Trainer) -> list[Tensor]:
    """Return all tensors that a step changes."""
    return [tensor.detach().clone() for tensor in run.step_graph._tensors()]


def assert_equal(a: list[Tensor], b: list[Tensor]) -> None:
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert torch.equal(x, y)


def rehearse(body: Body) -> Body:
    """Mimic `cuda_graph` on a CPU: run a few warm-ups, and return a function that runs it again."""
    for _ in range(3):
        body()
    return body


@pytest.mark.parametrize("changes", [{}, {"carryover_prob": 0.0, "optimiser": "adamw"}])
def test_a_captured_step_equals_an_eager_one(changes: dict[str, Any], tmp_path: Path) -> None:
    seen = []

    def capture(body: Body) -> Body:
        seen.append(body)
        return rehearse(body)

    wet = {"net": {**NET, "dropout": 0.3}, **changes}
    plain, captured = trainer(tmp_path, **wet), trainer(tmp_path, capture, **wet)
    for batch in batches(5):
        assert plain.train_step(batch) == captured.train_step(batch)
        assert_equal(standing(plain), standing(captured))
    assert len(seen) == 1
    assert captured.step_graph.trouble == ""
    for batch in batches(3, batch=2):  # another shape: one eager step, then a new capture
        assert plain.train_step(batch) == captured.train_step(batch)
    assert_equal(standing(plain), standing(captured))
    assert len(seen) == 2


def test_a_failed_capture_warns_once(tmp_path: Path) -> None:
    def refuse(body: Body) -> Body:
        body()
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    plain, refused = trainer(tmp_path), trainer(tmp_path, refuse)
    first, second, *rest = batches(5)
    refused.train_step(first)
    with pytest.warns(RuntimeWarning, match="no CUDA graph: operation not permitted"):
        refused.train_step(second)
    for batch in rest:
        refused.train_step(batch)
    assert refused.step_graph.trouble == "operation not permitted when stream is capturing"
    for batch in (first, second, *rest):
        plain.train_step(batch)
    assert_equal(standing(plain), standing(refused))


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
@pytest.mark.parametrize("capture", [None, rehearse])
def test_a_bad_batch_changes_nothing(
    capture: Callable[[Body], Body] | None, optimiser: str, tmp_path: Path
) -> None:
    run = trainer(tmp_path, capture, optimiser=optimiser)
    good, bad = batches(3), np.full((4, 3, 5120), np.inf, np.float32)
    for batch in good:
        run.train_step(batch)
    before = standing(run)[:-1]  # the accumulator counts it
    loss, norm = run.train_step(bad)
    assert not np.isfinite(loss)
    assert not np.isfinite(norm)
    assert run.skipped == 1
    assert_equal(standing(run)[:-1], before)
    run.train_step(good[0])
    assert run.skipped == 1
    assert all(t.isfinite().all() for t in standing(run))
    assert not torch.equal(standing(run)[0], before[0])


def test_the_loss_scale_doesnt_change_the_result(tmp_path: Path) -> None:
    plain, scaled = trainer(tmp_path), trainer(tmp_path)
    scaled.step_graph._scale = 1024.0
    for batch in batches(3):
        a, b = plain.train_step(batch), scaled.train_step(batch)
        assert a == pytest.approx(b, rel=1e-6)
    for x, y in zip(plain.net.parameters(), scaled.net.parameters(), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


class Watch(TorchDispatchMode):
    """Records operations that read a tensor of the host or a value from the device."""

    def __init__(self) -> None:
        super().__init__()
        self.host: list[str] = []
        self.values: list[str] = []
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name, self.operations = str(func), self.operations + 1
        flat, _ = torch.utils._pytree.tree_flatten((args, kwargs, out))
        if any(isinstance(part, Tensor) and part.device.type == "cpu" for part in flat):
            self.host.append(name)
        if any(word in name for word in ("_local_scalar_dense", "nonzero", "aten.equal")):
            self.values.append(name)
        return out


class NoAdamW(torch.optim.Optimizer):
    """Replaces torch's fused AdamW, which doesn't support the meta device and never waits."""

    def __init__(self, groups: Any, lr: Any, **_: Any) -> None:
        super().__init__(groups, {"lr": lr})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        pass


@pytest.mark.parametrize("changes", [{}, {"net": {**NET, "subband_bins": 8, "level_pop_s": 0.35}}])
def test_a_step_never_waits_for_the_device(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch's meta device has no values and can't be mixed with other devices, like a GPU."""
    monkeypatch.setattr(optimisers, "AdamW", NoAdamW)
    distributed = DistributedContext("cpu")
    distributed.device = torch.device("meta")
    settings = config(tmp_path, tmp_path / "run", **{**CARRIED, **changes})
    run = Trainer(settings, lambda _: None, distributed)
    run.step_graph._compute.__self__.device = torch.device("cpu")  # type: ignore[attr-defined]
    run.step_graph.run(torch.zeros(4, 3, 5120, device="meta"), 0, 0, 1e-3)
    with Watch() as watch:
        run.step_graph._body()
    assert watch.operations > 500
    assert watch.host == []
    assert watch.values == []


def test_reading_the_accumulator_resets_it(tmp_path: Path) -> None:
    accumulator, meter = MetricAccumulator(torch.device("cpu")), Meter()
    good, bad = torch.tensor(True), torch.tensor(False)
    nan = torch.tensor(float("nan"))
    for loss in (1.0, 2.0):
        accumulator.add(torch.tensor(loss), torch.tensor(7.0), good)
    for _ in range(3):
        accumulator.add(nan, torch.tensor(8.0), bad)
    figures = accumulator.read()
    assert (figures.loss_sum, figures.good, figures.skipped, figures.in_a_row) == (3.0, 2, 3, 3)
    assert np.isnan(figures.loss)
    assert figures.norm == 8.0
    meter.add(figures, 5)
    assert meter.mean == 1.5
    accumulator.add(nan, torch.tensor(9.0), bad)
    figures = accumulator.read()
    assert (figures.good, figures.skipped, figures.in_a_row) == (
        0,
        1,
        4,
    )  # the run of skipped steps goes on
    accumulator.add(torch.tensor(5.0), torch.tensor(1.0), good)
    accumulator.add(nan, torch.tensor(9.0), bad)
    assert accumulator.read().in_a_row == 4  # the longest, not the last
    assert accumulator.read().in_a_row == 1
    meter.add(figures, 1)
    assert (meter.mean, meter.steps) == (1.5, 6)


def test_a_gpu_runs_at_most_fifty_steps_ahead(tmp_path: Path) -> None:
    run = trainer(tmp_path, steps=170)
    assert run._steps_ahead(1.0) == 1  # a CPU isn't asynchronous
    run.device = torch.device("cuda")
    assert run._steps_ahead(0.0) == 50
    run.step = 130
    assert run._steps_ahead(0.1) == 20  # up to the next multiple of 50
    run.step = 150
    assert run._steps_ahead(0.1) == 20  # up to the last step
    run.step = 0
    by_clock = Span(minutes=1.0, steps=0, first_s=100.0)
    run.schedule = run.schedule.__class__("wsd", 1e-3, 0, 0.0, by_clock)
    run.elapsed_s = 100.0 + 58.0
    assert run._steps_ahead(0.3) == 7
    assert run._steps_ahead(30.0) == 1


def test_parts_are_marked_in_order(tmp_path: Path) -> None:
    run = trainer(tmp_path, rehearse)
    seen: list[str] = []
    run.step_graph.mark = seen.append
    parts = ["data copy", "forward", "backward", "clip, optimiser", "EMA", "state, metrics"]
    for batch in batches(2):
        run.launch(batch)
    # Warm-ups aren't marked, nor are the parts of a CUDA graph's replay.
    assert seen == [*parts, *parts, "whole step"]
