"""C programs over the library, watched: memory, system calls, threads, damaged models."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from native_builds import C_FOLDER, MODEL, Builds, needs
from native_library import Library, model_bytes, noise
from native_models import file_of

from rtmtass.native.build import C_SOURCES
from rtmtass.native.parts import C_FOLDER as LIBRARY_SOURCES
from rtmtass.native.targets import find_target

pytestmark = needs("cc")
WARNINGS = ("-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror")
BASELINE = "baseline"
"""The build that runs everywhere, also under Valgrind, which knows no AVX-512."""
SANITIZERS = {
    "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0:strict_string_checks=1",
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1",
}
Compile = Callable[..., Path]


def run(*command: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; its exit code is the caller's to judge."""
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False,
        env={**os.environ, **SANITIZERS}, **options,  # type: ignore[call-overload]
    )  # fmt: skip


def assert_done(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, f"{done.returncode}\n{done.stdout}\n{done.stderr[-4000:]}"


@pytest.fixture
def compiled(builds: Builds, tmp_path: Path) -> Compile:
    """A function that compiles a program of `tests/native` with the library's own sources."""
    kernels = builds.kernels()

    def compile_program(name: str, *options: str) -> Path:
        program = tmp_path / name
        done = run(
            "cc", *WARNINGS, "-g", "-O1", *options, "-I", LIBRARY_SOURCES, "-I", kernels,
            C_FOLDER / f"{name}.c", *(LIBRARY_SOURCES / source for source in C_SOURCES),
            *sorted(kernels.glob("*.o")), "-o", program, "-lm", "-pthread",
        )  # fmt: skip
        assert_done(done)
        return program

    return compile_program


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / f"{MODEL}.rtm"
    path.write_bytes(model_bytes("int8"))
    return path


@needs("valgrind")
def test_a_lifetime_leaves_no_memory_behind_and_reads_none_that_was_not_written(
    compiled: Compile, model: Path
) -> None:
    done = run(
        "valgrind", "--leak-check=full", "--show-leak-kinds=all", "--errors-for-leak-kinds=all",
        "--error-exitcode=9", compiled("lifetime"), model, BASELINE, "6",
    )  # fmt: skip
    assert_done(done)
    assert "All heap blocks were freed -- no leaks are possible" in done.stderr
    assert "ERROR SUMMARY: 0 errors" in done.stderr


SANITIZED = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def test_a_lifetime_passes_the_sanitizers(compiled: Compile, model: Path) -> None:
    program = compiled("lifetime", *SANITIZED)
    for variant in find_target().variants[-2:]:
        done = run(program, model, variant.name, "30")
        if done.returncode == 1 and "failed: open" in done.stderr and variant.name != BASELINE:
            continue  # another processor's
        assert_done(done)


@pytest.fixture(scope="module", params=["gated", "multiscale"])
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model so small that hundreds of damaged ones take seconds."""
    path = tmp_path_factory.mktemp("small") / "small.rtm"
    path.write_bytes(file_of(request.param, "int8"))
    return path


def counts(done: subprocess.CompletedProcess[str]) -> list[int]:
    assert_done(done)
    return [int(word) for word in done.stdout.split()]


def test_damaged_models_are_refused_or_run(compiled: Compile, small: Path) -> None:
    opened, argument, memory, no_model, version, damaged, *others = counts(
        run(compiled("fuzz", *SANITIZED), small, BASELINE, "800")
    )
    assert not any([argument, memory, *others])
    assert damaged > 250
    assert no_model
    assert version
    assert opened  # some changes are harmless, and were run


@needs("valgrind")
def test_damaged_models_are_refused_or_run_within_their_memory(
    compiled: Compile, small: Path
) -> None:
    done = run("valgrind", "-q", "--error-exitcode=9", compiled("fuzz"), small, BASELINE, "40")
    assert sum(counts(done)) == 40


def test_threads_do_not_race(compiled: Compile, model: Path) -> None:
    program = compiled("threads", "-fsanitize=thread")
    # Without random addresses: some versions of the tool know no room for its tables then.
    fixed = ["setarch", platform.machine(), "-R"] if shutil.which("setarch") else []
    assert_done(run(*fixed, program, model, "300"))


@pytest.mark.skipif(platform.system() != "Linux", reason="seccomp is of Linux")
def test_process_allocates_nothing_and_makes_no_system_call(compiled: Compile, model: Path) -> None:
    done = run(compiled("sealed"), model, "1000")
    if done.returncode == 77 and not done.stdout:
        pytest.skip("this system has no seccomp")
    assert_done(done)
    assert done.stdout == "nothing was allocated\n"


@needs("pkg-config")
def test_the_example_compiles_as_the_export_says_and_gives_the_librarys_stems(
    builds: Builds, tmp_path: Path
) -> None:
    folder = tmp_path / "moved folder"  # pkg-config's file holds no path
    shutil.copytree(builds.library(), folder)
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "rtmtass"], capture_output=True, text=True, check=True,
        env={**os.environ, "PKG_CONFIG_PATH": str(folder / "lib" / "pkgconfig")},
    ).stdout  # fmt: skip
    program = tmp_path / "example"
    words = [re.sub(r"\\(.)", r"\1", word) for word in re.split(r"(?<!\\)\s+", flags.strip())]
    rpath = f"-Wl,-rpath,{folder / 'lib'}"
    assert_done(run("cc", *WARNINGS, folder / "example.c", *words, rpath, "-o", program))
    x = noise(1, 48000)
    done = subprocess.run(
        [program, folder / f"{MODEL}.rtm"], input=x.tobytes(), capture_output=True, check=True
    )
    library = Library(folder / "lib" / find_target().shared_name)
    stream = library.open((folder / f"{MODEL}.rtm").read_bytes()).stream(48000)
    stems = np.frombuffer(done.stdout, np.float32).reshape(-1, 3).T
    np.testing.assert_array_equal(stems, stream.process(x))
    assert f"{stream.latency} samples late" in done.stderr.decode()


def test_the_static_library_links_alone(builds: Builds, model: Path, tmp_path: Path) -> None:
    folder, program = builds.library(), tmp_path / "lifetime"
    done = run(
        "cc", *WARNINGS, "-I", folder / "include", C_FOLDER / "lifetime.c",
        folder / "lib" / "librtmtass.a", "-o", program, "-lm",
    )  # fmt: skip
    assert_done(done)
    assert_done(run(program, model, BASELINE, "4"))


@pytest.mark.skipif(platform.system() != "Linux", reason="reads ELF")
@needs("nm")
def test_the_library_exports_its_functions_and_needs_libc_alone(builds: Builds) -> None:
    library = builds.library() / "lib" / "librtmtass.so"
    lines = run("nm", "-D", library).stdout.splitlines()
    defined = {line.split()[-1] for line in lines if " T " in line}
    header = (builds.library() / "include" / "rtmtass.h").read_text()
    assert defined == set(re.findall(r"\b(rtmtass_\w+)\(", header))
    versions = re.findall(r"@GLIBC_([\d.]+)", "\n".join(lines))
    assert versions
    assert max(tuple(map(int, version.split("."))) for version in versions) <= (2, 17)
