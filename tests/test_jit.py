"""Machine code is cached where a folder is writable; without one, kernels still run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "rtmtass"
NOBODY = 65534
# May read everything, since Python may be in root's home, but has no other rights.
AS_NOBODY = [
    "setpriv",
    f"--reuid={NOBODY}",
    f"--regid={NOBODY}",
    "--clear-groups",
    "--inh-caps=+dac_read_search",
    "--ambient-caps=+dac_read_search",
]
CALL = """
import numpy as np
from rtmtass.jit.compiler import CACHE_FOLDER
from rtmtass.dsp.live_resample import convert as kernel
floats = np.zeros((8, 1), np.float32)
kernel(floats, 0, np.zeros(1, np.int64), 1, 2, floats.reshape(2, 4), floats)
print("RESULT", CACHE_FOLDER, sum(kernel.stats.cache_hits.values()))
"""
"""The smallest kernel stands for all: they are cached alike."""


class Install:
    """A read-only copy of the package, and a user who doesn't own it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, folder / "home"
        self.package = folder / "site" / "rtmtass"
        shutil.copytree(PACKAGE, self.package, ignore=shutil.ignore_patterns("__pycache__"))
        self.home.mkdir()
        self.user = NOBODY if os.getuid() == 0 else os.getuid()
        if self.user == NOBODY:
            os.chown(self.home, NOBODY, NOBODY)
        folder.chmod(0o755)
        for path in (self.package, *self.package.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)

    def run(self, script: str, home: Path | None = None) -> subprocess.CompletedProcess[str]:
        environment = {
            k: v
            for k, v in os.environ.items()
            if k not in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "PYTHONPATH")
        }
        environment |= {"PYTHONPATH": str(self.package.parent), "HOME": str(home or self.home)}
        return subprocess.run(
            [*(AS_NOBODY if os.getuid() == 0 else []), sys.executable, "-c", script],
            env=environment,
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )

    def writable(self) -> None:
        for path in (self.package, *self.package.rglob("*")):
            path.chmod(0o755)


@pytest.fixture
def install() -> Iterator[Install]:
    if os.getuid() == 0 and not shutil.which("setpriv"):
        pytest.skip("root can't drop its rights without setpriv")
    # Other users can't read pytest's temporary folders.
    folder = Path(tempfile.mkdtemp(prefix="rtmtass-read-only-"))
    copy = Install(folder)
    try:
        probe = "import os, numba; print(os.getuid())"
        process = copy.run(probe)
        if process.returncode or not process.stdout.startswith(str(copy.user)):
            pytest.skip(f"no other user can run {sys.executable}: {process.stderr[-80:].strip()}")
        yield copy
    finally:
        copy.writable()
        shutil.rmtree(folder)


def result(process: subprocess.CompletedProcess[str]) -> tuple[str, int]:
    assert process.returncode == 0, process.stderr
    word, folder, hits = process.stdout.split()
    assert word == "RESULT"
    return folder, int(hits)


def test_a_read_only_install_caches_in_the_users_folder(install: Install) -> None:
    first = result(install.run(CALL))
    assert first[0].startswith(str(install.home / ".cache" / "rtmtass"))
    assert first[1] == 0
    assert result(install.run(CALL)) == (first[0], 1)
    assert not list(install.package.rglob("__pycache__"))


def test_kernels_run_without_a_writable_folder(install: Install) -> None:
    for _ in range(2):
        assert result(install.run(CALL, home=install.package))[1] == 0
    assert not list(install.package.rglob("__pycache__"))


HINT = """
import threading
from rtmtass.jit import compiler
compiler._HINT_S = 0
calls = []
with compiler.compile_once(lambda: calls.append(1)):
    exec({call!r})
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join()
print("RESULT", len(calls))
"""


def test_the_compile_hint_appears_only_when_something_compiles(install: Install) -> None:
    script = HINT.format(call=CALL.replace("RESULT", "INNER"))
    counts = [install.run(script).stdout.split("RESULT ")[1].strip() for _ in range(2)]
    assert counts == ["1", "0"]


TOGETHER = """
import sys
import numpy as np
from numba.core import event
from rtmtass.jit import compiler, turns
from rtmtass.dsp.live_resample import convert as kernel
compiler._HINT_S = 0
turns._PATIENCE_S = float(sys.argv[2])
class Count(event.Listener):
    n = 0
    def on_start(self, event):
        self.n += 1
    def on_end(self, event):
        pass
count, hints = Count(), []
floats = np.zeros((8, 1), np.float32)
print("ready", flush=True)
sys.stdin.readline()
with (
    getattr(compiler, sys.argv[1])(lambda: hints.append(1)),
    event.install_listener("numba:compile", count),
):
    kernel(floats, 0, np.zeros(1, np.int64), 1, 2, floats.reshape(2, 4), floats)
    print("compiled", flush=True)
    sys.stdin.readline()
print("RESULT", count.n, len(hints))
"""


class Starter:
    """Processes that wait for a line before they call a kernel, and for another to end."""

    def __init__(self, folder: Path, context: str, n: int, patience_s: float = 60.0) -> None:
        environment = os.environ | {"NUMBA_CACHE_DIR": str(folder)}
        command = [sys.executable, "-c", TOGETHER, context, str(patience_s)]
        self.processes = [
            subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for _ in range(n)
        ]
        for k in range(n):
            self.expect(k, "ready")

    def __enter__(self) -> Starter:
        return self

    def __exit__(self, *error: object) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()

    def expect(self, k: int, word: str) -> None:
        out = self.processes[k].stdout
        assert out is not None
        assert out.readline().strip() == word

    def go_on(self, k: int) -> None:
        into = self.processes[k].stdin
        assert into is not None
        into.write("\n")
        into.flush()

    def result(self, k: int) -> tuple[int, int]:
        out, _ = self.processes[k].communicate(timeout=60)
        word, compiled, hints = out.split()[-3:]
        assert word == "RESULT"
        return int(compiled), int(hints)


def remove_machine_code(folder: Path) -> None:
    for path in folder.rglob("*.nb[ic]"):
        path.unlink()


@pytest.mark.parametrize(("context", "n"), [("compile_once", 1), ("compile_hint", 3)])
def test_of_processes_that_start_together_one_compiles(
    context: str, n: int, tmp_path: Path
) -> None:
    with Starter(tmp_path, context, 3) as together:
        for k in range(3):
            together.go_on(k)
            together.go_on(k)
        results = [together.result(k) for k in range(3)]
    assert sum(compiled > 0 for compiled, _ in results) == n
    assert [hints for _, hints in results] == [1, 1, 1]  # those that wait say so too


def test_a_process_that_is_stopped_while_it_compiles_is_waited_for_only_so_long(
    tmp_path: Path,
) -> None:
    with Starter(tmp_path, "compile_once", 2, patience_s=0.3) as together:
        together.go_on(0)
        together.expect(0, "compiled")  # and stays within the context, with the lock
        remove_machine_code(tmp_path)
        together.go_on(1)
        together.expect(1, "compiled")
        together.go_on(1)
        assert together.result(1)[0] > 0


def test_the_right_to_compile_ends_with_its_process(tmp_path: Path) -> None:
    with Starter(tmp_path, "compile_once", 2) as together:
        together.go_on(0)
        together.expect(0, "compiled")
        remove_machine_code(tmp_path)
        together.go_on(1)
        together.processes[0].kill()
        together.expect(1, "compiled")
        together.go_on(1)
        assert together.result(1)[0] > 0
