"""Several processes that train together: as torchrun starts them, on this computer's CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from runs import buzzing_corpus, config, write_toml

from rtmtass.training.team import Team
from rtmtass.weights import describe

SCRIPT = """
import sys
from pathlib import Path
from rtmtass.training.team import Team
from rtmtass.training.train import TrainConfig, train
train(TrainConfig.read(Path(sys.argv[1])), lambda report: print(report["kind"], report["step"]))
"""


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    corpus = buzzing_corpus(tmp_path / "corpus")
    write_toml(tmp_path / "c.toml", config(corpus, tmp_path / "run", steps=20, batch=2))
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
