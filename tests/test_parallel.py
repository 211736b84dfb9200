"""Recordings separated in several processes: the same files, whatever happens to one of them."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from noise_files import write_noise

import rtmtass
from rtmtass.errors import ModelError
from rtmtass.fullband import StreamSeparator
from rtmtass.offline.parallel import (
    n_physical_cores,
    n_processes,
    separate_in_parallel,
    shard_of,
)
from rtmtass.offline.plan import Job, Result, SeparateOptions, plan
from rtmtass.offline.separate import NullProgress, separate_files


class Listener:
    def __init__(self) -> None:
        self.ended: list[Path] = []
        self.steps: list[tuple[float, float]] = []

    def progressed(self, done: float, of: float) -> None:
        self.steps.append((done, of))

    def finished(self, result: Result) -> None:
        self.ended.append(result.path)


def open_killed_once(marker: Path) -> StreamSeparator:
    """Ends the first process that opens the model, as the system does when memory runs out."""
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return rtmtass.load()
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def open_nothing() -> StreamSeparator:
    raise ModelError("no such model")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    write_noise(folder, [16000 * (1 + k) for k in range(4)], seed=1)
    (folder / "2b.wav").write_text("no sound")
    return folder


def planned(recordings: Path, folder: Path) -> tuple[list[Job], SeparateOptions]:
    options = SeparateOptions(folder=folder)
    return plan([recordings], options), options


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_files_and_their_order_are_those_of_one_process(
    recordings: Path, tmp_path: Path
) -> None:
    jobs, options = planned(recordings, tmp_path / "one")
    alone = list(separate_files(jobs, options, rtmtass.load, NullProgress()))
    jobs, options = planned(recordings, tmp_path / "two")
    listener = Listener()
    together = list(separate_in_parallel(jobs, options, rtmtass.load, 2, listener))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert [(r.path, r.status, r.frames) for r in together] == [
        (r.path, r.status, r.frames) for r in alone
    ]
    assert [r.error for r in together] == [r.error for r in alone]
    assert sorted(listener.ended) == sorted(r.path for r in alone)
    done, of = zip(*listener.steps, strict=True)
    assert list(done) == sorted(done)
    assert done[-1] == of[-1] == sum(job.path.stat().st_size for job in jobs)


def test_a_process_that_is_killed_costs_its_file_only(recordings: Path, tmp_path: Path) -> None:
    jobs, options = planned(recordings, tmp_path / "out")
    open_model = functools.partial(open_killed_once, tmp_path / "marker")
    results = list(separate_in_parallel(jobs, options, open_model, 2, Listener()))
    killed = next(k for k in (0, 1) if results[k].status == "failed")  # they start together
    expected = ["done", "done", "done", "failed", "done"]
    expected[killed] = "failed"
    assert [r.status for r in results] == expected
    assert results[killed].error == (
        f"{jobs[killed].path}: its process was ended by signal 9 (SIGKILL); is there enough memory?"
    )
    assert len(list((tmp_path / "out").glob("*.wav"))) == 9


def test_a_model_that_does_not_open_ends_the_series(recordings: Path, tmp_path: Path) -> None:
    jobs, options = planned(recordings, tmp_path / "out")
    with pytest.raises(ModelError, match="no such model"):
        list(separate_in_parallel(jobs, options, open_nothing, 2, Listener()))


def run_separate(*words: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "rtmtass", "separate", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_command_prints_the_results_in_their_order(recordings: Path, tmp_path: Path) -> None:
    process = run_separate(recordings, "-o", tmp_path, "--jobs", "2", "--json")
    out, errors = process.communicate(timeout=120)
    rows = [json.loads(line) for line in out.splitlines()]
    assert [Path(row["input"]).name for row in rows] == [
        "0.wav", "1.wav", "2.wav", "2b.wav", "3.wav",
    ]  # fmt: skip
    assert [row["status"] for row in rows] == ["done", "done", "done", "failed", "done"]
    assert errors.splitlines()[0] == "rtmtass: 1 of 5 recordings failed:"
    assert process.returncode == 1


def test_a_shard_is_its_part_of_the_recordings(recordings: Path, tmp_path: Path) -> None:
    seen: list[str] = []
    for k in (1, 2, 3):
        process = run_separate(recordings, "-o", tmp_path, "--shard", f"{k}/3", "--json")
        out, _ = process.communicate(timeout=120)
        seen += [Path(json.loads(line)["input"]).name for line in out.splitlines()]
    assert sorted(seen) == ["0.wav", "1.wav", "2.wav", "2b.wav", "3.wav"]
    process = run_separate(recordings, "-o", tmp_path, "--shard", "4/3")
    assert process.communicate(timeout=60)[1].startswith(
        "rtmtass: argument --shard: '4/3' isn't a part such as 1/8 or 8/8"
    )
    assert process.returncode == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_playable_files_and_no_process(
    number: signal.Signals, tmp_path: Path
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    sound = 0.1 * np.random.default_rng(0).standard_normal(16000 * 600).astype(np.float32)
    for k in range(3):
        soundfile.write(folder / f"{k}.wav", sound, 16000)
    process = run_separate(folder, "-o", out, "--jobs", "2")
    ends = time.monotonic() + 60
    while sum(path.stat().st_size > 100_000 for path in out.glob("*.part")) < 6:  # two are open
        assert time.monotonic() < ends
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    line = errors.splitlines()[-1]
    assert line.startswith("rtmtass: stopped; ")
    parts = [path for path in out.iterdir() if path.suffix == ".part"]
    assert len(parts) >= 3
    for path in parts:
        assert str(path) in line
        with path.open("rb") as file:
            assert soundfile.info(file).frames >= 0


@pytest.mark.parametrize("after_s", [0.4, 0.8, 1.2, 1.6])
def test_ctrl_c_of_a_terminal_prints_no_traceback_while_processes_start(
    after_s: float, recordings: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "rtmtass", "separate", recordings, "-o", tmp_path]
    process = subprocess.Popen(
        [*map(str, command), "--jobs", "2", "--quiet"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    time.sleep(after_s)
    os.killpg(process.pid, signal.SIGINT)  # the children too
    _, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors
    assert len(errors.splitlines()) <= 2  # that it stopped; or, done already, the file that failed


def test_one_process_is_refused_more(recordings: Path, tmp_path: Path) -> None:
    process = run_separate(
        recordings, "-o", tmp_path, "--jobs", "2", "--report", tmp_path / "a.html"
    )
    _, errors = process.communicate(timeout=60)
    assert errors == "rtmtass: --report goes with one process; leave out --jobs 2\n"
    assert process.returncode == 2


def test_a_process_is_started_only_where_it_is_worth_its_second(tmp_path: Path) -> None:
    for k in range(3):
        with (tmp_path / f"{k}.wav").open("wb") as file:
            file.truncate(25_000_000)
    jobs = [Job(tmp_path / f"{k}.wav", {}) for k in range(3)]
    assert [n_processes(jobs, cores) for cores in (1, 2, 8)] == [1, 2, 3]
    assert n_processes(jobs[:1], 8) == 1
    assert n_processes([Job(tmp_path / "none.wav", {})] * 5, 8) == 1


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="Linux")
def test_threads_that_share_a_core_count_once(tmp_path: Path) -> None:
    cores = sorted(os.sched_getaffinity(0))
    assert n_physical_cores(tmp_path) == len(cores)
    for number in cores:
        folder = tmp_path / f"cpu{number}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{cores[0]},{cores[-1]}\n")
    assert n_physical_cores(tmp_path) == 1


def test_shards_divide_the_recordings_and_stay() -> None:
    paths = [Path(f"season {k % 7}/talk {k}.flac") for k in range(3000)]
    counts = np.bincount([shard_of(path, 8) for path in paths], minlength=8)
    assert counts.min() > 0.8 * 3000 / 8
    assert counts.max() < 1.2 * 3000 / 8
    assert [shard_of(path, 8) for path in paths[:6]] == [4, 2, 4, 0, 6, 4]
