"""What a crash, a full disk or a careless copy leaves of a run: it resumes, or says what to do."""

from __future__ import annotations

import csv
import os
import resource
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import buzzing_corpus, config

from rtmtass.errors import DataError, OutputError
from rtmtass.training import checkpoints
from rtmtass.training.checkpoints import has_best, publish, read_last
from rtmtass.training.data.build import _write_index
from rtmtass.training.data.corpus import IndexRow, read_index
from rtmtass.training.log import Log
from rtmtass.training.train import Trainer, _explain_failures
from rtmtass.weights import open_model

BATCH = 0.1 * np.random.default_rng(0).standard_normal((2, 3, 5120), np.float32)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return buzzing_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def saved(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with a checkpoint at step 1, a best model and a log; only to copy."""
    folder = tmp_path_factory.mktemp("run")
    trainer = Trainer(config(corpus, folder), lambda _: None)
    trainer.train_step(BATCH)
    trainer.validate([(BATCH[0].sum(axis=0), BATCH[0])])
    trainer._log_figures("train", loss=1.0, gradient=1.0, speed=1.0)
    trainer.save()
    return folder


@pytest.fixture
def run(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "a run"))


@contextmanager
def full_disk(n_bytes: int) -> Iterator[None]:
    """Let no file grow beyond `n_bytes`; Python raises an OSError where the kernel refuses."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "half": data[: len(data) // 2],
            "last byte": data[:-1],
            "head": data[:100],
            "zeros": bytes(len(data)),
            "text": b"not a checkpoint\n",
        }[how]
    )


@pytest.mark.parametrize("how", ["empty", "half", "last byte", "head", "zeros", "text"])
def test_a_damaged_checkpoint_says_what_to_do(how: str, corpus: Path, run: Path) -> None:
    damage(run / "last.pt", how)
    with pytest.raises(DataError) as caught:
        Trainer(config(corpus, run), lambda _: None).resume()
    message = str(caught.value)
    assert "\n" not in message
    assert f"{run / 'last.pt'}, " in message
    assert "is cut off or damaged" in message
    command, _, setting = message.partition("so far: ")[2].partition(" and set ")
    subprocess.run(shlex.split(command), check=True)  # the advice works when typed
    assert setting == f'start_from = "{run / "best"}"'
    fresh = Trainer(config(corpus, run, start_from=str(run / "best")), lambda _: None)
    assert not fresh.resume()


@pytest.mark.parametrize(
    "content", [{}, [1], {"step": 3}, {**dict.fromkeys(checkpoints.KEYS), "weights": {}}]
)
def test_another_file_in_its_place_is_one_line(content: Any, corpus: Path, run: Path) -> None:
    torch.save(content, run / "last.pt")
    with pytest.raises(DataError, match="is cut off or damaged"):
        Trainer(config(corpus, run), lambda _: None).resume()


@pytest.mark.parametrize("key", ["weights", "average", "optimiser", "branch"])
def test_a_checkpoint_with_a_wrong_part_is_one_line(key: str, corpus: Path, run: Path) -> None:
    values = torch.load(run / "last.pt", weights_only=True)
    torch.save({**values, key: {"in_proj.weight": torch.zeros(3)}}, run / "last.pt")
    with pytest.raises(DataError, match="is cut off or damaged"):
        Trainer(config(corpus, run), lambda _: None).resume()


@pytest.mark.parametrize("name", ["train.csv", "dev.csv"])
@pytest.mark.parametrize(
    "text",
    [b"", b"\n\n", b"\r\n", b"\0" * 512, b"HEAD\r\n\r\n\r\nROW\r\n\r\n", b"HEAD\r\nROW\r\n9,0.",
     b"HEAD\r\nROW\r\n" + b"\0" * 100, b"HEAD\r\nROW\r\nx,y\r\nstep,loss\r\n"],
)  # fmt: skip
def test_a_log_with_blank_or_cut_rows_goes_on(
    text: bytes, name: str, corpus: Path, run: Path
) -> None:
    head, row = (run / name).read_bytes().splitlines()
    (run / name).write_bytes(text.replace(b"HEAD", head).replace(b"ROW", row))
    trainer = Trainer(config(corpus, run), lambda _: None)
    assert trainer.resume()
    trainer.step = 2
    kind, values = name.removesuffix(".csv"), head.decode().split(",")[4:]
    trainer._log_figures(kind, **dict.fromkeys(values, 2.0))
    with (run / name).open(newline="") as file:
        steps = [line["step"] for line in csv.DictReader(file)]
    assert steps == (["1", "2"] if b"ROW" in text else ["2"])


def test_a_log_that_is_another_table_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="no column step; move it away: mv ") as caught:
        Log(tmp_path, lambda _: None).rewind(3)
    subprocess.run(shlex.split(str(caught.value).partition("away: ")[2]), check=True)
    Log(tmp_path, lambda _: None).rewind(3)


@pytest.mark.parametrize("gone", ["", "config.json", "model.safetensors"])
def test_a_missing_or_altered_best_is_written_again(gone: str, corpus: Path, run: Path) -> None:
    shutil.rmtree(run / "best") if not gone else (run / "best" / gone).write_bytes(b"{}")
    trainer = Trainer(config(corpus, run), lambda _: None)
    assert trainer.resume()
    trainer.validate([(BATCH[0].sum(axis=0), BATCH[0])])
    assert open_model(str(run / "best")).config.name == "tiny"


def test_weights_and_config_of_the_best_change_together(
    corpus: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever file operation a kill comes after, the best model opens."""

    class Killed(BaseException):
        pass

    trainer = Trainer(config(corpus, run), lambda _: None)
    (run / "one").mkdir()
    (run / "two").touch()
    is_atomic = checkpoints._exchange(run / "one", run / "two")
    assert is_atomic == (run / "two").is_dir()
    calls: list[str] = []

    def kill_at(count: int, name: str) -> Any:
        real = getattr(Path, name)

        def operation(self: Path, *arguments: Any, **named: Any) -> Any:
            calls.append(name)
            if len(calls) > count:
                raise Killed
            return real(self, *arguments, **named)

        return operation

    for can_exchange in (True, False):
        if not can_exchange:
            monkeypatch.setattr(checkpoints, "_exchange", lambda *_: False)
        for count in range(40):
            calls.clear()
            with monkeypatch.context() as patched:
                for name in ("write_bytes", "replace", "rename", "mkdir", "unlink"):
                    patched.setattr(Path, name, kill_at(count, name))
                try:
                    publish(run, trainer.model_config, trainer.ema.values, {"steps": count})
                    break
                except Killed:
                    pass
            if can_exchange and is_atomic:
                open_model(str(run / "best"))
            assert has_best(run)
        else:
            pytest.fail("it never finished")
        assert open_model(str(run / "best")).about["training"] == {"steps": count}
        assert count > 2
        assert sorted(p.name for p in run.iterdir() if "best" in p.name) == ["best"]


def test_a_full_disk_keeps_the_previous_checkpoint(corpus: Path, run: Path) -> None:
    before = (run / "last.pt").read_bytes()
    trainer = Trainer(config(corpus, run), lambda _: None)
    trainer.resume()
    trainer.train_step(BATCH)
    with full_disk(4096), pytest.raises(OutputError, match=r"at step 2: .*before it is kept; free"):
        trainer.save()
    assert (run / "last.pt").read_bytes() == before
    assert not (run / "last.pt.part").exists()
    trainer.save()
    again = read_last(run, trainer.model_config, torch.device("cpu"))
    assert again is not None
    assert again["step"] == 2


def test_a_full_disk_keeps_the_previous_best_model(corpus: Path, run: Path) -> None:
    trainer = Trainer(config(corpus, run), lambda _: None)
    with full_disk(4096), pytest.raises(OutputError, match="before it is kept; free some space"):
        publish(run, trainer.model_config, trainer.ema.values, {"steps": 9})
    assert open_model(str(run / "best")).about["training"]["steps"] == 1
    assert not (run / "best.part").exists()


def test_a_full_disk_at_any_other_write_is_one_line(corpus: Path, run: Path) -> None:
    trainer = Trainer(config(corpus, run), lambda _: None)
    trainer.resume()
    size = (run / "train.csv").stat().st_size
    told = pytest.raises(OutputError, match=r"at step 1; the last checkpoint is .* free some space")
    with full_disk(size), told, _explain_failures(trainer):
        trainer._log_figures("train", loss=1.0, gradient=1.0, speed=1.0)
    assert trainer.resume()


def test_an_other_error_of_a_file_stays_a_traceback(corpus: Path, run: Path) -> None:
    trainer = Trainer(config(corpus, run), lambda _: None)
    with pytest.raises(FileNotFoundError), _explain_failures(trainer):
        os.stat(run / "none")


def test_a_log_reopens_with_its_figures(tmp_path: Path) -> None:
    log = Log(tmp_path, lambda _: None)
    for step in (1, 2, 3):
        log.write("train", 0.5, {"step": step, "loss": float("nan"), "speed": 1e-20})
    log.rewind(2)
    log.write("train", 0.5, {"step": 3, "loss": 2.5, "speed": float("inf")})
    with (tmp_path / "train.csv").open(newline="", encoding="utf-8") as file:
        rows = [[float(value) for value in row.values()] for row in csv.DictReader(file)]
    np.testing.assert_equal(rows, [[1, np.nan, 1e-20], [2, np.nan, 1e-20], [3, 2.5, np.inf]])


@pytest.mark.parametrize(
    "name", ['a,"b"', "line\nbreak", "tab\t; é 日本", "'=1+1'", " blank ", "#x"]
)
def test_an_index_with_any_names_reopens(name: str, tmp_path: Path) -> None:
    row = IndexRow("speech", name, f"g {name}", "train", f"p/{name}.flac", 1.5, f"CC0 {name}")
    _write_index(tmp_path, [row, row])
    assert read_index(tmp_path / "index.csv") == [row, row]
