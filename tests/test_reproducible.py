"""The same bits from the same kernels, for whichever processor and however they are compiled."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import pkgutil
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba import njit, types
from numba.core.dispatcher import Dispatcher
from numpy.typing import NDArray

import rtmtass
from rtmtass.dsp.fft import _split
from rtmtass.dsp.live_resample import Converter
from rtmtass.dsp.resample_filter import FRACTION, filter_table, fixed_step, wait_of
from rtmtass.jit import cpu
from rtmtass.jit.simd import LANES, dot, filtered, interpolate
from rtmtass.live.full_band import upsample

Floats = NDArray[np.float32]
ROOT = Path(__file__).parent.parent


# --- one compilation against another ------------------------------------------------------------


def noise(*shape: int) -> Floats:
    return (np.random.default_rng(0).standard_normal(shape) * 0.1).astype(np.float32)


def full_band() -> Floats:
    """Resample stems and a mixture as the live path does for a device of 48 kHz."""
    wait, rows = wait_of(16000, 48000), 768
    history = noise(3, 2, 4 * wait + 256)
    weights = np.full((3, history.shape[2]), 1 / 3, np.float32)
    out, taps = np.zeros((3, rows, 2), np.float32), np.zeros(2 * wait, np.float32)
    step = fixed_step(16000, 48000, 1.0)
    table = filter_table(16000, 48000)
    upsample(history, weights, wait << FRACTION, step, wait, table, taps, noise(rows, 2), out)
    return out


def narrow_band(channels: int) -> Floats:
    """Resample a device's block as the live path does."""
    converter = Converter(48000, 16000, channels, 4800)
    out = np.zeros((converter.room, channels), np.float32)
    return out[: converter.process(noise(4800, channels), out)]


def digests() -> dict[str, str]:
    """Return digests of what every kernel of a live stream gives."""
    results = {"up": full_band(), "down": narrow_band(1), "down, stereo": narrow_band(2)}
    for precision in ("int8", "f32"):
        for channels in (1, 2):
            separator = rtmtass.load(precision=precision, channels=channels)
            mixture = noise(12345) if channels == 1 else noise(12345, channels)
            results[f"{precision}, {channels}"] = separator.process(mixture)
    return {
        name: hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
        for name, array in results.items()
    }


_X86 = platform.machine().lower() in ("x86_64", "amd64") and {"avx2", "fma"} <= cpu.features()
_OTHER_PROCESSOR = {"NUMBA_CPU_NAME": "x86-64-v3", "NUMBA_CPU_FEATURES": ""} if _X86 else {}


def test_every_compilation_gives_the_same_bits(request: pytest.FixtureRequest) -> None:
    """Here with another int8 instruction set and, on x86, for another processor.

    One compilation is different from this one in both, since each takes half a minute; the other
    instruction sets are compared in `test_precisions`, and processors in `test_native_library`.
    The machine code is kept by pytest.
    """
    assert request.config.cache is not None
    environment = {
        **os.environ,
        **_OTHER_PROCESSOR,
        cpu.VARIABLE: "portable",
        "NUMBA_CACHE_DIR": str(request.config.cache.mkdir("machine-code")),
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, __file__], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == digests()


# --- nothing is left to the compiler ------------------------------------------------------------


def kernels() -> dict[str, Dispatcher]:
    """Return every compiled function of the package."""
    found = {}
    for room in ("jit", "dsp", "runtime", "live", "native"):
        package = importlib.import_module(f"rtmtass.{room}")
        for module in pkgutil.walk_packages(package.__path__, f"rtmtass.{room}."):
            path = ROOT / f"{module.name.replace('.', '/')}.py"
            if path.exists() and "@kernel" in path.read_text():
                for name, value in vars(importlib.import_module(module.name)).items():
                    if isinstance(value, Dispatcher):
                        found[f"{module.name}.{name}"] = value
    return found


def test_no_kernel_lets_the_compiler_fuse_or_reorder() -> None:
    found = kernels()
    assert {"rtmtass.dsp.fft.forward", "rtmtass.native.stream.process"} <= set(found)
    assert not [name for name, k in found.items() if k.targetoptions.get("fastmath")]


def test_the_ir_of_a_kernel_has_no_fast_arithmetic() -> None:
    """Numba adds its flags to every instruction of a kernel, those of `jit.simd` too."""
    array = types.Array(types.float32, 1, "C")
    pair = types.UniTuple(array, 2)
    kernel: Any = _split
    options = {k: v for k, v in kernel.targetoptions.items() if k not in ("cache", "nopython")}
    fresh = njit(**options)(kernel.py_func)
    fresh.compile((pair, pair, array, pair, pair))
    text = "".join(fresh.inspect_llvm().values())
    assert "llvm.fma" in text
    assert not [flag for flag in (" contract ", " reassoc ", " arcp ", " fast ") if flag in text]


# --- sums ---------------------------------------------------------------------------------------


def coarse(*shape: int, seed: int = 0) -> Floats:
    """Numbers of 11 bits and several sizes: their products are exact, their sums aren't."""
    rng = np.random.default_rng(seed)
    size = 2.0 ** rng.integers(-3, 4, shape)
    return (rng.integers(-2047, 2048, shape) * size).astype(np.float32)


def modelled(x: Floats, y: Floats) -> np.float32:
    """The order of `dot`, in numpy; exact products, so an addition is a fused one."""
    products = x * y
    whole = x.size // LANES * LANES
    total = np.zeros(LANES, np.float32)
    for at in range(0, whole, LANES):
        total = total + products[at : at + LANES]
    at, lanes = whole, LANES
    while lanes > 1:
        lanes //= 2
        total = total[:lanes] + total[lanes:]
        if x.size & lanes:
            total = total + products[at : at + lanes]
            at += lanes
    result: np.float32 = total[0]
    return result


@njit
def call_dot(x, y):
    return dot(x, y)


@njit
def call_filtered(lower, upper, fraction, x):
    return filtered(lower, upper, fraction, x)


@njit
def call_interpolate(lower, upper, fraction, out):
    interpolate(lower, upper, fraction, out)


SIZES = [0, 1, 2, 15, 16, 17, 31, 46, 63, 257]


@pytest.mark.parametrize("n", SIZES)
def test_a_dot_product_has_the_documented_order(n: int) -> None:
    x, y = coarse(n), coarse(n, seed=1)
    assert call_dot(x, y) == modelled(x, y)


def test_the_order_matters() -> None:
    """Or the test above would accept any."""
    pairs = [(coarse(257, seed=seed), coarse(257, seed=seed + 100)) for seed in range(10)]
    assert any(modelled(x, y) != modelled(x[::-1], y[::-1]) for x, y in pairs)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_filtering_is_the_dot_product_of_what_is_interpolated(n: int, channels: int) -> None:
    lower, upper, fraction = noise(n), coarse(n), np.float32(0.3)
    taps = np.full(n, np.nan, np.float32)
    call_interpolate(lower, upper, fraction, taps)
    exact = lower + np.float64(fraction) * (upper - lower)
    np.testing.assert_array_equal(taps, exact.astype(np.float32))
    x = noise(n, channels)
    for c in range(channels):
        expected = call_dot(taps, np.ascontiguousarray(x[:, c]))
        assert call_filtered(lower, upper, fraction, x[:, c]) == expected


if __name__ == "__main__":
    print(json.dumps(digests()))
