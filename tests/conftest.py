"""Fixtures that several test files read and none writes, and which files a bare core can run."""

from __future__ import annotations

import ast
import os
import signal
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser import chromium, page, playwright

if TYPE_CHECKING:
    from native_builds import Builds
    from native_library import Library

    from rtmtass.training.data.corpus import Corpus

__all__ = ["chromium", "page", "playwright"]

_HERE = Path(__file__).parent
_LONG = (
    "test_bare_machine.py",
    "test_bench.py",
    "test_docs.py",
    "test_packaging.py",
    "test_jit.py",
    "test_native_api.py",
    "test_native_c_programs.py",
    "test_native_library.py",
    "test_native_mix.py",
    "test_native_plugins.py",
    "test_native_real_plugins.py",
    "test_native_targets.py",
    "test_native_wasm.py",
    "test_web_static.py",
    "test_web_static_files.py",
)
"""Files that install, compile or run all commands of the README; left out by --quick."""
_SLOWEST = (
    "test_live_jack.py",
    "test_docs.py",
    "test_reproducible.py",
    "test_distributed.py",
    "test_train.py",
    "test_cli.py",
    "test_net.py",
    "test_bench.py",
    "test_streams.py",
    "test_evaluate.py",
    "test_bench_ablations.py",
    "test_machine_code.py",
    "test_live_session.py",
    "test_bare_machine.py",
    "test_web_",
    "test_media",
    "test_native_wasm.py",
    "test_native_plugins.py",
    "test_native_c_programs.py",
)
"""Beginnings of the names of files that run first: no process is to end with one of them alone.

Those that use native builds come last of them: by then the first file has made the builds.
"""
_TRAINING = ("torch", "scipy", "rtmtass.net", "rtmtass.training", "rtmtass.evaluation")


def _needs_training(path: Path) -> bool:
    """Whether a test file, or a helper or benchmark that it imports, imports the training extra."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            if f"{name}.".startswith(tuple(f"{package}." for package in _TRAINING)):
                return True
            file = f"{name.replace('.', '/')}.py"
            helpers = [_HERE / file] + [_HERE.parent / file] * name.startswith("benchmarks.")
            if any(helper.exists() and _needs_training(helper) for helper in helpers):
                return True
    return False


collect_ignore = (
    []
    if find_spec("torch")
    else [p.name for p in sorted(_HERE.glob("test_*.py")) if _needs_training(p)]
)


for _number, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (getattr(signal, "SIGHUP", signal.SIGINT), signal.SIG_DFL),
):
    # Ignored in background jobs and under nohup, also by the commands that the tests start.
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --quick."""
    parser.addoption(
        "--quick",
        action="store_true",
        help="leave out training and live audio, and run each test with its first parameters only",
    )


def pytest_report_header() -> str:
    """Say which files aren't run here, and why."""
    if not collect_ignore:
        return "torch is installed: all test files run"
    return f"torch isn't installed: {len(collect_ignore)} test files are left out"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests over a sound server; begin with the slowest files; choose for --quick."""
    for item in items:
        if {"server", "card"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.realtime)
    items.sort(key=lambda item: _place(item.path.name))
    if config.getoption("--quick"):
        kept = _quick(items)
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept


def _place(name: str) -> int:
    """Return the place of a test file in the order of a run."""
    return next((k for k, start in enumerate(_SLOWEST) if name.startswith(start)), len(_SLOWEST))


def _quick(items: list[pytest.Item]) -> list[pytest.Item]:
    """Return the first case of each test, without those of training and of sound servers."""
    slow = {path for path in _HERE.glob("test_*.py") if _needs_training(path)}
    slow |= {_HERE / name for name in _LONG}
    firsts: dict[str, pytest.Item] = {}
    for item in items:
        if item.path not in slow and item.get_closest_marker("realtime") is None:
            firsts.setdefault(item.nodeid.partition("[")[0], item)
    return list(firsts.values())


@pytest.fixture(scope="session")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A corpus with recordings of every kind, and banks."""
    from device_corpora import fill_banks, write_rich_corpus

    from rtmtass.training.data.corpus import Corpus

    folder = tmp_path_factory.mktemp("rich")
    corpus = Corpus(write_rich_corpus(folder / "corpus"), folder / "cache")
    fill_banks(corpus)
    return corpus


@pytest.fixture(scope="session")
def pitched(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A corpus of tones, one frequency per role and split, without banks."""
    from corpora import make_corpus, tones

    from rtmtass.training.data.corpus import Corpus

    folder = tmp_path_factory.mktemp("pitched")
    return Corpus(make_corpus(folder / "corpus", tones), folder / "cache")


@pytest.fixture(scope="session")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Builds:
    """The native library and what is built around it, once for all processes of a test run."""
    from native_builds import Builds

    folder = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):  # each of them has a folder below the run's
        folder = folder.parent
    return Builds(folder / "native-builds")


@pytest.fixture(scope="session")
def library(builds: Builds) -> Library:
    """The shared library for this machine."""
    from native_library import Library

    from rtmtass.native.targets import find_target

    return Library(builds.library() / "lib" / find_target().shared_name)
