"""LLVM at first hand: what Numba can't be made to vectorise is written in vectors here.

The vectors are plain LLVM ones, sixteen floats wide: one register on AVX-512,
two on AVX2, four on NEON or SSE; no instruction set is named.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16
"""Floats in a vector."""
PANEL = 64
"""Outputs of a product that run together: four vectors hide an FMA's latency."""

_FLOAT = ir.FloatType()
_INT = ir.IntType(32)
_LONG = ir.IntType(64)
_VECTOR = ir.VectorType(_FLOAT, LANES)

_EXP2 = (1.535336188e-4, 1.339887440e-3, 9.618437357e-3, 5.550332471e-2, 0.2402264791, 0.6931472028)
"""Minimax polynomial of 2^x on [-0.5, 0.5] without its constant one, highest power first."""


def _float(value: float) -> ir.Constant:
    return ir.Constant(_FLOAT, float(np.float32(value)))


def _call(builder: Any, name: str, *args: Any) -> Any:
    kind = ir.FunctionType(args[0].type, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


def _emit_exp(builder: Any, x: Any) -> Any:
    # Numba widens int32 arithmetic to int64, which halves the vectors: so in LLVM.
    power = builder.fmul(x, _float(np.log2(np.e)))
    power = _call(builder, "llvm.minnum.f32", power, _float(126.0))
    power = _call(builder, "llvm.maxnum.f32", power, _float(-126.0))
    whole = _call(builder, "llvm.rint.f32", power)
    part = builder.fsub(power, whole)
    value = _float(_EXP2[0])
    for factor in (*_EXP2[1:], 1.0):
        value = _call(builder, "llvm.fma.f32", value, part, _float(factor))
    exponent = builder.add(builder.fptosi(whole, _INT), ir.Constant(_INT, 127))
    scale = builder.bitcast(builder.shl(exponent, ir.Constant(_INT, 23)), _FLOAT)
    return builder.fmul(value, scale)


@intrinsic
def exp(typing_context: Any, x: Any) -> Any:
    """e^x of a float32, to 2e-7 relative; beyond 2^+-126 it stays there."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _emit_exp(builder, args[0])

    return types.float32(types.float32), emit


@intrinsic
def sigmoid(typing_context: Any, x: Any) -> Any:
    """1 / (1 + e^-x) of a float32."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fdiv(
            _float(1.0), builder.fadd(_float(1.0), _emit_exp(builder, builder.fneg(args[0])))
        )

    return types.float32(types.float32), emit


@intrinsic
def tanh(typing_context: Any, x: Any) -> Any:
    """Hyperbolic tangent of a float32, to 2e-7 absolute."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        doubled = _emit_exp(builder, builder.fmul(args[0], _float(2.0)))
        small = builder.fdiv(_float(2.0), builder.fadd(doubled, _float(1.0)))
        return builder.fsub(_float(1.0), small)

    return types.float32(types.float32), emit


def _panel(rows: int, vectors: int) -> Any:
    """Make the product of `rows` inputs with a panel of `vectors` * LANES outputs.

    The weights lie as [m][vectors * LANES], so that they are read once, in one
    stream. Every output sums its m products in the same order whatever `rows`
    is: a frame gives the same bits alone and among others.
    """

    @intrinsic
    def product(
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
            zero = ir.Constant(_VECTOR, [0.0] * LANES)
            spread = ir.Constant(ir.VectorType(_INT, LANES), [0] * LANES)
            blank = ir.Constant(_VECTOR, ir.Undefined)
            sums = [
                [cgutils.alloca_once_value(builder, zero) for _ in range(vectors)]
                for _ in range(rows)
            ]

            def address(base: Any, offset: Any, kind: Any) -> Any:
                return builder.inttoptr(builder.add(base, offset), kind.as_pointer())

            def times(value: Any, factor: int) -> Any:
                return builder.mul(value, ir.Constant(_LONG, factor))

            with cgutils.for_range(builder, count) as loop:
                row = times(loop.index, 4 * LANES * vectors)
                loaded = []
                for v in range(vectors):
                    at = builder.add(row, ir.Constant(_LONG, 4 * LANES * v))
                    weight = builder.load(address(w_at, at, _VECTOR))
                    weight.align = 4
                    loaded.append(weight)
                for r in range(rows):
                    at = builder.add(times(loop.index, 4), times(x_step, r))
                    one = builder.insert_element(
                        blank, builder.load(address(x_at, at, _FLOAT)), ir.Constant(_INT, 0)
                    )
                    value = builder.shuffle_vector(one, blank, spread)
                    for v in range(vectors):
                        total = builder.load(sums[r][v])
                        total = _call(builder, "llvm.fma.v16f32", loaded[v], value, total)
                        builder.store(total, sums[r][v])
            for r in range(rows):
                for v in range(vectors):
                    at = builder.add(times(y_step, r), ir.Constant(_LONG, 4 * LANES * v))
                    stored = builder.store(builder.load(sums[r][v]), address(y_at, at, _VECTOR))
                    stored.align = 4
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), emit

    return product


ROWS = 6
"""Frames that share a pass over a panel's weights: 6 x 4 sums and 4 weights fill the registers."""

wide_rows = _panel(ROWS, PANEL // LANES)
wide_row = _panel(1, PANEL // LANES)
slim_rows = _panel(ROWS, 1)
slim_row = _panel(1, 1)
