"""The source of a run's batches, and the errors when its device fails."""

from __future__ import annotations

import dataclasses
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import buzzing_corpus, config, write_toml
from torch import Tensor

from rtmtass.cli.main import main
from rtmtass.errors import DeviceError, UsageError
from rtmtass.training.data import unpack
from rtmtass.training.data.corpus import Corpus
from rtmtass.training.data.loader import batches, corpus_of, open_examples
from rtmtass.training.data.recipe import Recipe
from rtmtass.training.distributed import DistributedContext
from rtmtass.training.train import TrainConfig, Trainer, train

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings to train on."""
    return buzzing_corpus(tmp_path_factory.mktemp("corpus"))


class StandIn:
    """Replaces DeviceExamples: batches of noise, a function of seed and step."""

    made: list[int]
    rooms = 7

    def __init__(
        self,
        corpus: Corpus,
        split: str,
        *,
        seconds: float,
        batch: int,
        seed: int,
        device: torch.device,
        recipe: Recipe | None = None,
        bank_sizes: Mapping[str, int] | None = None,
    ) -> None:
        self.recipe = recipe
        self.shape, self.seed, self.device = (batch, 3, round(16000 * seconds)), seed, device
        self.pinned = dict(bank_sizes or {})
        self.bank_sizes = {"rooms": StandIn.rooms}
        self.made = []
        StandIn.last = self  # type: ignore[attr-defined]

    def __enter__(self) -> StandIn:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing."""

    def batch(self, step: int) -> Tensor:
        self.made.append(step)
        generator = torch.Generator(self.device).manual_seed(1000 * self.seed + step)
        return 0.1 * torch.randn(self.shape, generator=generator, device=self.device)


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use `StandIn` for `examples = "device"`."""
    module = types.ModuleType("rtmtass.training.data.device.examples")
    module.DeviceExamples = StandIn  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.usefixtures("on_device")
def test_device_examples_resume_bit_identically(corpus: Path, tmp_path: Path) -> None:
    made = {"examples": "device", "carryover_prob": 0.5, "schedule": "wsd", "decay": 0.0}
    whole = config(corpus, tmp_path / "whole", **made, steps=6)
    parts = config(corpus, tmp_path / "parts", **made, steps=3)
    train(whole, lambda _: None)
    train(parts, lambda _: None)
    train(parts, lambda _: None)
    assert StandIn.last.made == [3, 4, 5]  # type: ignore[attr-defined]
    a, b = (torch.load(Path(c.runs) / "last.pt", weights_only=True) for c in (whole, parts))
    for part in ("weights", "average"):
        assert all(torch.equal(a[part][name], b[part][name]) for name in a[part])
    assert all(torch.equal(x, y) for x, y in zip(a["memories"], b["memories"], strict=True))


@pytest.mark.usefixtures("on_device")
def test_a_machine_with_smaller_banks_keeps_the_pinned_sizes(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(corpus, tmp_path, examples="device", schedule="wsd", decay=0.0, steps=1)
    for here, pinned in ((7, {}), (3, {"rooms": 7}), (9, {"rooms": 7})):
        monkeypatch.setattr(StandIn, "rooms", min(here, 7) if pinned else here)
        train(settings, lambda _: None)
        assert StandIn.last.pinned == pinned  # type: ignore[attr-defined]
        assert torch.load(tmp_path / "last.pt", weights_only=True)["bank_sizes"] == {"rooms": 7}


@pytest.mark.usefixtures("on_device")
@pytest.mark.parametrize("examples", ["device", "host"])
def test_the_table_recipe_changes_the_examples(examples: str, corpus: Path, tmp_path: Path) -> None:
    settings = config(corpus, tmp_path, examples=examples, workers=0)
    changed = dataclasses.replace(settings, recipe={"one_alone": 1.0, "all_silent": 0, "pop": 0.0})
    assert (settings.mixing(), changed.mixing().one_alone) == (Recipe(), 1.0)
    with open_examples(changed, corpus_of(changed), CPU) as source:
        if examples == "device":
            assert source.recipe == changed.mixing()  # type: ignore[attr-defined]
        else:
            audible = np.abs(source.batch(0)).max(axis=-1) > 0
            assert (audible.sum(axis=1) <= 1).all()


@pytest.mark.usefixtures("on_device")
def test_processes_use_interleaved_batches(corpus: Path, tmp_path: Path) -> None:
    settings = config(corpus, tmp_path, examples="device")
    with open_examples(settings, corpus_of(settings), CPU, {"music": 3}) as examples:
        feed = batches(examples, 5, 2)
        assert [next(feed).shape for _ in range(3)] == [(4, 3, 16000)] * 3
        assert examples.pinned == {"music": 3}  # type: ignore[attr-defined]
        assert examples.made == [5, 7, 9]  # type: ignore[attr-defined]


def test_packs_are_decoded_once_with_progress(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def unpacked(packs: Path, cache: Path, progress: Callable[..., None] | None = None) -> Corpus:
        seen.append((packs, cache))
        if progress is not None:
            progress("packs", 1, 2)
        return Corpus(corpus, cache)

    monkeypatch.setattr(unpack, "corpus_of_packs", unpacked)
    settings = config(
        tmp_path / "nothing", tmp_path / "run", packs=str(tmp_path / "packs"), steps=1
    )
    settings = dataclasses.replace(settings, cache=str(corpus / "cache"))
    (tmp_path / "packs").mkdir()
    (tmp_path / "packs" / "SHA256SUMS").touch()
    write_toml(tmp_path / "c.toml", settings)
    assert main(["train", str(tmp_path / "c.toml")]) == 0
    assert seen == [(tmp_path / "packs", corpus / "cache")]  # once


def fail(error: Exception, step: int) -> Callable[[Trainer, Any], None]:
    launch = Trainer.launch

    def launch_or_fail(self: Trainer, batch: Any) -> None:
        if self.step == step:
            raise error
        launch(self, batch)

    return launch_or_fail


DEVICE_FAILURE = getattr(torch, "AcceleratorError", RuntimeError)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
            r"^cpu ran out of memory at step 4, batch = 4, seconds = 1; the last checkpoint is"
            r" .*last.pt, step 3; set a smaller batch in the config and start the same command",
        ),
        (
            RuntimeError("CUDA error: unspecified launch failure\nmore"),
            r"^cpu stopped working at step 4 \(CUDA error: unspecified launch failure\); the last"
            r" checkpoint is .*last.pt, step 3; start the same command again",
        ),
    ],
)
def test_a_device_failure_names_the_last_checkpoint(
    error: Exception, message: str, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(config(corpus, tmp_path, steps=3), lambda _: None)
    before = (tmp_path / "last.pt").read_bytes()
    monkeypatch.setattr(Trainer, "launch", fail(error, 4))
    with pytest.raises(DeviceError, match=message) as caught:
        train(config(corpus, tmp_path, steps=6), lambda _: None)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "last.pt").read_bytes() == before
    monkeypatch.undo()
    train(config(corpus, tmp_path, steps=6), lambda _: None)  # the checkpoint is usable


def test_a_device_failure_at_the_first_step_has_no_checkpoint(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = DEVICE_FAILURE.__new__(DEVICE_FAILURE, "CUDA error: device lost")
    made.args = ("CUDA error: device lost",)
    monkeypatch.setattr(Trainer, "launch", fail(made, 0))
    with pytest.raises(DeviceError, match=r"no checkpoint was written yet; start the same"):
        train(config(corpus, tmp_path), lambda _: None)
    monkeypatch.setattr(Trainer, "launch", fail(RuntimeError("a bug"), 0))
    with pytest.raises(RuntimeError, match="a bug"):  # keeps its traceback
        train(config(corpus, tmp_path), lambda _: None)


def test_an_unavailable_device_is_an_error(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise RuntimeError("Found no NVIDIA driver on your system. Please check\nmore")

    monkeypatch.setattr(torch.cuda, "init", broken)
    with pytest.raises(UsageError, match=r"Found no NVIDIA driver.*--device cpu"):
        train(config(corpus, tmp_path / "run", device="cuda"), lambda _: None)
    with pytest.raises(UsageError, match="no device 'abacus'"):
        DistributedContext("abacus")
    assert not (tmp_path / "run").exists()


def test_nothing_is_compiled_if_a_graph_is_captured() -> None:
    assert TrainConfig(device="cuda").uses_graph
    assert not TrainConfig(device="cuda").uses_compile
    assert TrainConfig(device="cuda", graph=False).uses_compile
    assert TrainConfig(preset="gated").uses_compile
    in_bands = TrainConfig()
    assert not in_bands.uses_compile
    assert dataclasses.replace(in_bands, compile=True).uses_compile
    assert dataclasses.replace(in_bands, bf16=True).uses_compile
    assert dataclasses.replace(in_bands, device="cuda", graph=False).uses_compile


def test_bf16_is_used_on_a_gpu_unless_told_otherwise() -> None:
    assert [TrainConfig(device=name).uses_bf16 for name in ("cpu", "cuda:1")] == [False, True]
    assert [TrainConfig(device=name, bf16=True).uses_bf16 for name in ("cpu", "cuda")] == [True] * 2
    assert not TrainConfig(device="cuda", bf16=False).uses_bf16
    assert not TrainConfig().uses_graph
