"""The native library's builder: one table of kernels, the limits of streams, its child process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from rtmtass.live.limits import HIGHEST_RATE_HZ, LOWEST_RATE_HZ
from rtmtass.native import build, model_words
from rtmtass.native.entries import ENTRIES
from rtmtass.native.parts import C_FOLDER
from rtmtass.native.targets import TARGETS

TIMEOUT_S = 120


def test_c_calls_the_kernels_with_the_arguments_they_are_compiled_for() -> None:
    assert {name: n for name, (_, n) in ENTRIES.items()} == build._ENTRIES
    for name, (kernel, n_arguments) in ENTRIES.items():
        assert kernel.py_func.__code__.co_argcount == n_arguments, name


def test_streams_take_the_rates_that_the_c_interface_names(tmp_path: Path) -> None:
    words = f"{LOWEST_RATE_HZ} to {HIGHEST_RATE_HZ} Hz"
    assert words in (C_FOLDER / "rtmtass.h").read_text()
    assert words in (C_FOLDER / "rtmtass.c").read_text()
    kilohertz = f"{LOWEST_RATE_HZ // 1000} to {HIGHEST_RATE_HZ // 1000} kHz"
    assert kilohertz in (C_FOLDER.parent / "PLUGINS.md").read_text()
    build.write_headers(TARGETS["linux-x86_64"], tmp_path)
    text = (tmp_path / "rtmtass_words.h").read_text()
    assert f"#define RTMTASS_MIN_RATE {LOWEST_RATE_HZ}\n" in text
    assert f"#define RTMTASS_MAX_RATE {HIGHEST_RATE_HZ}\n" in text


def test_every_model_can_run_at_its_own_rate() -> None:
    assert LOWEST_RATE_HZ <= model_words.LOWEST_RATE_HZ
    assert model_words.HIGHEST_RATE_HZ <= HIGHEST_RATE_HZ


def start_compiler(path: Path, *entries: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "rtmtass.native.ir", "portable", str(path), *entries]
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(path.parent)}
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_the_compiler_of_kernels_ends_with_the_process_that_waits_for_it(tmp_path: Path) -> None:
    path = tmp_path / "kernels.ll"
    with start_compiler(path, *ENTRIES) as child:
        _, said = child.communicate(timeout=TIMEOUT_S)  # closes its input
    assert (child.returncode, said) == (1, "")
    assert not path.exists()


def test_the_compiler_of_kernels_ends_when_it_is_done(tmp_path: Path) -> None:
    path = tmp_path / "kernels.ll"
    with start_compiler(path, "reset") as child:
        assert child.stderr is not None
        assert child.stderr.read() == ""
        assert child.wait(TIMEOUT_S) == 0
    assert path.stat().st_size > 1000
