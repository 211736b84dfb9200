"""Recordings separated on a real Ray cluster of two raylets, one of which is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from noise_files import write_noise

import rtmtass
from rtmtass.offline.plan import SeparateOptions, plan
from rtmtass.offline.separate import NullProgress, separate_files

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="pip install 'rtmtass[ray]'")
ROOT = Path(__file__).parent.parent
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    "RAY_USAGE_STATS_ENABLED": "0",
    # A slow machine isn't a dead one: all that is lost here is found by its closed connection.
    "RAY_health_check_timeout_ms": "120000",
    "RAY_health_check_initial_delay_ms": "120000",
}
N = 10
SECONDS = 60
DEADLINE_S = 600.0


class Cluster:
    """The program ray_cluster.py.

    Attributes:
        address: of the head.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("ray_cluster.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
        assert self._process.stdin
        assert self._process.stdout
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self.address = self._stdout.readline().strip()

    def kill_second(self) -> None:
        self._stdin.write("kill\n")
        self._stdin.flush()
        assert self._stdout.readline() == "killed\n"

    def close(self) -> None:
        self._process.communicate(timeout=DEADLINE_S)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    assert cluster.address
    yield cluster
    cluster.close()


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of N recordings, one of them twice, a missing one and one that holds text."""
    folder = tmp_path_factory.mktemp("listed")
    names = [str(path) for path in write_noise(folder, N * [16000 * SECONDS], seed=0)]
    (folder / "text.wav").write_text("no sound")
    names += [f"{folder}/none.wav", f"{folder}/text.wav", names[0]]
    (folder / "list.txt").write_text("\n".join(names))
    return folder


def start(cluster: Cluster, listed: Path, out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "rtmtass", "separate", "--ray", cluster.address,
         str(listed / "list.txt"), "-o", str(out), "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
    )  # fmt: skip


def read_row(process: subprocess.Popen[str]) -> dict[str, object]:
    assert process.stdout
    line = process.stdout.readline()
    assert line, process.stderr and process.stderr.read()
    row: dict[str, object] = json.loads(line)
    return row


def test_a_machine_that_is_killed_costs_no_recording(
    cluster: Cluster, listed: Path, tmp_path: Path
) -> None:
    # Stopped after its first recordings, in time to find some being separated on either raylet.
    process = start(cluster, listed, tmp_path)
    rows = [read_row(process)]
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=DEADLINE_S)
    rows += [json.loads(line) for line in out.splitlines()]
    assert process.returncode == 130, errors
    assert errors.splitlines()[-1].startswith("rtmtass: stopped")
    done = {str(row["path"]) for row in rows if row["status"] == "done"}
    assert len(done) < N

    process = start(cluster, listed, tmp_path)
    rows = [read_row(process)]
    while rows[-1]["status"] != "done":
        rows.append(read_row(process))
    cluster.kill_second()
    out, errors = process.communicate(timeout=DEADLINE_S)
    rows += [json.loads(line) for line in out.splitlines()]
    assert process.returncode == 1, errors  # of the two that can't be separated
    status = {Path(str(row["path"])).name: row["status"] for row in rows}
    assert len(rows) == len(status) == N + 2
    assert Counter(status.values())["failed"] == 2
    assert status["none.wav"] == status["text.wav"] == "failed"
    assert {str(row["path"]) for row in rows if row["status"] == "skipped"} >= done
    assert "1 line of the list left out: named before" in errors
    assert "Traceback" not in errors
    check_outputs(listed, tmp_path)
    check_table(tmp_path, rows)


def check_outputs(listed: Path, out: Path) -> None:
    """Compare all outputs with those of `separate`, byte by byte."""
    assert not list(out.glob("*.part"))
    plain = listed / "plain"
    options = SeparateOptions(folder=plain, model=model())
    results = separate_files(
        plan([listed / f"{k}.wav" for k in range(N)], options),
        options,
        rtmtass.load,
        NullProgress(),
    )
    assert all(result.status == "done" for result in results)
    made = {path.name: path.read_bytes() for path in out.glob("*.wav")}
    assert made == {path.name: path.read_bytes() for path in plain.iterdir()}


def model() -> str:
    from rtmtass.offline.provenance import describe_model
    from rtmtass.weights import DEFAULT

    return describe_model(DEFAULT, "auto", 1, "numba")


def check_table(out: Path, rows: list[dict[str, object]]) -> None:
    """The newest table has the rows that were printed."""
    from pyarrow import parquet

    newest = sorted(out.glob("results-*.parquet"))[-1]
    assert parquet.read_table(newest).to_pylist() == rows
