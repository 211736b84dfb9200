"""SIMD arithmetic in LLVM IR, where numba fails to vectorise.

The vectors are generic, sixteen floats wide: one register on AVX-512, two on AVX2, four
on NEON or SSE; no instruction set is named.
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

_FLOAT = ir.FloatType()
_INT = ir.IntType(32)

_EXP2 = (1.535336188e-4, 1.339887440e-3, 9.618437357e-3, 5.550332471e-2, 0.2402264791, 0.6931472028)
"""Minimax polynomial of 2^x on [-0.5, 0.5], highest power first, without the constant 1."""


def _float(value: float) -> ir.Constant:
    return ir.Constant(_FLOAT, float(np.float32(value)))


def call_llvm(builder: Any, name: str, *args: Any) -> Any:
    """Emit a call of an LLVM intrinsic that returns its first argument's type."""
    kind = ir.FunctionType(args[0].type, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


def _emit_exp(builder: Any, x: Any) -> Any:
    # In LLVM, because numba widens int32 arithmetic to int64, which halves the vectors.
    power = builder.fmul(x, _float(np.log2(np.e)))
    power = call_llvm(builder, "llvm.minnum.f32", power, _float(126.0))
    power = call_llvm(builder, "llvm.maxnum.f32", power, _float(-126.0))
    whole = call_llvm(builder, "llvm.rint.f32", power)
    fraction = builder.fsub(power, whole)
    value = _float(_EXP2[0])
    for factor in (*_EXP2[1:], 1.0):
        value = call_llvm(builder, "llvm.fma.f32", value, fraction, _float(factor))
    exponent = builder.add(builder.fptosi(whole, _INT), ir.Constant(_INT, 127))
    scale = builder.bitcast(builder.shl(exponent, ir.Constant(_INT, 23)), _FLOAT)
    return builder.fmul(value, scale)


@intrinsic
def fma(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a * b + c of float32, rounded once; a compiler could fuse either of two products."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return call_llvm(builder, "llvm.fma.f32", *args)

    return types.float32(types.float32, types.float32, types.float32), emit


@intrinsic
def float_of_bits(typing_context: Any, bits: Any) -> Any:
    """Return the float32 with the bits of the lower half of an int64."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(builder.trunc(args[0], _INT), _FLOAT)

    return types.float32(types.int64), emit


@intrinsic
def exp(typing_context: Any, x: Any) -> Any:
    """e^x of a float32, to 2e-7 relative; clamped to 2^-126 .. 2^126."""

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
