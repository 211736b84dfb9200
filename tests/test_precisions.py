"""bf16 and int8 matmuls; every int8 instruction set gives the same integers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import pytest
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from rtmtass.config import PRECISIONS
from rtmtass.errors import UsageError
from rtmtass.jit import cpu
from rtmtass.jit.simd import LANES
from rtmtass.matmul.int8 import GROUP, ISAS, ROW_HEADER, microkernel, quantiser
from rtmtass.matmul.microkernels import PANEL, TILES, Emit, f32_microkernel
from rtmtass.matmul.packing import pack, pack_int8, to_bf16, to_int8
from rtmtass.matmul.products import REGISTRY, multiply
from rtmtass.runtime.compiled.memory import HUGE, LINE, allocate

Floats = NDArray[np.float32]
QUANTISED_STRIDE = ROW_HEADER + 1088


def random(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def expected_bytes(x: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Quantise in numpy: bytes and scales of each row."""
    peak = np.abs(x).max(axis=1).astype(np.float32)
    factor = np.where(peak > 1e-30, np.float32(127) / peak, np.float32(0)).astype(np.float32)
    scale = np.where(peak > 1e-30, peak / np.float32(127), np.float32(0)).astype(np.float32)
    return np.rint(x * factor[:, None]).astype(np.int64), scale


def expected_product(weight: Floats, x: Floats) -> Floats:
    """The matmul of quantised weights and inputs, exact but for three roundings."""
    w, w_scale = to_int8(weight)
    q, scale = expected_bytes(x)
    sums = (q @ w.astype(np.int64).T).astype(np.float32)
    return sums * w_scale * scale[:, None]


def as_intrinsic(emit_body: Emit) -> Any:
    """Make a microkernel callable from compiled code."""

    @intrinsic
    def product(
        context: Any, weights: Any, x: Any, x_stride: Any, steps: Any, y: Any, y_stride: Any
    ) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            emit_body(builder, args)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), emit

    return product


@pytest.mark.parametrize("name", cpu.usable_isas())
@pytest.mark.parametrize("outputs", [LANES, PANEL])
def test_every_int8_instruction_set_gives_the_same_integers(name: str, outputs: int) -> None:
    isa = ISAS[name]
    rows = isa.rows
    quantise, product = quantiser(isa), as_intrinsic(microkernel(isa, rows, outputs))

    @njit
    def run(x: Any, quantised: Any, weights: Any, y: Any) -> None:
        m = x.shape[1]
        for r in range(rows):
            quantise(x.ctypes.data + r * 4 * m, m, quantised.ctypes.data + r * QUANTISED_STRIDE)
        groups = (m + GROUP - 1) // GROUP
        product(
            weights.ctypes.data, quantised.ctypes.data, QUANTISED_STRIDE, groups, y.ctypes.data, 256
        )

    for m in (1, 3, 16, 71, 1027):
        weight = random(outputs, m)
        x = random(rows, m, seed=1) * np.float32(10.0) ** np.arange(rows, dtype=np.float32)[:, None]
        x[0, 0] = -np.abs(x[0]).max() * 2  # the largest magnitude is negative
        quantised = np.full(rows * QUANTISED_STRIDE, 255, np.uint8)  # stale bytes
        y = np.zeros((rows, 64), np.float32)
        run(x, quantised, pack(weight, pack_int8), y)
        np.testing.assert_array_equal(y[:, :outputs], expected_product(weight, x))


REGISTERS = {  # of a vector of LANES floats, and of the instruction set
    "avx512vnni": (1, 32),
    "avxvnni": (2, 16),
    "avx2": (2, 16),
    "neon": (4, 32),
    "sse2": (4, 16),
    "wasm": (4, 16),
    "portable": (4, 32),
}


@pytest.mark.parametrize("name", ISAS)
def test_a_tile_fits_the_registers(name: str) -> None:
    """Sums that don't fit go through memory, which took 3.4 times as long on AVX2."""
    tile, (size, registers) = TILES[name], REGISTERS[name]
    an_input = 1
    assert (tile.rows * tile.strip + tile.strip) * size + an_input <= registers
    a_weight = size
    assert tile.alone * size + a_weight + an_input <= registers


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("outputs", [LANES, PANEL])
def test_every_tile_gives_the_same_bits(
    name: str, outputs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rtmtass.matmul.microkernels.TILE", TILES[name])
    rows = TILES[name].rows
    product = as_intrinsic(f32_microkernel(rows, outputs))

    @njit
    def run(x: Any, weights: Any, y: Any) -> None:
        m = x.shape[1]
        product(weights.ctypes.data, x.ctypes.data, 4 * m, m, y.ctypes.data, 4 * PANEL)

    weight, x = random(outputs, 771), random(rows, 771, seed=1)
    y = np.zeros((rows, PANEL), np.float32)
    run(x, REGISTRY["f32"].pack(weight), y)
    np.testing.assert_array_equal(y[:, :outputs], matmul(weight, x, "f32"))


def test_the_largest_weights_and_inputs_dont_overflow() -> None:
    """Sums of 16 bits would wrap or saturate."""
    weight = np.full((64, 1028), -3.0, np.float32)
    x = np.full((1, 1028), 5.0, np.float32)
    np.testing.assert_allclose(matmul(weight, x, "int8"), x @ weight.T, rtol=1e-6)


def matmul(weight: Floats, x: Floats, precision: str) -> Floats:
    """The matmul of the compiled runtime."""
    n, m = weight.shape
    n_padded = -(-n // LANES) * LANES
    weights, y = REGISTRY[precision].pack(weight), np.zeros((len(x), n_padded), np.float32)
    scratch = np.zeros(len(x) * QUANTISED_STRIDE, np.uint8)
    multiply(
        PRECISIONS.index(precision), weights.ctypes.data, m, n_padded, x.ctypes.data, 4 * m,
        y.ctypes.data, 4 * n_padded, len(x), scratch.ctypes.data, QUANTISED_STRIDE,
    )  # fmt: skip
    return y[:, :n]


@pytest.mark.parametrize("rows", [1, 6, 8])
@pytest.mark.parametrize("precision", REGISTRY)
def test_every_precision_multiplies_wide_and_narrow_panels(precision: str, rows: int) -> None:
    weight, x = random(150, 83), random(rows, 83, seed=1)
    product = matmul(weight, x, precision)
    if REGISTRY[precision].quantises:
        np.testing.assert_array_equal(product, expected_product(weight, x))
        return
    if precision == "bf16":
        weight = (to_bf16(weight).astype(np.uint32) << 16).view(np.float32)
    exact = x.astype(np.float64) @ weight.T.astype(np.float64)
    bound = 83 * 2.0**-24 * (np.abs(x) @ np.abs(weight).T)  # 83 terms summed in any order
    assert (np.abs(product - exact) <= bound).all()


def test_silence_is_quantised_to_zeros() -> None:
    weight = random(64, 20)
    for quiet in (0.0, 1e-38):
        x = np.full((2, 20), quiet, np.float32)
        np.testing.assert_array_equal(matmul(weight, x, "int8"), np.zeros((2, 64)))


def test_bf16_rounds_to_nearest_even() -> None:
    values = np.array([1.0, 1.00390625, 1.01171875, -2.5, 3e38], np.float32)
    back = (to_bf16(values).astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_allclose(back, [1.0, 1.0, 1.015625, -2.5, 3e38], rtol=1 / 256)
    assert back[1] == 1.0
    assert back[2] == 1.015625


def test_quantised_weights_keep_their_largest_value_and_their_zeros() -> None:
    weight = np.array([[0.5, -2.0, 0.0], [0.0, 0.0, 0.0]], np.float32)
    values, scales = to_int8(weight)
    assert values.tolist() == [[32, -127, 0], [0, 0, 0]]
    np.testing.assert_allclose(scales, [2 / 127, 0])


@pytest.mark.parametrize("size", [64, 5000, HUGE, HUGE + 64])
def test_arenas_are_aligned_and_zeroed(size: int) -> None:
    arena = allocate(size)
    assert arena.size == size
    assert arena.ctypes.data % (HUGE if size >= HUGE and sys.platform == "linux" else LINE) == 0
    assert not arena.any()
    arena[:] = 1


def test_the_fastest_instruction_set_is_selected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(cpu.VARIABLE, raising=False)
    for detected, isa in (
        ({"avx512f", "avx512bw", "avx512vnni", "avx2"}, "avx512vnni"),
        ({"avx2", "avxvnni"}, "avxvnni"),
        ({"avx2"}, "avx2"),
        ({"neon", "dotprod"}, "neon"),
        ({"sse2"}, "sse2"),
        (set(), "portable"),
    ):
        monkeypatch.setattr(cpu, "features", lambda detected=detected: frozenset(detected))
        assert cpu.int8_isa() == isa
    monkeypatch.setenv(cpu.VARIABLE, "avx2")
    with pytest.raises(
        UsageError, match="RTMTASS_INT8=avx2 is set, but this processor supports portable"
    ):
        cpu.int8_isa()


def test_the_environment_forces_an_instruction_set() -> None:
    command = "from rtmtass.matmul.int8 import ISA_NAME; print(ISA_NAME)"
    result = subprocess.run(
        [sys.executable, "-c", command],
        env={**os.environ, cpu.VARIABLE: "portable"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == "portable"


@pytest.mark.parametrize(
    ("name", "triple", "features", "instruction"),
    [
        ("neon", "aarch64-linux-gnu", "+neon,+dotprod", "sdot"),
        ("avx512vnni", "x86_64-linux-gnu", "+avx512f,+avx512bw,+avx512vnni", "vpdpbusd"),
        ("avxvnni", "x86_64-linux-gnu", "+avx2,+avxvnni", "vpdpbusd"),
        ("avx2", "x86_64-linux-gnu", "+avx2", "vpmaddubsw"),
        ("sse2", "x86_64-linux-gnu", "", "pmaddwd"),
        ("wasm", "wasm32-unknown-unknown", "+simd128", "i32x4.dot_i16x8_s"),
        ("portable", "riscv64-linux-gnu", "", "mul"),
    ],
)
def test_each_dot_product_compiles_to_its_instruction(
    name: str, triple: str, features: str, instruction: str
) -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    isa = ISAS[name]
    whole = ir.VectorType(ir.IntType(32), isa.lanes)
    module = ir.Module()
    kind = ir.FunctionType(whole, [whole, ir.IntType(32), whole])
    function = ir.Function(module, kind, "dot")
    builder = ir.IRBuilder(function.append_basic_block())
    sums, four, weights = function.args
    builder.ret(isa.dot(builder, sums, four, weights))
    machine = llvm.Target.from_triple(triple).create_target_machine(features=features)
    assert instruction in machine.emit_assembly(llvm.parse_assembly(str(module)))


CACHED = """
import numpy as np
from rtmtass.matmul import products as module

for name in module.REGISTRY:
    matmul = getattr(module, f"matmul_{name}")
    weights = module.REGISTRY[name].pack(np.ones((16, 8), np.float32))
    x, y = np.zeros(128, np.uint8), np.zeros(16, np.float32)
    matmul(weights.ctypes.data, 8, 16, x.ctypes.data, 128, y.ctypes.data, 64, 1)
    hits, misses = (sum(n.values()) for n in (matmul.stats.cache_hits, matmul.stats.cache_misses))
    print(name, hits, misses)
"""


def test_matmuls_are_found_in_the_cache_on_a_second_start(tmp_path: Path) -> None:
    """They are closures; one over more than plain numbers would recompile in every process."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    starts = [
        subprocess.run(
            [sys.executable, "-c", CACHED],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        for _ in range(2)
    ]
    assert starts[0] == [f"{name} 0 1" for name in PRECISIONS]
    assert starts[1] == [f"{name} 1 0" for name in PRECISIONS]
