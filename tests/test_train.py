"""Training: it learns, resumes bit-identically, skips NaN batches, and writes a usable model."""

from __future__ import annotations

import csv
import json
import math
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from networks import seasoned, tiny
from runs import NET, buzzing_corpus, config, write_toml

import rtmtass
from rtmtass.cli.main import main
from rtmtass.config import STEMS
from rtmtass.errors import DataError, MissingPartError, UsageError
from rtmtass.evaluation.evaluate import Clip, evaluate
from rtmtass.evaluation.metrics import si_sdr
from rtmtass.net.networks import new_network
from rtmtass.training.lineage import totals
from rtmtass.training.log import Log
from rtmtass.training.state_carryover import StateCarryover, map_state, state_tensors
from rtmtass.training.train import TrainConfig, Trainer, train
from rtmtass.weights import describe, open_model


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings to train on."""
    return buzzing_corpus(tmp_path_factory.mktemp("corpus"))


def test_training_lowers_the_loss_and_writes_a_model(corpus: Path, tmp_path: Path) -> None:
    reports: list[dict[str, Any]] = []
    best = train(config(corpus, tmp_path / "run", steps=60), reports.append)
    losses = [r["loss"] for r in reports if r["kind"] == "train"]
    assert losses[-1] < losses[0]
    separator = rtmtass.load(str(best))
    mixture = soundfile.read(corpus / "music-dev-0.wav", dtype="float32")[0]
    np.testing.assert_allclose(separator.separate(mixture).sum(axis=0), mixture, atol=1e-6)
    assert (tmp_path / "run" / "train.csv").read_text().startswith("step,")


def test_a_resumed_run_equals_an_uninterrupted_one(corpus: Path, tmp_path: Path) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    train(config(corpus, whole), lambda _: None)
    stopped = config(corpus, halves)

    class Stop(Exception):
        pass

    trainer = Trainer(stopped, lambda _: None)
    from rtmtass.training.data.batches import MixtureStream
    from rtmtass.training.data.corpus import Corpus

    stream = MixtureStream(
        Corpus(Path(stopped.corpus), Path(stopped.cache)),
        "train",
        seconds=1.0,
        batch=4,
        seed=0,
        workers=0,
    )
    for step in range(3):
        trainer.train_step(stream.batch(step))
    trainer.bank_sizes = stream.bank_sizes
    trainer.save()
    train(stopped, lambda _: None)
    a, b = (torch.load(run / "last.pt", weights_only=True)["weights"] for run in (whole, halves))
    for name, value in a.items():
        torch.testing.assert_close(b[name], value, rtol=0, atol=0, msg=name)


def test_a_batch_with_nan_is_skipped(corpus: Path, tmp_path: Path) -> None:
    trainer = Trainer(config(corpus, tmp_path), lambda _: None)
    before = {k: v.clone() for k, v in trainer.net.state_dict().items()}
    loss, _ = trainer.train_step(np.full((4, 3, 16000), np.nan, np.float32))
    assert math.isnan(loss)
    assert trainer.skipped == 1
    # Also the norms' statistics, which would otherwise stay NaN.
    assert all(torch.equal(v, before[k]) for k, v in trainer.net.state_dict().items())
    trainer.train_step(0.1 * np.random.default_rng(0).standard_normal((4, 3, 16000), np.float32))
    assert trainer.skipped == 1
    assert all(torch.isfinite(v).all() for v in trainer.ema.values.values())


def test_skipped_batches_are_reported_and_too_many_are_an_error(
    corpus: Path, tmp_path: Path
) -> None:
    reports: list[dict[str, Any]] = []
    trainer = Trainer(config(corpus, tmp_path), reports.append)
    bad = np.full((1, 3, 2560), np.inf, np.float32)
    for _ in range(99):
        trainer.train_step(bad)
    with pytest.raises(DataError, match=r"100 batches in a row, .* with a lower learning_rate"):
        trainer.train_step(bad)
    assert [r["kind"] for r in reports] == ["skipped"] * 100
    assert [r["skipped"] for r in reports] == list(range(1, 101))


def test_every_validation_writes_audio_and_spectrograms(corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(config(corpus, run, dev_clips=2, snapshots=1), lambda _: None)
    clip = run / "snapshots" / "clip-0"
    assert [p.name for p in (run / "snapshots").iterdir()] == ["clip-0"]
    assert sorted(p.name for p in clip.iterdir()) == [
        "mixture.flac", "music.flac", "noise.flac", "speech.flac", "step-000006", "truth.png",
    ]  # fmt: skip
    mixture = soundfile.read(clip / "mixture.flac", dtype="float32")[0]
    stems = [soundfile.read(clip / "step-000006" / f"{s}.flac", dtype="float32")[0] for s in STEMS]
    separator = rtmtass.load(str(run / "best"), precision="f32")
    np.testing.assert_allclose(stems, separator.separate(mixture), atol=2e-4)
    assert (clip / "step-000006" / "stems.png").read_bytes()[:4] == b"\x89PNG"
    silent = config(corpus, tmp_path / "none", steps=1, snapshots=0)
    train(silent, lambda _: None)
    assert not (tmp_path / "none" / "snapshots").exists()


def test_a_resumed_log_holds_every_step_once(corpus: Path, tmp_path: Path) -> None:
    trainer = Trainer(config(corpus, tmp_path), lambda _: None)
    trainer.step = 20
    trainer.save()
    for step in (10, 20, 30):
        trainer.step = step
        trainer._log_figures("train", loss=1.0, gradient=1.0, speed=1.0)
    again = Trainer(config(corpus, tmp_path), lambda _: None)
    assert again.resume()
    again._log_figures("train", loss=2.0, gradient=1.0, speed=1.0)
    with (tmp_path / "train.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["10", "20", "20"]


def test_tensorboard_and_csv_hold_the_same_values(corpus: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations in its dependencies
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        log = Log(tmp_path, lambda _: None, tensorboard=True)
        log.write("train", 0.5, {"step": 20, "loss": 1.5})
        log.write("dev", 1.0, {"step": 40, "si_sdri": 3.0})
        log.close()
        events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    (loss,), (gain,) = events.Scalars("train/loss"), events.Scalars("dev/si_sdri")
    assert (loss.step, loss.value) == (20, 1.5)
    assert (gain.step, gain.value) == (40, 3.0)


def test_missing_tensorboard_is_an_error_only_if_enabled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    Log(tmp_path, lambda _: None)
    with pytest.raises(MissingPartError, match=r"pip install 'rtmtass\[tensorboard\]'"):
        Log(tmp_path, lambda _: None, tensorboard=True)


def test_dropout_depends_only_on_seed_and_step(corpus: Path, tmp_path: Path) -> None:
    batch = 0.1 * np.random.default_rng(0).standard_normal((2, 3, 5120), np.float32)
    wet = config(corpus, tmp_path, net={**NET, "dropout": 0.5})
    losses = []
    for _ in range(2):
        trainer = Trainer(wet, lambda _: None)
        trainer.batches = 7
        losses.append(trainer.train_step(batch)[0])
        torch.rand(1)  # other draws must not matter
    assert losses[0] == losses[1]


def begun(carryover: StateCarryover, batch: int, number: int) -> list[torch.Tensor]:
    carryover.draw(batch, number)
    return state_tensors(carryover.begin())


def test_state_carryover_is_determined_by_the_seed() -> None:
    net = seasoned(tiny(lookahead=1))
    carryover, good, bad = StateCarryover(net, 0.5, seed=3), torch.tensor(True), torch.tensor(False)
    blank = begun(carryover, 8, 0)
    assert all(not t.any() for t in blank)
    assert [t.shape for t in blank] == [t.shape for t in state_tensors(net.init_state(8))]
    _, after = net.stages(torch.randn(8, 20, 2, 33), carryover.begin())
    carryover.end(after, good)
    first, again = begun(carryover, 8, 1), begun(carryover, 8, 1)
    for a, b, end in zip(first, again, state_tensors(after), strict=True):
        assert torch.equal(a, b)
        assert not a.requires_grad
        for example in a:  # each is the initial state or the final state of an example
            assert not example.any() or any(torch.equal(example, e) for e in end)
    kept = [bool(level.any()) for level in first[0]]
    assert 0 < sum(kept) < 8
    other = StateCarryover(net, 0.5, seed=3)
    other.from_list(carryover.to_list())
    assert all(torch.equal(a, b) for a, b in zip(begun(other, 8, 1), first, strict=True))
    carryover.end(map_state(lambda t: t * np.nan, after), bad)  # a batch that was skipped
    assert all(torch.equal(a, b) for a, b in zip(begun(carryover, 8, 1), first, strict=True))
    carryover.end(map_state(lambda t: t * np.nan, after), good)
    assert all(not t.any() for t in begun(carryover, 8, 1))
    carryover.end(after, good)
    assert all(not t.any() for t in begun(carryover, 5, 1))  # another batch size: initial states


def test_a_resumed_run_restores_the_carried_states(corpus: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    batches = [0.1 * rng.standard_normal((4, 3, 5120), np.float32) for _ in range(6)]
    losses: list[list[float]] = []
    for stop in (6, 3):
        carried = config(corpus, tmp_path / str(stop), carryover_prob=1.0)
        trainer = Trainer(carried, lambda _: None)
        values = [trainer.train_step(batch)[0] for batch in batches[:stop]]
        trainer.save()
        again = Trainer(carried, lambda _: None)
        again.resume()
        losses.append(values + [again.train_step(batch)[0] for batch in batches[stop:]])
    assert losses[0] == losses[1]
    blank = Trainer(config(corpus, tmp_path / "blank"), lambda _: None)
    assert [blank.train_step(batch)[0] for batch in batches][1:] != losses[0][1:]


def test_a_checkpoint_of_another_network_is_rejected(corpus: Path, tmp_path: Path) -> None:
    Trainer(config(corpus, tmp_path), lambda _: None).save()
    other = config(corpus, tmp_path, net={**NET, "channels": 24})
    with pytest.raises(DataError, match="another network"):
        Trainer(other, lambda _: None).resume()


def test_the_lineage_includes_the_run_started_from(corpus: Path, tmp_path: Path) -> None:
    first = train(config(corpus, tmp_path / "a"), lambda _: None)
    own = describe(first)[1]["training"]
    assert own["earlier"] == []
    second = config(corpus, tmp_path / "b", steps=4, start_from=str(first))
    train(second, lambda _: None)
    shutil.rmtree(first)  # the checkpoint holds the lineage
    trainer = Trainer(second, lambda _: None)
    assert trainer.resume()
    assert [run["steps"] for run in trainer.earlier] == [6]
    record = describe(tmp_path / "b" / "best")[1]["training"]
    assert record["steps"] == 4
    assert totals(record)["steps"] == 10


def test_sub_bands_can_be_added_to_weights_without_them(corpus: Path, tmp_path: Path) -> None:
    first = train(config(corpus, tmp_path / "a", steps=2), lambda _: None)
    more = config(corpus, tmp_path / "b", net={**NET, "subband_bins": 8}, start_from=str(first))
    trainer = Trainer(more, lambda _: None)
    assert not trainer.resume()
    before = open_model(str(first))
    x = torch.randn(1, 20, 2, 257)
    old = new_network(before.config)
    old.load_state_dict({k: torch.from_numpy(v) for k, v in before.weights.items()})
    with torch.no_grad():
        expected, now = old.eval()(x), trainer.net.eval()(x)
    torch.testing.assert_close(now, expected)  # new sub-bands change nothing yet
    narrower = config(corpus, tmp_path / "c", net={**NET, "channels": 8}, start_from=str(first))
    with pytest.raises(DataError, match="another network"):
        Trainer(narrower, lambda _: None).resume()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[train]\nspeed = 3\nminutes = 1", "unknown keys in \\[train\\]: speed; remove"),
        ("[train]\nbatch = 3", "neither minutes nor steps; add --minutes"),
        ("[train]\nsteps = 3\nteacher_share = 2", "teacher_share = 2; give 0 to 1"),
        ("[train", "not valid TOML"),
    ],
)
def test_invalid_configs_are_rejected(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        TrainConfig.read(path)
    with pytest.raises(UsageError, match="no training config"):
        TrainConfig.read(tmp_path / "none.toml")


def test_the_former_key_carry_is_read(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("[train]\nsteps = 3\ncarry = 0.5\n")
    assert TrainConfig.read(path).carryover_prob == 0.5


@pytest.mark.parametrize("name", ["", 'name = "rtmtass-small"', 'name = "rtmtass-large"'])
@pytest.mark.parametrize("table", ["[net]\nchannels = 96", "[stft]\nhop = 128"])
def test_a_changed_network_needs_a_name_of_its_own(name: str, table: str, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(f"[train]\nsteps = 3\n{name}\n{table}\n")
    expected = (
        r"c\.toml changes the network of preset 'small' but calls the model 'rtmtass-\w+'; a"
        r' changed network needs a name of its own: add name = "my-model" to \[train\]'
    )
    with pytest.raises(UsageError, match=expected):
        TrainConfig.read(path)
    path.write_text(f'[train]\nsteps = 3\nname = "mine"\n{table}\n')
    assert TrainConfig.read(path).model().name == "mine"


def test_an_unchanged_network_keeps_the_presets_name(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("[train]\nsteps = 3\n[net]\nchannels = 48\n")
    assert TrainConfig.read(path).model().name == "rtmtass-small"


def test_an_unknown_preset_lists_the_valid_ones(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("[train]\nsteps = 3\npreset = 'huge'\n")
    with pytest.raises(
        UsageError, match="preset = 'huge'; give one of: small, gated, base, large, paper"
    ):
        TrainConfig.read(path)
    with pytest.raises(UsageError, match="unknown preset 'huge'; give one of: small, gated"):
        TrainConfig(preset="huge").model()


def test_a_renamed_run_resumes(corpus: Path, tmp_path: Path) -> None:
    Trainer(config(corpus, tmp_path, name=""), lambda _: None).save()
    assert Trainer(config(corpus, tmp_path, name="mine"), lambda _: None).resume()


def test_unknown_net_keys_list_the_valid_ones(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"known: .*channels"):
        config(corpus, tmp_path, net={"chanels": 3}).model()


def test_a_network_with_lookahead_learns(corpus: Path, tmp_path: Path) -> None:
    ahead = config(corpus, tmp_path, steps=60, net={**NET, "lookahead": 2})
    reports: list[dict[str, Any]] = []
    train(ahead, reports.append)
    assert reports[-1]["si_sdri"] > 0


def test_evaluation_measures_the_separators_output() -> None:
    separator = rtmtass.load()
    rng = np.random.default_rng(0)
    stems = (0.1 * rng.standard_normal((3, 16000))).astype(np.float32)
    clips = [Clip(str(k), stems.sum(axis=0), np.roll(stems, k, axis=0)) for k in range(3)]
    figures = evaluate(separator, clips, 3)
    out = separator.separate(clips[0].mixture)
    expected = [si_sdr(out, c.stems) - si_sdr(c.mixture[None], c.stems) for c in clips]
    mean = np.mean(expected, axis=0)
    for i, stem in enumerate(STEMS):
        assert figures["si_sdri"][stem]["mean"] == pytest.approx(mean[i], abs=1e-3)
    assert figures["clips"] == 3
    with pytest.raises(DataError, match="no clips"):
        evaluate(separator, [], 0)


def test_the_command_reports_in_lines_or_json(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_toml(tmp_path / "c.toml", config(corpus, tmp_path / "run", steps=20, batch=1))
    assert main(["train", str(tmp_path / "c.toml")]) == 0
    train_line, dev_line, path = capsys.readouterr().out.splitlines()
    assert train_line.startswith("100.0%  step     20")
    assert "dev SI-SDRi" in dev_line
    assert path == str(tmp_path / "run" / "best")
    assert main(["train", str(tmp_path / "c.toml"), "--steps", "40", "--json"]) == 0
    *reports, path = capsys.readouterr().out.splitlines()
    assert [(r["kind"], r["step"]) for r in map(json.loads, reports)] == [
        ("train", 40), ("dev", 40),
    ]  # fmt: skip
