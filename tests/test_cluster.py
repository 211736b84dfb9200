"""Recordings separated on a cluster, but for Ray itself: lists, URLs, workers, tables, rounds."""

from __future__ import annotations

import functools
import http.server
import io
import pickle
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from noise_files import write_noise

import rtmtass
from rtmtass.cli.main import main
from rtmtass.cluster import pool, urls
from rtmtass.cluster.done import divide
from rtmtass.cluster.listing import on_all_machines, read_inputs
from rtmtass.cluster.results import Table
from rtmtass.cluster.task import Row, Task
from rtmtass.cluster.work import Setting, Worker
from rtmtass.errors import InputError, MissingPartError, OutputError, RtmtassError, UsageError
from rtmtass.fullband import StreamSeparator
from rtmtass.offline.plan import Job, SeparateOptions, plan
from rtmtass.offline.provenance import describe_model
from rtmtass.offline.separate import NullProgress, separate_files

fsspec = pytest.importorskip("fsspec")
DESCRIBE = functools.partial(describe_model, "rtmtass-small", "auto", 1, "numba")
MODEL = DESCRIBE()
STEMS = ("speech", "music", "noise")


@functools.cache
def load() -> StreamSeparator:
    return rtmtass.load()


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    write_noise(folder, [8000 * (1 + k) for k in range(3)], seed=1)
    (folder / "text.wav").write_text("no sound")
    return folder


@pytest.fixture(scope="module")
def plain(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `separate` without a cluster makes of the recordings."""
    folder = tmp_path_factory.mktemp("plain")
    options = SeparateOptions(folder=folder, model=MODEL)
    list(separate_files(plan([recordings], options), options, load, NullProgress()))
    return folder


@pytest.fixture
def memory() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def tasks_of(inputs: Sequence[object], options: SeparateOptions) -> list[Task]:
    return list(read_inputs([str(text) for text in inputs], options).tasks)


def options_to(folder: str | Path, **more: Any) -> SeparateOptions:
    return on_all_machines(SeparateOptions(folder=Path(folder), model=MODEL, **more))


def worker(options: SeparateOptions) -> Worker:
    return Worker(Setting(options, load, DESCRIBE))


def samples(data: bytes) -> np.ndarray:
    read: np.ndarray = soundfile.read(io.BytesIO(data), dtype="float32")[0]
    return read


def ignore(_: int) -> None:
    pass


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("s3://bucket/a/talk.flac", "s3:/bucket/a/talk.flac"),
        ("memory://a.wav", "memory:/a.wav"),
        ("S3://bucket/a b?.wav", "s3:/bucket/a b?.wav"),
        ("https://host:1/a.wav?key=x#y", "https:/host:1/a.wav"),
    ],
)
def test_a_url_has_a_path_with_its_folders_and_suffix(url: str, path: str) -> None:
    assert urls.is_url(url)
    assert urls.as_path(url) == Path(path)
    assert urls.as_url(urls.as_path(url)) == path.replace(":/", "://", 1)


@pytest.mark.parametrize("text", ["/a/b.wav", "b.wav", "c:/a.wav", "a:b.wav", "/s3:/bucket/a.wav"])
def test_a_path_is_no_url(text: str) -> None:
    assert not urls.is_url(text)
    assert not urls.as_url(Path(text))
    assert urls.as_path("file:///a/b%20c.wav") == Path("/a/b c.wav")


def test_a_list_has_one_recording_a_line(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(recordings)
    names = [
        "0.wav",
        str(recordings / "0.wav"),
        "memory://in/0.wav",
        "memory://in/0.wav",
        "none.wav",
    ]
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n\n".join(names).encode())
    listing = read_inputs([str(tmp_path / "list.txt")], options_to(tmp_path / "out"))
    assert [task.name for task in listing.tasks] == ["0.wav", "memory://in/0.wav", "none.wav"]
    assert [task.url for task in listing.tasks] == ["", "memory://in/0.wav", ""]
    assert listing.tasks[0].job.path == recordings / "0.wav"
    assert listing.n_repeated == 2
    targets = [target for task in listing.tasks for target in task.job.targets.values()]
    assert len(set(targets)) == 9
    assert all(target.is_relative_to(tmp_path / "out") for target in targets)


def test_addresses_that_differ_in_their_query_are_two_recordings(tmp_path: Path) -> None:
    names = ["http://host/get?id=1", "http://host/get?id=2", "http://host/talk.flac?key=1"]
    tasks = tasks_of(names, options_to(tmp_path))
    assert [task.url for task in tasks] == names
    assert len({task.job.targets["speech"] for task in tasks}) == 3
    assert tasks[2].job.targets["speech"] == tmp_path / "talk.speech.flac"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "the list {} doesn't exist; check the path"),
        (b"RIFF\0\0", "{} isn't a list of paths, one a line, but another kind of file"),
        (b"\n \n", "{}: no recording is listed; give one path a line"),
    ],
)
def test_a_list_that_is_none_is_named(data: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(InputError) as error:
        tasks_of([path], options_to(tmp_path))
    assert str(error.value) == message.format(path)


def test_outputs_are_written_to_the_folder_of_a_url_but_not_to_a_web_server(tmp_path: Path) -> None:
    options = on_all_machines(SeparateOptions(model=MODEL))
    (task,) = tasks_of(["memory://in/0.wav"], options)
    assert task.targets["music"] == "memory://in/0.music.wav"
    with pytest.raises(OutputError, match="a web server only reads; add -o FOLDER"):
        tasks_of(["https://host/0.wav"], options)
    with pytest.raises(UsageError, match="a cluster can't write to stdout"):
        options_to("-")


def test_a_worker_writes_what_separate_writes(
    recordings: Path, plain: Path, tmp_path: Path
) -> None:
    tasks = tasks_of([recordings], options_to(tmp_path))
    batch = {"task": [pickle.dumps(task) for task in tasks]}
    rows = [pickle.loads(data) for data in worker(options_to(tmp_path))(batch)["row"]]
    assert [(Path(row.name).name, row.status) for row in rows] == [
        ("0.wav", "done"), ("1.wav", "done"), ("2.wav", "done"), ("text.wav", "failed"),
    ]  # fmt: skip
    assert [row.duration_s for row in rows[:3]] == [0.5, 1.0, 1.5]
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_bytes() for path in plain.iterdir()}
    again = worker(options_to(tmp_path)).separate(tasks[1])
    assert (again.status, again.duration_s) == ("done", 1.0)  # as after the loss of its row


def test_urls_are_read_and_written(
    recordings: Path, plain: Path, memory: Any, tmp_path: Path
) -> None:
    memory.pipe("/in/1.wav", (recordings / "1.wav").read_bytes())
    options = options_to("memory://out")
    (task,) = tasks_of(["memory://in/1.wav"], options)
    row = worker(options).separate(task)
    assert row.message == ""
    assert row.outputs == {stem: f"memory://out/1.{stem}.wav" for stem in STEMS}
    for stem in STEMS:
        expected = samples((plain / f"1.{stem}.wav").read_bytes())
        np.testing.assert_array_equal(samples(memory.cat(f"/out/1.{stem}.wav")), expected)
    assert sorted(memory.ls("/out", detail=False)) == sorted(f"/out/1.{s}.wav" for s in STEMS)


def test_a_remote_file_that_is_no_object_gets_its_name_when_it_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_text("all of it")
    moved: list[tuple[str, ...]] = []
    system = fsspec.filesystem("file")
    move = system.mv

    def note(*names: str) -> None:
        moved.append(names)
        move(*names)

    monkeypatch.setattr(system, "mv", note)
    monkeypatch.setattr(urls, "file_system", lambda url, kind: (system, url[len("local://") :]))
    urls.upload(tmp_path / "a", f"local://{tmp_path}/out/b")
    assert moved == [(f"{tmp_path}/out/b.part", f"{tmp_path}/out/b")]
    assert [path.read_text() for path in (tmp_path / "out").iterdir()] == ["all of it"]


@pytest.fixture
def server(recordings: Path) -> Iterator[str]:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Handler, directory=str(recordings))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        thread = threading.Thread(target=web.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{web.server_port}"
        web.shutdown()
        thread.join()


def test_a_web_server_is_read(server: str, plain: Path, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    options = options_to(tmp_path)
    good, missing, text = tasks_of(
        [f"{server}/{name}" for name in ("2.wav?key=1", "none.wav", "text.wav")], options
    )
    row = worker(options).separate(good)
    assert row.message == ""
    for stem in STEMS:
        data = (tmp_path / f"2.{stem}.wav").read_bytes()
        np.testing.assert_array_equal(
            samples(data), samples((plain / f"2.{stem}.wav").read_bytes())
        )
    row = worker(options).separate(missing)
    assert row.message == f"{server}/none.wav doesn't exist; check the address"
    row = worker(options).separate(text)
    assert row.message.startswith(f"{server}/text.wav ")
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("name", ["memory://in/none.wav", "none.wav", "nonsense://a/b.wav"])
def test_a_recording_that_is_not_there_is_a_row(name: str, tmp_path: Path) -> None:
    options = options_to(tmp_path)
    (task,) = tasks_of([name], options)
    row = worker(options).separate(task)
    assert (row.name, row.status, row.traceback, row.ends_job) == (name, "failed", "", False)
    assert name in row.message
    assert "\n" not in row.message


def test_a_folder_that_cannot_be_written_is_a_row(recordings: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    options = options_to(tmp_path / "file" / "out")
    row = worker(options).separate(tasks_of([recordings / "0.wav"], options)[0])
    assert (row.status, row.traceback) == ("failed", "")
    assert str(tmp_path / "file") in row.message


def test_a_machine_with_another_model_ends_the_job(recordings: Path, tmp_path: Path) -> None:
    options = options_to(tmp_path)
    (task,) = tasks_of([recordings / "0.wav"], options)
    row = Worker(Setting(options, load, lambda: "another")).separate(task)
    assert row.ends_job
    assert "the model isn't the one of the machine that started the job" in row.message


def test_done_recordings_are_not_sent(recordings: Path, memory: Any, tmp_path: Path) -> None:
    memory.pipe("/in/1.wav", (recordings / "1.wav").read_bytes())
    for folder in (str(tmp_path), "memory://out"):
        options = options_to(folder)
        tasks = tasks_of([recordings / "0.wav", "memory://in/1.wav", recordings / "2.wav"], options)
        left, rows = divide(tasks, options, ignore)
        assert [task.name for task in left] == [tasks[i].name for i in (2, 1, 0)]  # by size
        assert rows == []
        for task in left[:2]:
            assert worker(options).separate(task).status == "done"
        seen: list[int] = []
        left, rows = divide(tasks, options, seen.append)
        assert [task.name for task in left] == [tasks[0].name]
        assert [(row.name, row.status) for row in rows] == [
            (tasks[1].name, "skipped"),
            (tasks[2].name, "skipped"),
        ]
        assert seen == [1, 2, 3]
        left, rows = divide(tasks, options_to(folder, channels="mono"), ignore)
        assert [row.status for row in rows] == ["failed", "failed"]
        assert "is of other settings; add --overwrite" in rows[0].message
        left, rows = divide(tasks, options_to(folder, overwrite=True), ignore)
        assert (len(left), rows) == (3, [])


def test_of_outputs_only_those_that_are_missing_are_written(
    recordings: Path, memory: Any, tmp_path: Path
) -> None:
    options = options_to("memory://out")
    tasks = tasks_of([recordings / "1.wav"], options)
    assert worker(options).separate(tasks[0]).status == "done"
    memory.rm("/out/1.music.wav")
    (task,), _ = divide(tasks, options, ignore)
    assert set(task.job.targets) == {"music"}
    assert worker(options).separate(task).status == "done"
    assert memory.exists("/out/1.music.wav")


class FakeRay:
    """Stands in for Ray: runs blocks here, and loses those that `loses` names."""

    def __init__(self, loses: Callable[[str, int], bool], **resources: float) -> None:
        self._loses, self._resources = loses, resources
        self.rounds: list[list[str]] = []
        self.data = self
        self.DataContext = self

    def get_current(self) -> FakeRay:
        return self

    def cluster_resources(self) -> dict[str, float]:
        return self._resources

    def ActorPoolStrategy(self, **options: int) -> dict[str, int]:
        return options

    def from_items(self, rows: list[Any], override_num_blocks: int) -> FakeRay:
        self._rows = rows
        return self

    def map_batches(self, make: Any, **options: Any) -> FakeRay:
        self.options = options
        return self

    def iter_batches(self, **_: Any) -> Iterator[dict[str, list[bytes]]]:
        names = [pickle.loads(row["task"]).name for row in self._rows]
        self.rounds.append(names)
        for name in names:
            if not self._loses(name, len(self.rounds)):
                yield {"row": [pickle.dumps(Row(name, "done"))]}


def named(*names: str) -> list[Task]:
    return [Task(name, Job(Path(name), {})) for name in names]


def run(ray: FakeRay, tasks: list[Task], *, on_gpu: bool = False) -> list[Row]:
    setting = Setting(SeparateOptions(), load, DESCRIBE)
    return list(pool.run_tasks(ray, tasks, setting, on_gpu=on_gpu))


def test_what_a_lost_worker_had_is_sent_again() -> None:
    ray = FakeRay(lambda name, n: name == "b" and n == 1, CPU=2.0)
    rows = run(ray, named("a", "b", "c"))
    assert [(row.name, row.status) for row in rows] == [("a", "done"), ("c", "done"), ("b", "done")]
    assert ray.rounds == [["a", "b", "c"], ["b"]]
    assert ray.options["num_cpus"] == 1


def test_a_recording_that_ends_every_worker_is_a_row() -> None:
    ray = FakeRay(lambda name, n: name == "b", CPU=2.0)
    rows = run(ray, named("a", "b", "c"))
    assert [(row.name, row.status) for row in rows][2:] == [("b", "failed")]
    assert rows[2].message.startswith("b: its worker was lost each time; is there enough memory")
    assert ray.rounds[1:] == [["b"]] * pool.FRUITLESS


def test_a_cluster_that_gives_up_is_one_line() -> None:
    def give_up(name: str, n: int) -> bool:
        error = type("RayTaskError", (Exception,), {"__module__": "ray.exceptions"})
        raise error("Traceback\n  a line\nModuleNotFoundError: No module named 'rtmtass'\n")

    with pytest.raises(RtmtassError) as raised:
        run(FakeRay(give_up, CPU=1.0), named("a"))
    assert str(raised.value).startswith(
        "the Ray cluster gave up: ModuleNotFoundError: No module named 'rtmtass'; all its machines"
    )


def test_rows_alone_reach_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    stream = pool._WithoutRay(sys.stdout)
    thread = threading.Thread(target=lambda: print("(raylet) a machine was lost", file=stream))
    thread.start()
    thread.join()
    print("a row", file=stream, flush=True)
    assert capsys.readouterr().out == "a row\n"
    assert stream.encoding == sys.stdout.encoding


def test_models_share_a_gpu_and_a_cluster_without_one_is_named() -> None:
    ray = FakeRay(lambda name, n: False, CPU=8.0, GPU=1.0)
    run(ray, named("a", "b", "c", "d", "e"), on_gpu=True)
    assert ray.options["num_gpus"] == 0.25
    assert ray.options["compute"]["max_size"] == 4
    with pytest.raises(RtmtassError, match=r"no GPU for a model.*ray start --num-gpus 1"):
        run(FakeRay(lambda name, n: False, CPU=8.0), named("a"), on_gpu=True)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "no Ray cluster can be reached at 127.0.0.1:1 (Connection refused); start"
         " one there with: ray start --head --port 1, or use --ray local"),
        ("127.0.0.1:99999", "no Ray cluster can be reached at 127.0.0.1:99999"),
        ("ray://host:10001", "--ray ray://host:10001 isn't local, auto or HOST:PORT"),
        ("host", "--ray host isn't local, auto or HOST:PORT"),
    ],
)  # fmt: skip
def test_an_address_without_a_cluster_is_one_line(address: str, message: str) -> None:
    with pytest.raises(RtmtassError) as error, pool.connect(address, 1):
        pass
    assert str(error.value).startswith(message)


def test_a_missing_package_is_named(
    recordings: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    command = ["separate", str(recordings), "-o", str(tmp_path / "out")]
    assert main([*command, "--ray", "local"]) == 1
    assert capsys.readouterr().err == "rtmtass: --ray needs Ray: pip install 'rtmtass[ray]'\n"
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingPartError, match="pip install 'rtmtass"):
        Table(str(tmp_path))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ray", "auto", "--jobs", "2"], "--jobs doesn't go with --ray: it has one worker for"),
        (["--ray", "auto", "--shard", "1/2"], "--shard doesn't go with --ray: the cluster divides"),
        (["--results", "a"], "--results is of a cluster; add --ray ADDRESS, or leave it out"),
        (["--ray", "auto", "-o", "-", "--stems", "speech"], "a cluster can't write to stdout"),
    ],
)
def test_options_that_do_not_go_with_a_cluster_are_refused(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["separate", "a.wav", *words]) == 2
    assert capsys.readouterr().err.startswith(f"rtmtass: {message}")


def test_a_table_has_a_row_for_each_recording(memory: Any, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [
        Row("a.wav", "done", {"speech": "a.speech.wav"}, 2.5, 0.1, host="one"),
        Row("b\udcff.wav", "failed", message="why"),
    ]
    for folder in (str(tmp_path / "tables"), "memory://tables"):
        table = Table(folder)
        table.add(rows)
        table.close()
        with fsspec.open(table.place, "rb") as file:
            read = parquet.read_table(file).to_pylist()
        assert [row["path"] for row in read] == ["a.wav", "b\\udcff.wav"]
        assert read[0]["outputs"] == [{"stem": "speech", "path": "a.speech.wav"}]
        assert (read[0]["seconds"], read[1]["message"]) == (2.5, "why")
    assert len(list((tmp_path / "tables").iterdir())) == 1
    empty = Table(str(tmp_path / "tables"))
    empty.close()
    assert empty.place == ""
    assert len(list((tmp_path / "tables").iterdir())) == 1


def test_a_table_that_cannot_be_written_is_named_at_the_start(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"can't be written .*--results"):
        Table(str(tmp_path / "file" / "out"))
