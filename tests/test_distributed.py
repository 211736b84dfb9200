"""Distributed training: several processes, started by torchrun, on the CPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import buzzing_corpus, config, write_toml

from rtmtass.training.distributed import DistributedContext

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


TIMEOUT_S = 300
ABORT_S = 10


def run(*words: str) -> str:
    """Run a program in two processes; return their stdout."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONFAULTHANDLER": "1",
    }
    pipe = subprocess.PIPE
    command = [*TORCHRUN, *words]
    with subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            stdout, stderr = process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            stdout, stderr = abort(process)
            pytest.fail(f"still running after {TIMEOUT_S} s\n{stdout}\n{stderr}")
    assert process.returncode == 0, stderr
    return stdout


def abort(process: subprocess.Popen[str]) -> tuple[str, str]:
    """End torchrun and what it started; each prints where its threads are."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    pids = children.read_text().split() if children.exists() else []
    for pid in [*pids, str(process.pid)]:
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGABRT)
    try:
        return process.communicate(timeout=ABORT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()


def test_two_processes_train_one_model(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    corpus = buzzing_corpus(tmp_path / "corpus")
    two = config(corpus, tmp_path / "run", steps=20, batch=2, carryover_prob=0.5)
    write_toml(tmp_path / "c.toml", two)
    stdout = run("-m", "rtmtass", "train", str(tmp_path / "c.toml"), "--json")
    *reports, best = stdout.splitlines()  # only rank 0 reports
    kinds = [(r["kind"], r["step"], r["skipped"]) for r in map(json.loads, reports)]
    assert kinds == [("train", 20, 0), ("dev", 20, 0)]
    assert best == str(tmp_path / "run" / "best")
    saved = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert (saved["step"], saved["batches"]) == (20, 40)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes saves, which take seconds to start."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "two.py").write_text(TWO)
    run(str(folder / "two.py"), str(folder))
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_gradients_are_averaged_over_processes(results: list[dict[str, Any]]) -> None:
    weight = torch.tensor([[2.0]])
    for values in results:  # d(w x)/dw = x: 1 in one process, 3 in the other
        torch.testing.assert_close(values["gradient"], weight.new_full((1, 1), 2.0))
        torch.testing.assert_close(values["loss"], torch.tensor(4.0))
        assert values["agreed"] == [1.0, 5.0]


def test_muon_is_divided_between_two_processes(results: list[dict[str, Any]]) -> None:
    for rank, result in enumerate(results):
        assert sorted(result["made"]) == [[(4, 9), (4, 9)], [(4, 9), (6, 3)]][rank]
        for ours, alone in zip(result["shared"], result["alone"], strict=True):
            assert torch.equal(ours, alone)


TWO = """
import sys
import torch
from torch import nn
from rtmtass.training import optimisers
from rtmtass.training.distributed import DistributedContext

def average(group):
    net = nn.Linear(1, 1, bias=False)
    net.weight.data.fill_(2.0 if group.is_first else 9.0)  # DDP broadcasts rank 0's
    compute = group.wrap(net, lambda x: net(x).sum())
    loss = compute(torch.tensor([[1.0 + 2 * group.rank]]))
    loss.backward()
    return {
        "gradient": net.weight.grad,
        "loss": group.mean(loss.detach()),
        "agreed": group.largest(float(group.rank), 5.0 - group.rank),
    }

made = []
orthogonal = optimisers.orthogonal
def spy(matrices):
    made.extend(tuple(matrix.shape) for matrix in matrices)
    return orthogonal(matrices)
def learn(group):
    torch.manual_seed(3)
    matrices = [nn.Parameter(torch.randn(shape)) for shape in [(4, 9), (6, 3), (4, 9), (4, 9)]]
    muon = optimisers.Muon(matrices, 1e-2, distributed=group)
    for matrix in matrices:
        matrix.grad = torch.randn_like(matrix)
    muon.step()
    return [matrix.detach() for matrix in matrices]

with DistributedContext("cpu") as group:
    result = average(group)
    one = DistributedContext("cpu")
    one.rank, one.size = 0, 1
    result["alone"] = learn(one)
    optimisers.orthogonal = spy
    result |= {"shared": learn(group), "made": made}
    torch.save(result, f"{sys.argv[1]}/{group.rank}.pt")
"""


def test_a_single_process_needs_no_group() -> None:
    distributed = DistributedContext("cpu")
    compute = lambda x: x + 1  # noqa: E731
    assert distributed.wrap(torch.nn.Linear(1, 1), compute) is compute
    assert distributed.largest(2.0, 0.0) == [2.0, 0.0]
    assert float(distributed.mean(torch.tensor(3.0))) == 3.0
    assert distributed.is_first
