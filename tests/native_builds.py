"""Native builds: each made once a test run, for all of its processes."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import pytest

from rtmtass.native import export
from rtmtass.native.build import C_SOURCES, build_objects
from rtmtass.native.model_file import write_model
from rtmtass.native.parts import Parts
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

    def kernels(self, target: str | None = None) -> Path:
        """Return a folder with the objects of the kernels, and their headers."""
        found = find_target(target)
        return self._once(f"kernels-{found.name}", lambda path: build_objects(found, path))

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
        parts = Parts(C_SOURCES, lambda target: 0, self._copy_kernels, write_model)

        def run(folder: Path) -> None:
            with mock.patch.object(export, "load_parts", return_value=parts):
                make(folder)

        return self._once(name, run)

    def _copy_kernels(
        self, target: Target, folder: Path, on_step: Callable[[str], None]
    ) -> Sequence[Path]:
        shutil.copytree(self.kernels(target.name), folder, dirs_exist_ok=True)
        return sorted(folder.glob("kernels_*.o"))

    def _once(self, name: str, make: Callable[[Path], object]) -> Path:
        folder, outcome = self._folder / name, self._folder / f"{name}.outcome"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            self._wait_for(outcome)
            return folder
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
            time.sleep(0.1)
        assert not outcome.read_text(), outcome.read_text()
