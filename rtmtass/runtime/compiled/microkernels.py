"""Products of packed weights with one or several inputs, written in LLVM's own vectors.

Weights lie in panels of outputs, so that each is read once, in one stream.
Every output sums its products in the same order whatever `rows` is: a frame
gives the same bits alone and among others.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from rtmtass.runtime.compiled.simd import LANES, call_llvm

PANEL = 64
"""Outputs of a product that run together: four vectors hide an FMA's latency."""
ROWS = 6
"""Frames that share a pass over a panel's weights: 6 x 4 sums and 4 weights fill the registers."""

INT = ir.IntType(32)
LONG = ir.IntType(64)
FLOAT = ir.FloatType()
_HALF = ir.IntType(16)


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


def _float_weight(builder: Any, base: Any, offset: Any) -> Any:
    return load(builder, base, offset, ir.VectorType(FLOAT, LANES), 4)


def _half_weight(builder: Any, base: Any, offset: Any) -> Any:
    """Load bfloat16: the upper halves of floats."""
    halves = load(builder, base, offset, ir.VectorType(_HALF, LANES), 2)
    wide = ir.VectorType(INT, LANES)
    up = builder.shl(builder.zext(halves, wide), ir.Constant(wide, [16] * LANES))
    return builder.bitcast(up, ir.VectorType(FLOAT, LANES))


def _microkernel(rows: int, vectors: int, size: int) -> Any:
    """Make the product of `rows` inputs with a panel of `vectors` * LANES outputs.

    The weights lie as [m][vectors * LANES], each of `size` bytes: 4 for float32,
    2 for bfloat16. Products and sums are float32.
    """
    read = {4: _float_weight, 2: _half_weight}[size]

    @intrinsic
    def matmul(
        typing_context: Any,
        weights: Any,
        x: Any,
        x_stride: Any,
        m: Any,
        y: Any,
        y_stride: Any,
    ) -> Any:
        """Addresses and strides in bytes; y[r] = W x[r], vectors unaligned."""

        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            w_at, x_at, x_step, count, y_at, y_step = args
            zero = ir.Constant(ir.VectorType(FLOAT, LANES), [0.0] * LANES)
            sums = [
                [cgutils.alloca_once_value(builder, zero) for _ in range(vectors)]
                for _ in range(rows)
            ]
            with cgutils.for_range(builder, count) as loop:
                row = builder.mul(loop.index, constant(size * LANES * vectors))
                loaded = [
                    read(builder, w_at, builder.add(row, constant(size * LANES * v)))
                    for v in range(vectors)
                ]
                for r in range(rows):
                    at = builder.add(
                        builder.mul(loop.index, constant(4)), builder.mul(x_step, constant(r))
                    )
                    value = spread(builder, load(builder, x_at, at, FLOAT, 4), LANES)
                    for v in range(vectors):
                        total = builder.load(sums[r][v])
                        total = call_llvm(builder, "llvm.fma.v16f32", loaded[v], value, total)
                        builder.store(total, sums[r][v])
            for r in range(rows):
                for v in range(vectors):
                    at = builder.add(builder.mul(y_step, constant(r)), constant(4 * LANES * v))
                    total = builder.load(sums[r][v])
                    stored = builder.store(total, address(builder, y_at, at, total.type))
                    stored.align = 4
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), emit

    return matmul


wide_rows = _microkernel(ROWS, PANEL // LANES, 4)
wide_row = _microkernel(1, PANEL // LANES, 4)
slim_rows = _microkernel(ROWS, 1, 4)
slim_row = _microkernel(1, 1, 4)

wide_rows_bf16 = _microkernel(ROWS, PANEL // LANES, 2)
wide_row_bf16 = _microkernel(1, PANEL // LANES, 2)
slim_rows_bf16 = _microkernel(ROWS, 1, 2)
slim_row_bf16 = _microkernel(1, 1, 2)
