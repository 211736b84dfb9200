"""SIMD arithmetic in LLVM IR, where numba fails to vectorise or a compiler would choose the bits.

The vectors are generic, sixteen floats wide: one register on AVX-512, two on AVX2, four
on NEON or SSE; no instruction set is named, and the sums don't depend on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


def in_vectors(width: int) -> int:
    """Return `width` floats, rounded up to whole vectors."""
    return -(-width // LANES) * LANES


_FLOAT = ir.FloatType()
_INT = ir.IntType(32)


_EXP2 = (1.535336188e-4, 1.339887440e-3, 9.618437357e-3, 5.550332471e-2, 0.2402264791, 0.6931472028)
"""Minimax polynomial of 2^x on [-0.5, 0.5], highest power first, without the constant 1."""


_LOG1P = (
    -8.103014845e-2, 0.1271306706, -0.1297204724, 0.1420205206,
    -0.1664225425, 0.2000147424, -0.2500029650, 0.3333332853,
)  # fmt: skip
"""Near-minimax polynomial of (ln(1 + f) - f + f^2 / 2) / f^3 where 1 + f is within sqrt(2) of 1."""
_SQRT_HALF_BITS = 0x3F3504F3


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


def _emit_log(builder: Any, x: Any) -> Any:
    def whole(value: int) -> ir.Constant:
        return ir.Constant(_INT, value)

    above = builder.sub(builder.bitcast(x, _INT), whole(_SQRT_HALF_BITS))
    power = builder.sitofp(builder.ashr(above, whole(23)), _FLOAT)
    bits = builder.add(builder.and_(above, whole(0x7FFFFF)), whole(_SQRT_HALF_BITS))
    f = builder.fsub(builder.bitcast(bits, _FLOAT), _float(1.0))
    value = _float(_LOG1P[0])
    for factor in (*_LOG1P[1:], -0.5, 1.0):
        value = call_llvm(builder, "llvm.fma.f32", value, f, _float(factor))
    return call_llvm(builder, "llvm.fma.f32", power, _float(np.log(2)), builder.fmul(value, f))


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

    def load(self, index: Any, lanes: int) -> Any:
        """Emit the load of a vector from an index on; of a float for one lane."""
        if self._stride is None:
            vector = self._builder.load(self._at(index, lanes))
            vector.align = 4  # as of a float, not of a vector
            return vector
        elements = []
        for lane in range(lanes):
            number = self._builder.add(index, ir.Constant(index.type, lane))
            offset = self._builder.mul(number, self._stride)
            at = cgutils.pointer_add(self._builder, self._data, offset)
            elements.append(self._builder.load(at))
        return _vector(self._builder, elements)

    def store(self, value: Any, index: Any, lanes: int) -> None:
        """Emit the store of a vector, or of a float, to a contiguous array."""
        self._builder.store(value, self._at(index, lanes)).align = 4

    def _at(self, index: Any, lanes: int) -> Any:
        at = self._builder.gep(self._data, [index])
        return self._builder.bitcast(at, _floats(lanes).as_pointer())


def _floats(lanes: int) -> Any:
    """Return the type of a vector; a float for one lane."""
    return _FLOAT if lanes == 1 else ir.VectorType(_FLOAT, lanes)


def _vector(builder: Any, elements: list[Any]) -> Any:
    """Emit a vector of elements; one is itself."""
    if len(elements) == 1:
        return elements[0]
    vector = ir.Constant(_floats(len(elements)), ir.Undefined)
    for lane, element in enumerate(elements):
        vector = builder.insert_element(vector, element, ir.Constant(_INT, lane))
    return vector


def _fma(builder: Any, lanes: int, *args: Any) -> Any:
    return call_llvm(builder, f"llvm.fma.{'' if lanes == 1 else f'v{lanes}'}f32", *args)


# An array of n is taken in vectors of 16, then one each of 8, 4, 2 and 1 where n has that bit.


@contextmanager
def _whole_vectors(builder: Any, size: Any) -> Iterator[Any]:
    """Emit a loop over the vectors; the body gets their first index."""
    lanes = ir.Constant(size.type, LANES)
    with cgutils.for_range(builder, builder.udiv(size, lanes)) as loop:
        yield builder.mul(loop.index, lanes)


@contextmanager
def _part_vector(builder: Any, size: Any, lanes: int) -> Iterator[Any]:
    """Emit what is run if there is a part of so many lanes; the body gets its first index."""
    bit = builder.and_(size, ir.Constant(size.type, lanes))
    with builder.if_then(builder.icmp_unsigned("!=", bit, ir.Constant(size.type, 0))):
        yield builder.and_(size, ir.Constant(size.type, -2 * lanes))


def _emit_dot(builder: Any, size: Any, factors: Callable[[Any, int], tuple[Any, Any]]) -> Any:
    """Emit the sum of products, lane by lane.

    The upper half of the lanes is added to the lower until one is left, and to each half the
    part of the array with as many lanes.

    Args:
        builder: of llvmlite.
        size: how many products.
        factors: (index, lanes) -> the factors there.
    """
    total = cgutils.alloca_once(builder, _floats(LANES))
    builder.store(ir.Constant(_floats(LANES), [0.0] * LANES), total)
    with _whole_vectors(builder, size) as at:
        builder.store(_fma(builder, LANES, *factors(at, LANES), builder.load(total)), total)
    lanes = LANES
    while lanes > 1:
        lanes //= 2
        sums = builder.load(total)
        total = cgutils.alloca_once(builder, _floats(lanes))
        builder.store(builder.fadd(*_halves(builder, sums, lanes)), total)
        with _part_vector(builder, size, lanes) as at:
            builder.store(_fma(builder, lanes, *factors(at, lanes), builder.load(total)), total)
    return builder.load(total)


def _halves(builder: Any, vector: Any, lanes: int) -> list[Any]:
    """Emit the lower and the upper half of a vector of 2 * lanes."""
    if lanes == 1:
        return [builder.extract_element(vector, ir.Constant(_INT, lane)) for lane in (0, 1)]
    masks = (list(range(start, start + lanes)) for start in (0, lanes))
    kind = ir.VectorType(_INT, lanes)
    return [builder.shuffle_vector(vector, vector, ir.Constant(kind, mask)) for mask in masks]


@intrinsic
def dot(typing_context: Any, x: Any, y: Any) -> Any:
    """Return the dot product of two float32 arrays, (n,); the order of the sum is fixed."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        a, b = (_Elements(context, builder, *one) for one in zip(signature.args, args, strict=True))
        return _emit_dot(builder, a.size, lambda at, lanes: (a.load(at, lanes), b.load(at, lanes)))

    return types.float32(x, y), emit


class _Mixture:
    """lower + fraction * (upper - lower) of two arrays, in LLVM IR."""

    def __init__(self, builder: Any, lower: _Elements, upper: _Elements, fraction: Any) -> None:
        self._builder, self._lower, self._upper, self._fraction = builder, lower, upper, fraction

    def load(self, index: Any, lanes: int) -> Any:
        """Emit the values from an index on."""
        low, high = self._lower.load(index, lanes), self._upper.load(index, lanes)
        fractions = _vector(self._builder, [self._fraction] * lanes)
        return _fma(self._builder, lanes, fractions, self._builder.fsub(high, low), low)


@intrinsic
def interpolate(typing_context: Any, lower: Any, upper: Any, fraction: Any, out: Any) -> Any:
    """Write lower + fraction * (upper - lower), all (n,) float32, in the vectors of `dot`.

    `dot` then loads what was just stored; a load that spans two stores would have to wait.
    """

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        low, high, results = (
            _Elements(context, builder, signature.args[i], args[i]) for i in (0, 1, 3)
        )
        values = _Mixture(builder, low, high, args[2])
        with _whole_vectors(builder, results.size) as at:
            results.store(values.load(at, LANES), at, LANES)
        lanes = LANES
        while lanes > 1:
            lanes //= 2
            with _part_vector(builder, results.size, lanes) as at:
                results.store(values.load(at, lanes), at, lanes)
        return context.get_dummy_value()

    return types.void(lower, upper, types.float32, out), emit


@intrinsic
def filtered(typing_context: Any, lower: Any, upper: Any, fraction: Any, x: Any) -> Any:
    """Return the dot product of x and of lower + fraction * (upper - lower), all (n,) float32.

    The sum has the order of `dot`.
    """

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        low, high, samples = (
            _Elements(context, builder, signature.args[i], args[i]) for i in (0, 1, 3)
        )
        values = _Mixture(builder, low, high, args[2])
        return _emit_dot(
            builder,
            samples.size,
            lambda at, lanes: (values.load(at, lanes), samples.load(at, lanes)),
        )

    return types.float32(lower, upper, types.float32, x), emit


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
def log(typing_context: Any, x: Any) -> Any:
    """Natural logarithm of a normal positive float32, to 1e-7 of the larger of 1 and itself."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _emit_log(builder, args[0])

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
