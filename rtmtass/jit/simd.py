"""SIMD arithmetic in LLVM IR, where numba fails to vectorise or a compiler would choose the bits.

The vectors are generic, sixteen floats wide: one register on AVX-512, two on AVX2, four
on NEON or SSE; no instruction set is named, and the sums don't depend on it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np import arrayobj

from rtmtass.jit.compiler import kernel

LANES = 16
"""Floats in a vector."""

_FLOAT = ir.FloatType()
_INT = ir.IntType(32)

_VECTOR = ir.VectorType(_FLOAT, LANES)

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
    """Return a * b + c of float32, rounded once."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return call_llvm(builder, "llvm.fma.f32", *args)

    return types.float32(types.float32, types.float32, types.float32), emit


@kernel
def complex_product(a_re: Any, a_im: Any, b_re: Any, b_im: Any) -> tuple[Any, Any]:
    """Return the parts of a * b, all float32; one product of each is fused, always the same."""
    return fma(-a_im, b_im, a_re * b_re), fma(a_re, b_im, a_im * b_re)


class _Elements:
    """The elements of a 1-D float32 array, contiguous or strided, in LLVM IR."""

    def __init__(self, context: Any, builder: Any, kind: Any, array: Any) -> None:
        arrays: Any = arrayobj
        struct = arrays.make_array(kind)(context, builder, array)
        self._builder, self._data = builder, struct.data
        self.size = cgutils.unpack_tuple(builder, struct.shape)[0]
        self._stride = None
        if kind.layout != "C":
            self._stride = cgutils.unpack_tuple(builder, struct.strides)[0]

    def one(self, index: Any) -> Any:
        """Load one element."""
        if self._stride is None:
            return self._builder.load(self._builder.gep(self._data, [index]))
        offset = self._builder.mul(index, self._stride)
        return self._builder.load(cgutils.pointer_add(self._builder, self._data, offset))

    def store(self, value: Any, index: Any) -> None:
        """Store a vector, or a float, from an index of a contiguous array on."""
        at = self._builder.gep(self._data, [index])
        self._builder.store(value, self._builder.bitcast(at, value.type.as_pointer())).align = 4

    def vector(self, index: Any) -> Any:
        """Load the vector from an index on."""
        if self._stride is None:
            at = self._builder.gep(self._data, [index])
            vector = self._builder.load(self._builder.bitcast(at, _VECTOR.as_pointer()))
            vector.align = 4  # as of a float, not of a vector
            return vector
        vector = ir.Constant(_VECTOR, ir.Undefined)
        for lane in range(LANES):
            element = self.one(self._builder.add(index, ir.Constant(index.type, lane)))
            vector = self._builder.insert_element(vector, element, ir.Constant(_INT, lane))
        return vector


def _emit_dot(builder: Any, size: Any, pair: Callable[[Any, bool], tuple[Any, Any]]) -> Any:
    """Emit the sum of products: lane by lane, the lanes as a tree, then what is left, one by one.

    `pair` emits the factors at an index: vectors, or one of each.
    """
    total = cgutils.alloca_once(builder, _VECTOR)
    builder.store(ir.Constant(_VECTOR, [0.0] * LANES), total)
    n_vectors = builder.udiv(size, ir.Constant(size.type, LANES))
    with cgutils.for_range(builder, n_vectors) as loop:
        a, b = pair(builder.mul(loop.index, ir.Constant(size.type, LANES)), True)
        builder.store(call_llvm(builder, "llvm.fma.v16f32", a, b, builder.load(total)), total)
    lanes, n = builder.load(total), LANES
    while n > 1:
        n //= 2
        low, high = (
            builder.shuffle_vector(
                lanes, lanes, ir.Constant(ir.VectorType(_INT, n), list(range(start, start + n)))
            )
            for start in (0, n)
        )
        lanes = builder.fadd(low, high)
    rest = cgutils.alloca_once(builder, _FLOAT)
    builder.store(builder.extract_element(lanes, ir.Constant(_INT, 0)), rest)
    done = builder.mul(n_vectors, ir.Constant(size.type, LANES))
    with cgutils.for_range(builder, builder.sub(size, done)) as loop:
        a, b = pair(builder.add(done, loop.index), False)
        builder.store(call_llvm(builder, "llvm.fma.f32", a, b, builder.load(rest)), rest)
    return builder.load(rest)


def _spread(builder: Any, value: Any) -> Any:
    """Emit a vector with a float in every lane."""
    vector = ir.Constant(_VECTOR, ir.Undefined)
    for lane in range(LANES):
        vector = builder.insert_element(vector, value, ir.Constant(_INT, lane))
    return vector


def _between(builder: Any, low: Any, high: Any, fraction: Any) -> Any:
    """Emit low + fraction * (high - low), of floats or vectors."""
    name = "llvm.fma.v16f32" if low.type == _VECTOR else "llvm.fma.f32"
    return call_llvm(builder, name, fraction, builder.fsub(high, low), low)


@intrinsic
def dot(typing_context: Any, x: Any, y: Any) -> Any:
    """Return the dot product of two float32 arrays, (n,); the order of the sum is fixed."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        a, b = (_Elements(context, builder, *one) for one in zip(signature.args, args, strict=True))
        return _emit_dot(
            builder,
            a.size,
            lambda at, wide: (a.vector(at), b.vector(at)) if wide else (a.one(at), b.one(at)),
        )

    return types.float32(x, y), emit


@intrinsic
def filtered(typing_context: Any, lower: Any, upper: Any, fraction: Any, x: Any) -> Any:
    """Return the dot product of x and of lower + fraction * (upper - lower), all (n,) float32.

    The sum has the order of `dot`.
    """

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        below, above, samples = (
            _Elements(context, builder, signature.args[i], args[i]) for i in (0, 1, 3)
        )
        fractions = _spread(builder, args[2])

        def pair(at: Any, wide: bool) -> tuple[Any, Any]:
            low, high, sample = (
                one.vector(at) if wide else one.one(at) for one in (below, above, samples)
            )
            return _between(builder, low, high, fractions if wide else args[2]), sample

        return _emit_dot(builder, samples.size, pair)

    return types.float32(lower, upper, types.float32, x), emit


@intrinsic
def interpolate(typing_context: Any, lower: Any, upper: Any, fraction: Any, out: Any) -> Any:
    """Write lower + fraction * (upper - lower), all (n,) float32, in the vectors of `dot`.

    `dot` then loads what was just stored; a load that spans two stores would have to wait.
    """

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        below, above, results = (
            _Elements(context, builder, signature.args[i], args[i]) for i in (0, 1, 3)
        )
        n_vectors = builder.udiv(results.size, ir.Constant(results.size.type, LANES))
        done = builder.mul(n_vectors, ir.Constant(results.size.type, LANES))
        fractions = _spread(builder, args[2])
        with cgutils.for_range(builder, n_vectors) as loop:
            at = builder.mul(loop.index, ir.Constant(results.size.type, LANES))
            low, high = below.vector(at), above.vector(at)
            results.store(_between(builder, low, high, fractions), at)
        with cgutils.for_range(builder, builder.sub(results.size, done)) as loop:
            at = builder.add(done, loop.index)
            results.store(_between(builder, below.one(at), above.one(at), args[2]), at)
        return context.get_dummy_value()

    return types.void(lower, upper, types.float32, out), emit


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
