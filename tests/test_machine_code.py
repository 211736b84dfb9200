"""Kept machine code: never run from where others can write, never run damaged."""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba import njit

from rtmtass.jit import cache
from rtmtass.jit.cache import Store, kept_in
from rtmtass.jit.trust import is_safe_file, trusted_users, why_unsafe

USERS = trusted_users()
posix = pytest.mark.skipif(os.name == "nt", reason="folders have no modes on Windows")


def triple(x: float) -> float:
    return 3 * x


def is_from_cache(store: Store, x: Any = 2.0) -> bool:
    """Compile or load `triple` and call it; return whether it was loaded."""
    with kept_in(store):
        compiled = njit(cache=True)(triple)
    assert compiled(x) == 3 * x
    return bool(sum(compiled.stats.cache_hits.values()))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store([], tmp_path / "code", USERS)


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.WARNING, "rtmtass")
    return lambda: [record.getMessage() for record in caplog.records]


def files_of(store: Store) -> list[Path]:
    assert store.writable is not None
    return sorted(p for p in store.writable.rglob("*") if p.is_file())


def test_code_is_kept_and_found_again(store: Store) -> None:
    assert [is_from_cache(store) for _ in range(3)] == [False, True, True]
    assert [p.suffix for p in files_of(store)] == [".nbc", ".nbi"]


class Payload:
    """A pickle that creates a file when loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut in half": lambda data: data[: len(data) // 2],
    "one byte short": lambda data: data[:-1],
    "one byte long": lambda data: data + b"\0",
    "zeroed": lambda data: bytes(len(data)),
    "end zeroed": lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
    "without our header": lambda data: data[data.index(b"\n") + 33 :],
    "random": lambda data: np.random.default_rng(0).bytes(len(data)),
    **{
        f"bit flipped at {share:.0%}": (
            lambda data, share=share: (  # type: ignore[misc]
                data[: (k := int(share * (len(data) - 1)))] + bytes([data[k] ^ 4]) + data[k + 1 :]
            )
        )
        for share in (0, 0.03, 0.3, 0.6, 0.9, 1)
    },
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_code_is_compiled_again(damage: str, store: Store) -> None:
    is_from_cache(store)
    for path in files_of(store):
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
        assert [is_from_cache(store) for _ in range(2)] == [False, True]


def test_a_missing_file_is_compiled_again(store: Store) -> None:
    is_from_cache(store)
    for path in files_of(store):
        path.unlink()
        assert [is_from_cache(store) for _ in range(2)] == [False, True]


def test_a_pickle_without_our_checksum_is_not_loaded(store: Store, tmp_path: Path) -> None:
    is_from_cache(store)
    index, payload = files_of(store)[1], pickle.dumps(Payload(tmp_path / "ran"))
    for data in (payload, pickle.dumps("0.68.1") + payload, cache._HEADER + bytes(32) + payload):
        index.write_bytes(data)
        is_from_cache(store)
    assert not (tmp_path / "ran").exists()


@posix
@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_file_that_others_can_write_is_not_loaded(mode: int, store: Store) -> None:
    is_from_cache(store)
    for path in files_of(store):
        path.chmod(mode)
        assert [is_from_cache(store) for _ in range(2)] == [False, True]


@posix
def test_a_file_of_another_user_is_not_loaded(store: Store) -> None:
    is_from_cache(store)
    stranger = Store([], store.writable, frozenset({os.geteuid() + 1}))
    assert not is_from_cache(stranger)
    with files_of(store)[0].open() as file:
        assert is_safe_file(file.fileno(), USERS)
        assert not is_safe_file(file.fileno(), frozenset())


@posix
def test_files_are_for_one_user_to_write_whatever_the_umask(store: Store) -> None:
    before = os.umask(0)
    try:
        is_from_cache(store)
    finally:
        os.umask(before)
    assert store.writable is not None
    for path in (store.writable, *store.writable.rglob("*")):
        assert not path.stat().st_mode & 0o022, path
    assert is_from_cache(store)


@pytest.mark.parametrize("call", ["open", "replace"])
def test_a_full_disk_is_told_once_and_leaves_nothing(
    call: str, store: Store, told: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(cache.os, call, full)
        assert [is_from_cache(store, x) for x in (2.0, 2)] == [False, False]
    (message,) = told()
    assert "every start compiles it again: " in message
    assert "code: No space left on device; free some space" in message
    assert files_of(store) == []
    assert [is_from_cache(store) for _ in range(2)] == [False, True]


def test_a_folder_that_can_only_be_read_is_read(
    store: Store, told: Callable[[], list[str]]
) -> None:
    is_from_cache(store)
    assert store.writable is not None
    readonly = Store([store.writable], None, USERS, f"{store.writable} can't be written")
    before = {p: p.read_bytes() for p in files_of(store)}
    assert is_from_cache(readonly)
    assert told() == []
    assert not is_from_cache(readonly, 2)  # another type: compiled, and not kept
    assert not is_from_cache(readonly, 2)
    (message,) = told()
    assert "code can't be written; free some space or make the folder writable, or" in message
    assert {p: p.read_bytes() for p in files_of(store)} == before


def test_what_a_read_only_folder_lacks_is_kept_elsewhere(store: Store, tmp_path: Path) -> None:
    is_from_cache(store)
    assert store.writable is not None
    both = Store([store.writable], tmp_path / "own", USERS)
    assert is_from_cache(both)
    assert [is_from_cache(both, 2) for _ in range(2)] == [False, True]


# --- folders -----------------------------------------------------------------------------------


@posix
@pytest.mark.parametrize(
    ("modes", "why"),
    [
        ((0o700, 0o700), ""),
        ((0o755, 0o755), ""),
        ((0o755, 0o777), "others can write {}/a/b"),
        ((0o755, 0o775), "others can write {}/a/b"),
        ((0o755, 0o1777), "others can write {}/a/b"),  # anybody could add files
        ((0o777, 0o755), "others can write {}/a"),  # anybody could rename b
        ((0o1777, 0o755), ""),
    ],
)
def test_folders_that_others_can_write_are_unsafe(
    modes: tuple[int, int], why: str, tmp_path: Path
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b").chmod(modes[1])
    (tmp_path / "a").chmod(modes[0])
    (tmp_path / "link").symlink_to("a/b")
    for folder in (tmp_path / "a" / "b", tmp_path / "link"):
        unsafe = why_unsafe(folder, USERS)
        assert (unsafe.reason if unsafe else "") == why.format(tmp_path)
        if unsafe:
            subprocess.run(unsafe.advice, shell=True, check=True)  # it works as printed
            assert why_unsafe(folder, USERS) is None
            os.chmod(tmp_path / "a" / "b", modes[1])
            os.chmod(tmp_path / "a", modes[0])


@posix
def test_a_folder_not_made_yet_is_as_safe_as_those_above(tmp_path: Path) -> None:
    assert why_unsafe(tmp_path / "a" / "b", USERS) is None
    tmp_path.chmod(0o777)
    assert why_unsafe(tmp_path / "a" / "b", USERS) is not None


@posix
def test_folders_of_other_users_are_unsafe(tmp_path: Path) -> None:
    strangers = frozenset({os.geteuid() + 1})
    unsafe = why_unsafe(tmp_path, strangers)
    assert unsafe is not None
    assert unsafe.reason == f"{tmp_path} belongs to another user"
    if os.geteuid() == 0:
        (tmp_path / "theirs" / "ours").mkdir(parents=True)
        os.chown(tmp_path / "theirs", 65534, 65534)
        unsafe = why_unsafe(tmp_path / "theirs" / "ours", USERS)
        assert unsafe is not None
        assert unsafe.reason == f"{tmp_path}/theirs belongs to another user"


# --- whole programs ----------------------------------------------------------------------------

CALL = """
import numpy as np
from rtmtass.jit.compiler import CACHE_FOLDER
from rtmtass.dsp.live_resample import convert as kernel
def call():
    floats = np.zeros((8, 1), np.float32)
    kernel(floats, 0, np.zeros(1, np.int64), 1, 2, floats.reshape(2, 4), floats)
"""
RESULT = 'call(); print("RESULT", CACHE_FOLDER, sum(kernel.stats.cache_hits.values()))'


def run(script: str, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **changes}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip


@posix
def test_an_open_cache_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    script = "from rtmtass.jit.compiler import CACHE_FOLDER; print(CACHE_FOLDER)"
    done = run(script, NUMBA_CACHE_DIR=str(shared))
    assert done.returncode == 0
    assert not done.stdout.startswith(str(shared))
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"rtmtass: machine code isn't run from or kept in {shared}, because")
    assert line.endswith(f"; chmod go-w {shared}, or unset NUMBA_CACHE_DIR")
    shared.chmod(0o755)
    done = run(script, NUMBA_CACHE_DIR=str(shared))
    assert done.stdout.startswith(str(shared / "rtmtass-"))
    assert done.stderr == ""
    assert list(shared.iterdir()) == []


def test_a_cut_cache_is_compiled_again_by_the_next_start(tmp_path: Path) -> None:
    first = run(CALL + RESULT, NUMBA_CACHE_DIR=str(tmp_path))
    assert first.stdout.startswith(f"RESULT {tmp_path}")
    files = list(tmp_path.rglob("*.nb?"))
    assert files
    for path in files:
        path.write_bytes(b"")
    hits = []
    for _ in range(2):
        done = run(CALL + RESULT, NUMBA_CACHE_DIR=str(tmp_path))
        assert (done.returncode, done.stderr) == (0, "")
        hits.append(int(done.stdout.split()[-1]))
    assert hits == [0, 1]


LONG_CALL = """
import numpy as np
def call():
    import rtmtass
    rtmtass.load().process(np.zeros(4096, np.float32))
"""
"""Compiles for so long that a signal comes in time, however busy the computer."""
COMMAND = """
import os, signal, sys
from types import SimpleNamespace
from numba.core import event
from rtmtass.cli import main

class Stop(event.Listener):
    def on_start(self, event):
        print("BEGUN", flush=True)
        if {itself}:
            os.kill(os.getpid(), signal.SIGINT)
    def on_end(self, event):
        pass

def command(arguments):
    event.register("numba:{event}", Stop())
    call()
    print("RAN", flush=True)
    return 0

parsed = SimpleNamespace(run=command)
main.build_parser = lambda: SimpleNamespace(parse_args=lambda argv: parsed)
sys.exit(main.main([]))
"""


@posix
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_signals_while_compiling_end_the_command(stop: signal.Signals, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", LONG_CALL + COMMAND.format(itself=False, event="compile")],
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "BEGUN\n"
    process.send_signal(stop)
    out, err = process.communicate(timeout=60)
    assert "RAN" not in out
    assert (err, process.returncode) == ("rtmtass: stopped\n", 128 + stop)


@posix
def test_a_signal_while_machine_code_loads_is_never_lost(tmp_path: Path) -> None:
    run(CALL + RESULT, NUMBA_CACHE_DIR=str(tmp_path))
    script = CALL + COMMAND.format(itself=True, event="compiler_lock")
    done = run(script, NUMBA_CACHE_DIR=str(tmp_path))
    assert "RAN" not in done.stdout
    assert (done.stderr, done.returncode) == ("rtmtass: stopped\n", 130)
    shutil.rmtree(tmp_path)


@posix
def test_a_program_that_imports_us_gets_its_keyboard_interrupt(tmp_path: Path) -> None:
    script = (
        CALL
        + """
import os, signal
from numba.core import event
class Stop(event.Listener):
    def on_start(self, event):
        os.kill(os.getpid(), signal.SIGINT)
    def on_end(self, event):
        pass
event.register("numba:compile", Stop())
try:
    call()
except KeyboardInterrupt:
    print("INTERRUPTED", signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""
    )
    done = run(script, NUMBA_CACHE_DIR=str(tmp_path))
    assert (done.stdout, done.stderr) == ("INTERRUPTED True\n", "")
