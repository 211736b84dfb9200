"""Training: it learns, resumes to the bit, survives NaN, and leaves a model one can run."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from networks import tiny

import rtmtass
from rtmtass.config import STEMS, StftConfig, small
from rtmtass.dsp.stft import StreamingStft
from rtmtass.errors import DataError, MissingPartError, UsageError
from rtmtass.net.mtass import MtassNet
from rtmtass.net.stft import Stft
from rtmtass.training.evaluate import Clip, evaluate
from rtmtass.training.history import totals
from rtmtass.training.log import Log
from rtmtass.training.losses import SeparationLoss, negative_snr
from rtmtass.training.metrics import bootstrap_interval, sdr, si_sdr
from rtmtass.training.team import Team
from rtmtass.training.train import TrainConfig, Trainer, train
from rtmtass.weights import describe

NET = {
    "channels": 16,
    "hidden": 8,
    "dilations": [1, 2],
    "recurrent": 16,
    "recurrent_layers": 1,
    "compensation_channels": 16,
    "compensation_hidden": 8,
    "compensation_dilations": [1],
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recordings per role and split: voices buzz, music rings, noise hisses."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    t = np.arange(6 * 16000) / 16000
    rows = []
    for split in ("train", "dev"):
        for role in STEMS:
            for take in range(2):
                if role == "speech":
                    sound = np.sign(np.sin(2 * np.pi * (120 + 40 * take) * t)) * np.sin(9 * t) ** 2
                elif role == "music":
                    sound = np.sin(2 * np.pi * (440 + 110 * take) * t)
                else:
                    sound = rng.standard_normal(len(t))
                path = f"{role}-{split}-{take}.wav"
                soundfile.write(folder / path, 0.1 * sound, 16000)
                rows.append([role, "made", f"{split}{take}", split, path, 6.0, "CC0", "A"])
    with (folder / "index.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["role", "source", "group", "split", "path", "seconds", "licence", "tier"])
        table.writerows(rows)
    return folder


def config(corpus: Path, runs: Path, **changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "corpus": str(corpus),
        "cache": str(corpus / "cache"),
        "runs": str(runs),
        "seconds": 1.0,
        "batch": 4,
        "steps": 6,
        "warmup_steps": 2,
        "threads": 1,
        "workers": 0,
        "bf16": False,
        "compile": False,
        "dev_clips": 1,
        "snapshots": 0,
        "net": NET,
    }
    return TrainConfig(**{**values, **changes})


def test_it_learns_and_leaves_a_model(corpus: Path, tmp_path: Path) -> None:
    reports: list[dict[str, Any]] = []
    best = train(config(corpus, tmp_path / "run", steps=60), reports.append)
    losses = [r["loss"] for r in reports if r["kind"] == "train"]
    assert losses[-1] < losses[0]
    separator = rtmtass.load(str(best))
    mixture = soundfile.read(corpus / "music-dev-0.wav", dtype="float32")[0]
    np.testing.assert_allclose(separator.separate(mixture).sum(axis=0), mixture, atol=1e-6)
    assert (tmp_path / "run" / "train.csv").read_text().startswith("step,")


def test_a_resumed_run_is_the_run(corpus: Path, tmp_path: Path) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    train(config(corpus, whole), lambda _: None)
    stopped = config(corpus, halves)

    class Stop(Exception):
        pass

    trainer = Trainer(stopped, lambda _: None)
    from rtmtass.training.dataset import MixtureStream
    from rtmtass.training.sources import Corpus

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


def test_a_batch_that_explodes_is_skipped(corpus: Path, tmp_path: Path) -> None:
    trainer = Trainer(config(corpus, tmp_path), lambda _: None)
    before = {k: v.clone() for k, v in trainer.net.state_dict().items()}
    loss, _ = trainer.train_step(np.full((4, 3, 16000), np.nan, np.float32))
    assert math.isnan(loss)
    assert trainer.skipped == 1
    # The norms' statistics, too: they would carry the NaN on for ever.
    assert all(torch.equal(v, before[k]) for k, v in trainer.net.state_dict().items())
    trainer.train_step(0.1 * np.random.default_rng(0).standard_normal((4, 3, 16000), np.float32))
    assert trainer.skipped == 1
    assert all(torch.isfinite(v).all() for v in trainer.average.values.values())


def test_skipped_batches_are_told_and_too_many_are_an_error(corpus: Path, tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    trainer = Trainer(config(corpus, tmp_path), told.append)
    bad = np.full((1, 3, 2560), np.inf, np.float32)
    for _ in range(99):
        trainer.train_step(bad)
    with pytest.raises(DataError, match=r"100 batches in a row, .* with a lower learning_rate"):
        trainer.train_step(bad)
    assert [r["kind"] for r in told] == ["skipped"] * 100
    assert [r["skipped"] for r in told] == list(range(1, 101))


def test_every_judgement_leaves_sound_and_pictures(corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(config(corpus, run, dev_clips=2, snapshots=1), lambda _: None)
    clip = run / "snapshots" / "clip-0"
    assert [p.name for p in (run / "snapshots").iterdir()] == ["clip-0"]
    assert sorted(p.name for p in clip.iterdir()) == [
        "mixture.flac", "music.flac", "noise.flac", "speech.flac", "step-000006", "truth.png",
    ]  # fmt: skip
    mixture = soundfile.read(clip / "mixture.flac", dtype="float32")[0]
    stems = [soundfile.read(clip / "step-000006" / f"{s}.flac", dtype="float32")[0] for s in STEMS]
    separator = rtmtass.load(str(run / "best"))
    np.testing.assert_allclose(stems, separator.separate(mixture), atol=2e-4)
    assert (clip / "step-000006" / "stems.png").read_bytes()[:4] == b"\x89PNG"
    silent = config(corpus, tmp_path / "none", steps=1, snapshots=0)
    train(silent, lambda _: None)
    assert not (tmp_path / "none" / "snapshots").exists()


def test_a_resumed_log_tells_every_step_once(corpus: Path, tmp_path: Path) -> None:
    trainer = Trainer(config(corpus, tmp_path), lambda _: None)
    trainer.step = 20
    trainer.save()
    for step in (10, 20, 30):
        trainer.step = step
        trainer._note("train", loss=1.0, gradient=1.0, speed=1.0)
    again = Trainer(config(corpus, tmp_path), lambda _: None)
    assert again.resume()
    again._note("train", loss=2.0, gradient=1.0, speed=1.0)
    with (tmp_path / "train.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["10", "20", "20"]


def test_tensorboard_has_what_the_csv_has(corpus: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorBoard's own dependencies
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        log = Log(tmp_path, lambda _: None, tensorboard=True)
        log.note("train", 0.5, {"step": 20, "loss": 1.5})
        log.note("dev", 1.0, {"step": 40, "si_sdri": 3.0})
        log.close()
        events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    (loss,), (gain,) = events.Scalars("train/loss"), events.Scalars("dev/si_sdri")
    assert (loss.step, loss.value) == (20, 1.5)
    assert (gain.step, gain.value) == (40, 3.0)


def test_tensorboard_is_only_asked_for_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    Log(tmp_path, lambda _: None)
    with pytest.raises(MissingPartError, match=r"pip install 'rtmtass\[tensorboard\]'"):
        Log(tmp_path, lambda _: None, tensorboard=True)


def test_dropout_depends_on_the_step_alone(corpus: Path, tmp_path: Path) -> None:
    batch = 0.1 * np.random.default_rng(0).standard_normal((2, 3, 5120), np.float32)
    wet = config(corpus, tmp_path, net={**NET, "dropout": 0.5})
    losses = []
    for _ in range(2):
        trainer = Trainer(wet, lambda _: None)
        trainer.batches = 7
        losses.append(trainer.train_step(batch)[0])
        torch.rand(1)  # other draws must not matter
    assert losses[0] == losses[1]


SCRIPT = """
import sys
from pathlib import Path
from rtmtass.training.team import Team
from rtmtass.training.train import TrainConfig, train
train(TrainConfig.read(Path(sys.argv[1])), lambda report: print(report["kind"], report["step"]))
"""


def test_two_processes_train_as_one(corpus: Path, tmp_path: Path) -> None:
    values = dataclasses.asdict(config(corpus, tmp_path / "run", steps=20, batch=2))
    net, _ = values.pop("net"), values.pop("stft")
    lines = ["[train]", *(f"{k} = {json.dumps(v)}" for k, v in values.items())]
    lines += ["[net]", *(f"{k} = {json.dumps(v)}" for k, v in net.items())]
    (tmp_path / "c.toml").write_text("\n".join(lines))
    (tmp_path / "go.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", str(tmp_path / "go.py"), str(tmp_path / "c.toml")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    answer = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.split("\n")[:2] == ["train 20", "dev 20"]  # one speaks for both
    saved = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert (saved["step"], saved["batches"]) == (20, 40)

    record = describe(tmp_path / "run" / "best")[1]["training"]
    assert record["mixture_hours"] == pytest.approx(40 * 2 / 3600, abs=0.05)


def test_the_gradient_of_two_is_the_mean_of_theirs(tmp_path: Path) -> None:
    script = tmp_path / "mean.py"
    script.write_text(TWO)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", str(script), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    answer = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert answer.returncode == 0, answer.stderr
    first, second = (torch.load(tmp_path / f"{k}.pt", weights_only=True) for k in range(2))
    weight = torch.tensor([[2.0]])
    for values in (first, second):  # d(w x)/dw = x: 1 in one process, 3 in the other
        torch.testing.assert_close(values["gradient"], weight.new_full((1, 1), 2.0))
        torch.testing.assert_close(values["loss"], torch.tensor(4.0))
        assert values["agreed"] == [1.0, 5.0]


TWO = """
import sys
import torch
from torch import nn
from rtmtass.training.team import Team
with Team("cpu") as team:
    net = nn.Linear(1, 1, bias=False)
    net.weight.data.fill_(2.0 if team.is_first else 9.0)  # all begin as the first
    compute = team.wrap(net, lambda x: net(x).sum())
    loss = compute(torch.tensor([[1.0 + 2 * team.rank]]))
    loss.backward()
    found = {
        "gradient": net.weight.grad,
        "loss": team.mean(loss.detach()),
        "agreed": team.largest(float(team.rank), 5.0 - team.rank),
    }
    torch.save(found, f"{sys.argv[1]}/{team.rank}.pt")
"""


def test_one_process_is_a_team_of_its_own() -> None:
    team = Team("cpu")
    compute = lambda x: x + 1  # noqa: E731
    assert team.wrap(torch.nn.Linear(1, 1), compute) is compute
    assert team.largest(2.0, 0.0) == [2.0, 0.0]
    assert float(team.mean(torch.tensor(3.0))) == 3.0
    assert team.is_first


def test_a_checkpoint_of_another_network_is_refused(corpus: Path, tmp_path: Path) -> None:
    Trainer(config(corpus, tmp_path), lambda _: None).save()
    other = config(corpus, tmp_path, net={**NET, "channels": 24})
    with pytest.raises(DataError, match="another network"):
        Trainer(other, lambda _: None).resume()


def test_a_run_remembers_what_it_started_from(corpus: Path, tmp_path: Path) -> None:
    first = train(config(corpus, tmp_path / "a"), lambda _: None)
    own = describe(first)[1]["training"]
    assert own["earlier"] == []
    second = config(corpus, tmp_path / "b", steps=4, start_from=str(first))
    train(second, lambda _: None)
    shutil.rmtree(first)  # a resumed run needs it no more, as long as its checkpoint says it all
    trainer = Trainer(second, lambda _: None)
    assert trainer.resume()
    assert [run["steps"] for run in trainer.earlier] == [6]
    record = describe(tmp_path / "b" / "best")[1]["training"]
    assert record["steps"] == 4
    assert totals(record)["steps"] == 10


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[train]\nspeed = 3\nminutes = 1", "keys rtmtass doesn't know: speed"),
        ("[train]\nbatch = 3", "neither minutes nor steps; add --minutes"),
        ("[train", "not valid TOML"),
    ],
)
def test_configs_that_cant_be_are_named(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=said):
        TrainConfig.read(path)
    with pytest.raises(UsageError, match="no training config"):
        TrainConfig.read(tmp_path / "none.toml")


def test_unknown_net_keys_list_the_known(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"known: .*channels"):
        config(corpus, tmp_path, net={"chanels": 3}).model()


@pytest.mark.parametrize(
    "stft",
    [
        StftConfig(),
        StftConfig(hop=128, synthesis=256),
        StftConfig(hop=64, synthesis=128),
        StftConfig(n_fft=64, hop=16, synthesis=64),
    ],
)
def test_both_transforms_are_one(stft: StftConfig) -> None:
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


def test_a_perfect_estimate_costs_least() -> None:
    net_config = tiny()
    stft = Stft(net_config.stft)
    stems = torch.randn(2, 3, 32 * 50)
    spec = stft(stems)
    loss = SeparationLoss(stft)
    from rtmtass.net.mtass import Stages

    truth = spec.permute(0, 2, 1, 3, 4)
    best = float(loss(Stages(truth.clone(), truth), stems, spec))
    worse = [truth * 0.9, truth + 0.1 * torch.randn_like(truth), truth.flip(2), truth * 0]
    assert all(float(loss(Stages(truth.clone(), w), stems, spec)) > best + 0.1 for w in worse)


def test_leaking_into_silence_costs() -> None:
    mixture, silent = torch.randn(1, 1000), torch.zeros(1, 1000)
    quiet, loud = (float(negative_snr(mixture * g, silent, mixture)) for g in (0.01, 0.3))
    assert quiet < 0.5 < 10 < loud


def test_metrics_are_their_definitions() -> None:
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


def test_evaluation_hears_what_users_hear() -> None:
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


def test_small_trains_in_the_shape_it_runs() -> None:
    config = small()
    net = MtassNet(config).train()
    samples = torch.randn(2, 3, 256 * 30) * 0.05
    stft = Stft(config.stft)
    spec = stft(samples)
    stages, _ = net.stages(spec.sum(dim=1), net.init_state(2))
    loss = SeparationLoss(stft)(stages, samples, spec)
    loss.backward()
    assert torch.isfinite(loss)
