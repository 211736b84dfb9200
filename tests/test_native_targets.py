"""The library for other systems, built here and run under emulation: the same stems."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from native_builds import MODEL, Builds, needs
from native_library import Library, model_bytes, noise, snr_db

from rtmtass.native.link import HEADER, exported_functions
from rtmtass.native.parts import C_FOLDER
from rtmtass.native.targets import TARGETS, find_target, this_machine
from rtmtass.native.zig import Zig
from rtmtass.types import Floats

pytestmark = [
    pytest.mark.cross,
    needs(),
    pytest.mark.skipif(this_machine() != "linux-x86_64", reason="compares with linux-x86_64"),
]
RATE = 48000
ARM_LIBC = Path("/usr/aarch64-linux-gnu")


@pytest.fixture(scope="module")
def x() -> Floats:
    return noise(1, RATE // 2)


def stems_here(builds: Builds, x: Floats, variant: str | None = None) -> Floats:
    library = Library(builds.library() / "lib" / find_target().shared_name)
    return library.open(model_bytes("int8"), variant).stream(RATE).process(x)


def example(folder: Path, target: str, *options: str | Path) -> Path:
    """Compile the example of an exported library as the export says."""
    program = folder / "example.exe"
    words = ("-O1", "-Wall", "-Wextra", "-Werror", f"-I{folder / 'include'}")
    Zig().cc(["-target", TARGETS[target].zig, *words, "example.c", *options, "-o", program], folder)
    return program


def stems_of(command: list[str | Path], folder: Path, x: Floats, **environment: str) -> Floats:
    done = subprocess.run(
        [*command, folder / f"{MODEL}.rtm"], input=x.tobytes(), capture_output=True, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    return np.frombuffer(done.stdout, np.float32).reshape(-1, 3).T


@needs("qemu-aarch64")
@pytest.mark.skipif(not ARM_LIBC.exists(), reason="apt-get install libc6-arm64-cross")
def test_arm_processors_give_the_bits_of_this_one(builds: Builds, x: Floats) -> None:
    """With the dot product of ARMv8.2, and on an older processor that lacks it."""
    folder = builds.library("linux-aarch64")
    program = example(folder, "linux-aarch64", folder / "lib" / "librtmtass.a")
    expected = stems_here(builds, x)
    for processor in ("max", "cortex-a53"):
        found = stems_of(["qemu-aarch64", "-L", ARM_LIBC, "-cpu", processor, program], folder, x)
        np.testing.assert_array_equal(found, expected, err_msg=processor)


@needs("wine")
@pytest.mark.parametrize("way", ["static", "dll"])
def test_windows_gives_the_stems_of_this_system(
    way: str, builds: Builds, x: Floats, tmp_path: Path
) -> None:
    folder = builds.library("windows-x86_64")
    lib = folder / "lib"
    options = [lib / "librtmtass.a"] if way == "static" else [f"-L{lib}", "-lrtmtass.dll"]
    program = example(folder, "windows-x86_64", *options)
    found = stems_of(
        ["wine", program], folder, x, WINEPREFIX=str(tmp_path / "wine"), WINEDEBUG="-all",
        WINEPATH=str(lib), DISPLAY="",
    )  # fmt: skip
    np.testing.assert_array_equal(found, stems_here(builds, x))


def test_the_library_for_macos_is_one_for_its_processors(builds: Builds) -> None:
    data = (builds.library("macos-arm64") / "lib" / "librtmtass.dylib").read_bytes()
    # Apple, mach-o/loader.h and mach/machine.h: MH_MAGIC_64, CPU_TYPE_ARM64, MH_DYLIB.
    magic, processor, _, kind = struct.unpack("<IiiI", data[:16])
    assert (magic, processor, kind) == (0xFEEDFACF, 0x0100000C, 6)
    for name in exported_functions((C_FOLDER / HEADER).read_text()):
        assert f"_{name}\0".encode() in data
    assert b"@rpath/librtmtass.dylib\0" in data


def test_the_build_without_fused_multiplication_differs_by_roundings(
    builds: Builds, x: Floats
) -> None:
    assert snr_db(stems_here(builds, x), stems_here(builds, x, "baseline")) > 45
