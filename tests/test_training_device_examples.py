"""Batches made on a device: a function of seed and step, of one split, without waiting for it."""

from __future__ import annotations

import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from corpora import TONES_HZ, make_corpus, share_at
from device_corpora import PLAIN, USUAL, changed, device
from torch.utils._python_dispatch import TorchDispatchMode

from rtmtass.config import STEMS
from rtmtass.errors import DataError
from rtmtass.training.data.corpus import Corpus
from rtmtass.training.data.device import examples as device_examples
from rtmtass.training.data.device.rng import Draws
from rtmtass.training.data.examples import ExampleMaker
from rtmtass.training.data.loader import batches

# --- a function of seed and step ---------------------------------------------------------------


def test_a_batch_is_a_function_of_seed_and_step(rich: Corpus) -> None:
    one, two = device(rich), device(rich)
    forward = [one.batch(step) for step in range(4)]
    backward = [two.batch(step) for step in (3, 0, 2, 1)]
    for step, place in ((3, 0), (0, 1), (2, 2), (1, 3)):
        assert torch.equal(forward[step], backward[place])
    assert forward[0].shape == (16, 3, 8000)
    assert forward[0].dtype == torch.float32
    examples = {stems.numpy().tobytes() for batch in forward for stems in batch if stems.any()}
    assert len(examples) == sum(bool(stems.any()) for batch in forward for stems in batch)
    assert not torch.equal(device(rich, seed=8).batch(0), forward[0])
    listed = list(islice(batches(device(rich), 1, 2), 2))
    assert isinstance(listed[1], torch.Tensor)
    assert torch.equal(listed[1], forward[3])
    assert device(rich).seconds == 0.5


def test_the_fingerprint_equals_the_hosts(rich: Corpus) -> None:
    maker = ExampleMaker(rich, "train")
    assert device(rich).fingerprint == maker.fingerprint
    assert device(rich).bank_sizes == maker.bank_sizes == {
        "singing": 2, "generated": 3, "rooms": 3, "revoiced": 2,
    }  # fmt: skip
    assert device(rich, recipe=PLAIN).fingerprint != maker.fingerprint
    sizes = {"generated": 1, "singing": 0}
    pinned = device(rich, bank_sizes=sizes)
    assert pinned.fingerprint == ExampleMaker(rich, "train", bank_sizes=sizes).fingerprint
    assert pinned.bank_sizes["generated"] == 1
    assert torch.isfinite(pinned.batch(0)).all()


@pytest.mark.parametrize(("split", "other"), [("train", "dev"), ("dev", "train")])
def test_only_the_given_split_is_used(pitched: Corpus, split: str, other: str) -> None:
    examples = device(pitched, split, batch=40, recipe=changed(second_piece=0.5))
    for stems in examples.batch(0).numpy():
        for role, stem in zip(STEMS, stems, strict=True):
            assert share_at(stem, TONES_HZ[role, split]) > 0.9
            assert share_at(stem, TONES_HZ[role, other]) < 1e-3


def test_a_missing_role_is_an_error(pitched: Corpus, tmp_path: Path) -> None:
    lines = (pitched.folder / "index.csv").read_text().splitlines()
    folder = make_corpus(tmp_path / "corpus")
    (folder / "index.csv").write_text("\n".join(x for x in lines if "music" not in x))
    with pytest.raises(DataError, match="no music for train"):
        device(Corpus(folder, tmp_path / "cache"))


def test_too_many_recordings_for_the_memory_are_an_error(rich: Corpus) -> None:
    with pytest.raises(
        DataError, match=r"recordings and banks are .* hours beside the training; use a smaller"
    ):
        device(rich, free_bytes=lambda _: 1 << 20)
    device(rich, free_bytes=lambda _: 1 << 30)


# --- nothing waits for the device --------------------------------------------------------------

VIEWS = {
    "alias", "as_strided", "detach", "empty", "expand", "permute", "select", "slice", "split",
    "squeeze", "t", "transpose", "unbind", "unfold", "unsqueeze", "view", "_unsafe_view",
}  # fmt: skip
WAITING = {
    "_local_scalar_dense", "item", "nonzero", "masked_select", "is_nonzero", "equal", "bincount",
    "unique", "_unique2", "repeat_interleave", "multinomial", "lift_fresh",
}  # fmt: skip
"""Operations that read from a GPU, or (the last) send a constant there."""


class Watch(TorchDispatchMode):
    """Counts operations, and rejects those that wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.split(".")[0]
        assert name not in WAITING, name
        if name in ("index", "index_put_", "index_put"):  # as many rows as are true
            assert not any(i is not None and i.dtype == torch.bool for i in args[1]), name
        self.count += name not in VIEWS
        return func(*args, **(kwargs or {}))


def test_a_batch_never_reads_from_the_device(rich: Corpus) -> None:
    examples = device(rich, batch=64, recipe=USUAL)
    examples.batch(0)  # fill the caches
    with Watch() as watch:
        examples.batch(1)
    assert watch.count < 900
    with Watch() as again, pytest.raises(AssertionError, match="_local_scalar_dense"):
        float(torch.ones(1))
    assert again.count == 1  # torch.ones itself


def test_shapes_dont_depend_on_random_draws(rich: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """On torch's meta device, reading a value is an error."""

    class NoNumbers(Draws):
        def __init__(self, device: torch.device) -> None:
            self._device = device
            self._generator = None  # type: ignore[assignment]
            self._pool, self._at = torch.empty(0, device=device), 0

        def restart(self, seed: int, step: int) -> None:
            pass

    monkeypatch.setattr(device_examples, "Draws", NoNumbers)
    stems = device(rich, device="meta").batch(0)
    assert stems.shape == (16, 3, 8000)
    with pytest.raises(RuntimeError, match="meta tensors"):
        stems.sum().item()


def test_only_torch_numpy_and_soundfile_are_imported() -> None:
    code = """if True:
        import sys
        from rtmtass.training.data.device import examples
        print(sorted({"scipy", "numba", "soxr"} & set(sys.modules)))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
