"""Machine code is kept wherever it may be kept, and nowhere else it still runs."""

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
# May read all, since Python itself can lie in root's home, but write no more than anybody.
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
from rtmtass.dsp.live_resample import _convert as kernel
floats = np.zeros((8, 1), np.float32)
kernel(floats, 0, np.zeros(1, np.int64), 1, 2, floats.reshape(2, 4), floats)
print("RESULT", CACHE_FOLDER, sum(kernel.stats.cache_hits.values()))
"""
"""The smallest kernel there is stands for all: they are kept in the same way."""


class Install:
    """A copy of the package that nobody may write to, and somebody who isn't its owner."""

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
    # pytest's own temporary folders are closed to other users.
    folder = Path(tempfile.mkdtemp(prefix="rtmtass-read-only-"))
    made = Install(folder)
    try:
        probe = "import os, numba; print(os.getuid())"
        answer = made.run(probe)
        if answer.returncode or not answer.stdout.startswith(str(made.user)):
            pytest.skip(f"no other user can run {sys.executable}: {answer.stderr[-80:].strip()}")
        yield made
    finally:
        made.writable()
        shutil.rmtree(folder)


def result(answer: subprocess.CompletedProcess[str]) -> tuple[str, int]:
    assert answer.returncode == 0, answer.stderr
    word, folder, hits = answer.stdout.split()
    assert word == "RESULT"
    return folder, int(hits)


def test_a_read_only_install_keeps_its_machine_code_in_the_users_cache(install: Install) -> None:
    first = result(install.run(CALL))
    assert first[0].startswith(str(install.home / ".cache" / "rtmtass"))
    assert first[1] == 0
    assert result(install.run(CALL)) == (first[0], 1)
    assert not list(install.package.rglob("__pycache__"))


def test_with_nowhere_to_write_it_runs_all_the_same(install: Install) -> None:
    for _ in range(2):
        assert result(install.run(CALL, home=install.package))[1] == 0
    assert not list(install.package.rglob("__pycache__"))
