"""Native builds: each made once a test run, for all of its processes.

Run as a program, `native_builds.py FOLDER export …`, it is the command line with the kernels of
the test run whose builds are in FOLDER.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import pytest

from rtmtass.cli.main import main
from rtmtass.native import build, export
from rtmtass.native.build import build_objects, n_steps
from rtmtass.native.targets import TARGETS, Target, find_target, this_machine

MODEL = "rtmtass-small"
C_FOLDER = Path(__file__).parent / "native"
IS_CI = os.environ.get("CI") == "true"
_PATIENCE_S = 900

PACKAGES = {"cc": "gcc", "node": "nodejs", "pkg-config": "pkgconf", "qemu-aarch64": "qemu-user"}
"""What `apt-get install` calls the programs that have another name there."""


def needs(*programs: str) -> pytest.MarkDecorator:
    """Skip tests where the compiler package or a program is missing, except in CI."""
    missing = [name for name in programs if not shutil.which(name)]
    reasons = ["apt-get install " + " ".join(PACKAGES.get(name, name) for name in missing)]
    reasons = reasons if missing else []
    if find_spec("ziglang") is None:
        reasons.append('pip install "rtmtass[native]"')
    if this_machine() not in TARGETS:
        reasons.append(f"no library for {this_machine()}")
    return pytest.mark.skipif(bool(reasons) and not IS_CI, reason="; ".join(reasons) or "-")


class Builds:
    """Native builds, each made by the first process of a test run that asks for it.

    Args:
        folder: shared by the processes of one test run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def command(self) -> list[str]:
        """Return the words that run the command line with the kernels of this test run."""
        return [sys.executable, __file__, str(self._folder)]

    @contextmanager
    def used(self) -> Iterator[None]:
        """Export with the kernels of this test run, which take most of the time."""
        with mock.patch.object(build, "build_objects", self._copy_kernels):
            yield

    def kernels(
        self, target: str | None = None, on_step: Callable[[str], None] = lambda step: None
    ) -> Path:
        """Return a folder with the objects of the kernels, and their headers."""
        found = find_target(target)
        return self._once(f"kernels-{found.name}", lambda path: build_objects(found, path, on_step))

    def library(self, target: str | None = None) -> Path:
        """Return the folder of `rtmtass export MODEL --native`."""
        settings = export.Settings(target=target)
        return self._export(
            f"library-{find_target(target).name}",
            lambda path: export.export_library(MODEL, path, settings),
        )

    def plugin(self, plugin_format: str) -> Path:
        """Return the folder of `rtmtass export MODEL --plugin`."""
        return self._export(
            plugin_format, lambda path: export.export_plugin(MODEL, plugin_format, path)
        )

    def wasm(self) -> Path:
        """Return the folder of `rtmtass export MODEL --wasm`."""
        return self._export("wasm", lambda path: export.export_wasm(MODEL, path))

    def page(self) -> Path:
        """Return the folder of `rtmtass export MODEL --page`."""
        return self._export("page", lambda path: export.export_page(MODEL, path))

    def _export(self, name: str, make: Callable[[Path], object]) -> Path:
        """Export with the kernels of this test run, which take most of the time."""

        def run(folder: Path) -> None:
            with self.used():
                make(folder)

        return self._once(name, run)

    def _copy_kernels(
        self, target: Target, folder: Path, on_step: Callable[[str], None] = lambda step: None
    ) -> Sequence[Path]:
        steps: list[str] = []

        def count(step: str) -> None:
            steps.append(step)
            on_step(step)

        shutil.copytree(self.kernels(target.name, count), folder, dirs_exist_ok=True)
        for _ in range(n_steps(target) - len(steps)):  # built before
            on_step("copying")
        return sorted(folder.glob("kernels_*.o"))

    def _once(self, name: str, make: Callable[[Path], object]) -> Path:
        folder, outcome = self._folder / name, self._folder / f"{name}.outcome"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            self._wait_for(outcome)
            return folder
        outcome.with_suffix(".pid").write_text(str(os.getpid()))
        error = "the process that built it was stopped"
        try:
            make(folder)
            error = ""
        except Exception as failure:
            error = f"{type(failure).__name__}: {failure}"
            raise
        finally:
            part = outcome.with_suffix(".part")
            part.write_text(error)
            part.replace(outcome)  # whole at once, for those who wait
        return folder

    @staticmethod
    def _wait_for(outcome: Path) -> None:
        end = time.monotonic() + _PATIENCE_S
        while not outcome.exists():
            assert time.monotonic() < end, f"{outcome} wasn't written"
            killed = _is_gone(outcome.with_suffix(".pid")) and not outcome.exists()
            assert not killed, f"the process that built {outcome.stem} was killed"
            time.sleep(0.1)
        assert not outcome.read_text(), outcome.read_text()


def _is_gone(pid: Path) -> bool:
    """Return whether the process whose number is in a file has ended; False without a number."""
    try:
        os.kill(int(pid.read_text() or 0), 0)
    except ProcessLookupError:
        return True
    except FileNotFoundError:
        return False
    return False


if __name__ == "__main__":
    with Builds(Path(sys.argv[1])).used():
        sys.exit(main(sys.argv[2:]))
