"""Float microkernels: the product of a few input rows and a panel of packed weights.

Written in LLVM vectors. Weights are packed in panels of outputs, so that each is read
once, in one pass. Every output sums in the same order for any number of rows, so a frame
has the same bits alone and among others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from rtmtass.jit.cpu import int8_isa
from rtmtass.jit.simd import LANES, call_llvm

PANEL = 64
"""Outputs of a panel: four vectors hide an FMA's latency."""


@dataclass(frozen=True)
class Tile:
    """The sums that a pass over a panel's weights keeps in registers.

    Attributes:
        rows: input rows that share a pass.
        strip: vectors of `LANES` outputs per pass with that many rows.
        alone: vectors per pass with one row.
    """

    rows: int
    strip: int
    alone: int


TILES = {
    "avx512vnni": Tile(6, 4, 4),
    "avxvnni": Tile(6, 1, 4),
    "avx2": Tile(6, 1, 4),
    "neon": Tile(6, 1, 4),
    "sse2": Tile(2, 1, 2),
    "wasm": Tile(2, 1, 2),
    "portable": Tile(6, 1, 4),
}
"""By instruction set, of `jit.cpu.ISAS`; the sums, weights and an input fit its registers.

A vector is one register of 32 on AVX-512, two of 16 on AVX2, four of 32 on ARM, and four of
16 on SSE2 and in WebAssembly.
"""
TILE = TILES[int8_isa()]
"""Of this processor, or the one compiled for."""

INT = ir.IntType(32)
LONG = ir.IntType(64)
FLOAT = ir.FloatType()
_HALF = ir.IntType(16)

Emit = Callable[[Any, Any], None]
"""Emits a microkernel: (builder, (weights, x, x_stride, steps, y, y_stride)).

All are int64: addresses, strides in bytes, and how many steps over the inputs there are.
"""


def constant(value: int) -> Any:
    """Return an int64 constant."""
    return ir.Constant(LONG, value)


def address(builder: Any, base: Any, offset: Any, kind: Any) -> Any:
    """Return the pointer to a `kind` at `base` + `offset` bytes."""
    return builder.inttoptr(builder.add(base, offset), kind.as_pointer())


def spread(builder: Any, value: Any, lanes: int) -> Any:
    """Return a vector with `value` in every lane."""
    kind = ir.VectorType(value.type, lanes)
    blank = ir.Constant(kind, ir.Undefined)
    one = builder.insert_element(blank, value, ir.Constant(INT, 0))
    return builder.shuffle_vector(one, blank, ir.Constant(ir.VectorType(INT, lanes), [0] * lanes))


def load(builder: Any, base: Any, offset: Any, kind: Any, align: int) -> Any:
    """Load a `kind` from `base` + `offset` bytes."""
    value = builder.load(address(builder, base, offset, kind))
    value.align = align
    return value


def _load_f32(builder: Any, base: Any, offset: Any) -> Any:
    return load(builder, base, offset, ir.VectorType(FLOAT, LANES), 4)


def _load_bf16(builder: Any, base: Any, offset: Any) -> Any:
    """Load bfloat16, the upper halves of floats."""
    halves = load(builder, base, offset, ir.VectorType(_HALF, LANES), 2)
    wide = ir.VectorType(INT, LANES)
    up = builder.shl(builder.zext(halves, wide), ir.Constant(wide, [16] * LANES))
    return builder.bitcast(up, ir.VectorType(FLOAT, LANES))


def f32_microkernel(rows: int, outputs: int) -> Emit:
    """Make y[r] = W x[r] for `rows` rows and a panel [m][outputs] of float32."""
    return _float_microkernel(rows, outputs, 4, _load_f32)


def bf16_microkernel(rows: int, outputs: int) -> Emit:
    """Make y[r] = W x[r] for `rows` rows and a panel [m][outputs] of bfloat16, summed in f32."""
    return _float_microkernel(rows, outputs, 2, _load_bf16)


def _float_microkernel(
    rows: int, outputs: int, size: int, load_weights: Callable[[Any, Any, Any], Any]
) -> Emit:
    """Make the microkernel for weights of `size` bytes; its vectors may be unaligned."""
    vectors = outputs // LANES
    strip = TILE.strip if rows > 1 else TILE.alone

    def emit(builder: Any, args: Any) -> None:
        for first in range(0, vectors, strip):
            emit_strip(builder, args, range(first, min(first + strip, vectors)))

    def emit_strip(builder: Any, args: Any, numbers: range) -> None:
        w_at, x_at, x_step, count, y_at, y_step = args
        zero = ir.Constant(ir.VectorType(FLOAT, LANES), [0.0] * LANES)
        sums = [[cgutils.alloca_once_value(builder, zero) for _ in numbers] for _ in range(rows)]
        with cgutils.for_range(builder, count) as loop:
            row = builder.mul(loop.index, constant(size * outputs))
            loaded = [
                load_weights(builder, w_at, builder.add(row, constant(size * LANES * v)))
                for v in numbers
            ]
            for r in range(rows):
                at = builder.add(
                    builder.mul(loop.index, constant(4)), builder.mul(x_step, constant(r))
                )
                value = spread(builder, load(builder, x_at, at, FLOAT, 4), LANES)
                for total_at, weight in zip(sums[r], loaded, strict=True):
                    total = builder.load(total_at)
                    total = call_llvm(builder, "llvm.fma.v16f32", weight, value, total)
                    builder.store(total, total_at)
        for r in range(rows):
            for total_at, v in zip(sums[r], numbers, strict=True):
                at = builder.add(builder.mul(y_step, constant(r)), constant(4 * LANES * v))
                total = builder.load(total_at)
                stored = builder.store(total, address(builder, y_at, at, total.type))
                stored.align = 4

    return emit
