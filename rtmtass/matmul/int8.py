"""Int8 matmul: the dot product of each instruction set, and the quantiser of the inputs.

The sums are exact integers, so every instruction set gives the same result; they differ
in speed only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from rtmtass.jit.cpu import int8_isa
from rtmtass.jit.simd import LANES, call_llvm
from rtmtass.matmul.microkernels import (
    FLOAT,
    INT,
    Emit,
    address,
    constant,
    load,
    spread,
)

ROW_HEADER = 64
"""Bytes before a row of quantised inputs; the first four hold its scale as a float32."""
GROUP = 4
"""Inputs multiplied and summed in one instruction."""
SILENCE = 1e-30
"""A row whose largest magnitude is not above this is quantised to zeros."""

_BYTE = ir.IntType(8)
_SHORT = ir.IntType(16)

Dot = Callable[[Any, Any, Any, Any], Any]
"""(builder, sums <L x i32>, four inputs as an i32, weights <L x i32>) -> sums."""


@dataclass(frozen=True)
class Int8Isa:
    """An instruction set's int8 dot product.

    Attributes:
        lanes: outputs in a vector.
        rows: input rows that share a pass over a panel's weights.
        strip: vectors of outputs per pass: rows * strip sums, the weights and one input
            must fit the registers.
        offset: added to the quantised inputs to make them unsigned, and subtracted from
            the sums again.
        dot: emits the instruction.
    """

    lanes: int
    rows: int
    strip: int
    offset: int
    dot: Dot


def _intrinsic(builder: Any, name: str, result: Any, *args: Any) -> Any:
    kind = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


def _vnni(lanes: int) -> Dot:
    name = f"llvm.x86.avx512.vpdpbusd.{32 * lanes}"
    # Newer LLVM types the operands as bytes; the register is the same.
    kind = ir.VectorType(_BYTE, 4 * lanes)

    def dot(builder: Any, sums: Any, inputs: Any, weights: Any) -> Any:
        both = (spread(builder, inputs, lanes), weights)
        as_bytes = [builder.bitcast(vector, kind) for vector in both]
        return _intrinsic(builder, name, sums.type, sums, *as_bytes)

    return dot


def _avx2(builder: Any, sums: Any, inputs: Any, weights: Any) -> Any:
    """|x| * (w with x's sign): sums of two fit 16 bits, as no value is -128."""
    kind = ir.VectorType(_BYTE, 32)
    x = builder.bitcast(spread(builder, inputs, 8), kind)
    zero = ir.Constant(kind, [0] * 32)
    is_negative = builder.icmp_signed("<", x, zero)
    size = builder.select(is_negative, builder.sub(zero, x), x)
    signed = _intrinsic(builder, "llvm.x86.avx2.psign.b", kind, builder.bitcast(weights, kind), x)
    shorts = ir.VectorType(_SHORT, 16)
    pairs = _intrinsic(builder, "llvm.x86.avx2.pmadd.ub.sw", shorts, size, signed)
    ones = ir.Constant(shorts, [1] * 16)
    fours = _intrinsic(builder, "llvm.x86.avx2.pmadd.wd", sums.type, pairs, ones)
    return builder.add(sums, fours)


def _neon(builder: Any, sums: Any, inputs: Any, weights: Any) -> Any:
    kind = ir.VectorType(_BYTE, 16)
    x = builder.bitcast(spread(builder, inputs, 4), kind)
    w = builder.bitcast(weights, kind)
    return _intrinsic(builder, "llvm.aarch64.neon.sdot.v4i32.v16i8", sums.type, sums, w, x)


def _pairs(name: str) -> Dot:
    """Make the dot product of the instruction that multiplies shorts and adds pairs of them."""
    shorts = ir.VectorType(_SHORT, 8)

    def dot(builder: Any, sums: Any, inputs: Any, weights: Any) -> Any:
        four = builder.sext(
            builder.bitcast(inputs, ir.VectorType(_BYTE, 4)), ir.VectorType(_SHORT, 4)
        )
        x = _shuffle(builder, four, four, [0, 1, 2, 3] * 2)
        w = builder.bitcast(weights, ir.VectorType(_BYTE, 16))
        halves = [
            builder.sext(_shuffle(builder, w, w, list(range(start, start + 8))), shorts)
            for start in (0, 8)
        ]
        a, b = (_intrinsic(builder, name, sums.type, half, x) for half in halves)
        even, odd = (_shuffle(builder, a, b, list(range(start, 8, 2))) for start in (0, 1))
        return builder.add(builder.add(sums, even), odd)

    return dot


def _shuffle(builder: Any, a: Any, b: Any, lanes: list[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(INT, len(lanes)), lanes))


def _portable(builder: Any, sums: Any, inputs: Any, weights: Any) -> Any:
    lanes = sums.type.count
    x = spread(builder, inputs, lanes)
    for byte in range(GROUP):
        left = ir.Constant(sums.type, [24 - 8 * byte] * lanes)
        right = ir.Constant(sums.type, [24] * lanes)
        a, b = (builder.ashr(builder.shl(word, left), right) for word in (x, weights))
        sums = builder.add(sums, builder.mul(a, b))
    return sums


ISAS = {
    "avx512vnni": Int8Isa(16, 6, 4, 128, _vnni(16)),
    "avxvnni": Int8Isa(8, 4, 2, 128, _vnni(8)),
    "avx2": Int8Isa(8, 4, 2, 0, _avx2),
    "neon": Int8Isa(4, 6, 4, 0, _neon),
    "sse2": Int8Isa(4, 2, 4, 0, _pairs("llvm.x86.sse2.pmadd.wd")),
    "wasm": Int8Isa(4, 2, 4, 0, _pairs("llvm.wasm.dot")),
    "portable": Int8Isa(16, 4, 1, 0, _portable),
}


def microkernel(isa: Int8Isa, rows: int, outputs: int) -> Emit:
    """Make the product of `rows` quantised rows and a panel of `outputs` outputs.

    The panel is [groups][outputs][4] int8, then [outputs] float32 scales, then [outputs]
    int32: the sums of the weights times 128, the largest offset of `ISAS`. `x` is the
    address of the first row's header.
    """
    vectors = outputs // isa.lanes
    strip = min(vectors, isa.strip) if rows > 1 else vectors

    def emit(builder: Any, args: Any) -> None:
        for first in range(0, vectors, strip):
            numbers = range(first, min(first + strip, vectors))
            sums = _emit_sums(builder, isa, args, rows, outputs, numbers)
            _emit_outputs(builder, isa, args, sums, outputs, numbers)

    return emit


def _emit_sums(
    builder: Any, isa: Int8Isa, args: Any, rows: int, outputs: int, numbers: range
) -> list[list[Any]]:
    """Emit the loop over the inputs; return pointers to the sums of each row and vector."""
    w_at, x_at, x_step, count = args[:4]
    kind = ir.VectorType(INT, isa.lanes)
    zero = ir.Constant(kind, [0] * isa.lanes)
    sums = [[cgutils.alloca_once_value(builder, zero) for _ in numbers] for _ in range(rows)]
    with cgutils.for_range(builder, count) as loop:
        start = builder.mul(loop.index, constant(GROUP * outputs))
        loaded = [
            load(builder, w_at, builder.add(start, constant(GROUP * isa.lanes * v)), kind, 4)
            for v in numbers
        ]
        first = builder.add(builder.mul(loop.index, constant(GROUP)), constant(ROW_HEADER))
        for r, row in enumerate(sums):
            at = builder.add(first, builder.mul(x_step, constant(r)))
            four = load(builder, x_at, at, INT, 4)
            for total, weight in zip(row, loaded, strict=True):
                builder.store(isa.dot(builder, builder.load(total), four, weight), total)
    return sums


def _emit_outputs(
    builder: Any, isa: Int8Isa, args: Any, sums: list[list[Any]], outputs: int, numbers: range
) -> None:
    """Emit the conversion of sums to floats: minus the offset's part, times both scales."""
    w_at, x_at, x_step, count, y_at, y_step = args
    whole, real = ir.VectorType(INT, isa.lanes), ir.VectorType(FLOAT, isa.lanes)
    scales = builder.mul(count, constant(GROUP * outputs))
    for i, v in enumerate(numbers):
        at = builder.add(scales, constant(4 * isa.lanes * v))
        scale = load(builder, w_at, at, real, 4)
        shift = load(builder, w_at, builder.add(at, constant(4 * outputs)), whole, 4)
        for r, row in enumerate(sums):
            step = builder.mul(x_step, constant(r))
            x_scale = spread(builder, load(builder, x_at, step, FLOAT, 4), isa.lanes)
            total = builder.load(row[i])
            if isa.offset:
                total = builder.sub(total, shift)
            value = builder.fmul(builder.sitofp(total, real), scale)
            value = builder.fmul(value, x_scale)
            to = builder.add(builder.mul(y_step, constant(r)), constant(4 * isa.lanes * v))
            builder.store(value, address(builder, y_at, to, real)).align = 4


def quantiser(isa: Int8Isa) -> Any:
    """Make the function that quantises a row of floats into a header and bytes.

    The scale is the row's largest magnitude over 127; halves round to even. Bytes between
    the row's end and the next multiple of four aren't written: the weights there are zero.
    """
    real, whole = ir.VectorType(FLOAT, LANES), ir.VectorType(INT, LANES)
    few = ir.VectorType(_BYTE, LANES)

    def larger(builder: Any, a: Any, b: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", a, b), a, b)

    def to_byte(builder: Any, x: Any, factor: Any, kind: Any, result: Any) -> Any:
        name = "llvm.rint.v16f32" if isinstance(x.type, ir.VectorType) else "llvm.rint.f32"
        whole_x = builder.fptosi(call_llvm(builder, name, builder.fmul(x, factor)), kind)
        if isa.offset:
            lanes = [isa.offset] * LANES if isinstance(kind, ir.VectorType) else isa.offset
            whole_x = builder.add(whole_x, ir.Constant(kind, lanes))
        return builder.trunc(whole_x, result)

    def peak(builder: Any, x_at: Any, vectors: Any, first: Any, left: Any) -> Any:
        """Emit the search for the largest magnitude."""
        largest = cgutils.alloca_once_value(builder, ir.Constant(real, [0.0] * LANES))
        with cgutils.for_range(builder, vectors) as loop:
            at = builder.mul(loop.index, constant(4 * LANES))
            size = call_llvm(builder, "llvm.fabs.v16f32", load(builder, x_at, at, real, 4))
            builder.store(larger(builder, size, builder.load(largest)), largest)
        top = _intrinsic(builder, "llvm.vector.reduce.fmax.v16f32", FLOAT, builder.load(largest))
        top = cgutils.alloca_once_value(builder, top)
        with cgutils.for_range(builder, left) as loop:
            at = builder.mul(builder.add(first, loop.index), constant(4))
            size = call_llvm(builder, "llvm.fabs.f32", load(builder, x_at, at, FLOAT, 4))
            builder.store(larger(builder, size, builder.load(top)), top)
        return builder.load(top)

    @intrinsic
    def quantise(typing_context: Any, x: Any, m: Any, header: Any) -> Any:
        """Address of m floats, their count, address of the header before the bytes."""

        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            x_at, count, header_at = args
            vectors = builder.udiv(count, constant(LANES))
            first = builder.mul(vectors, constant(LANES))
            left = builder.sub(count, first)
            top = peak(builder, x_at, vectors, first, left)
            is_audible = builder.fcmp_ordered(">", top, ir.Constant(FLOAT, SILENCE))
            zero, most = ir.Constant(FLOAT, 0.0), ir.Constant(FLOAT, 127.0)
            factor = builder.select(is_audible, builder.fdiv(most, top), zero)
            scale = builder.select(is_audible, builder.fdiv(top, most), zero)
            builder.store(scale, builder.inttoptr(header_at, FLOAT.as_pointer()))
            factors = spread(builder, factor, LANES)
            with cgutils.for_range(builder, vectors) as loop:
                at = builder.mul(loop.index, constant(4 * LANES))
                value = load(builder, x_at, at, real, 4)
                to = builder.add(builder.mul(loop.index, constant(LANES)), constant(ROW_HEADER))
                packed = to_byte(builder, value, factors, whole, few)
                builder.store(packed, address(builder, header_at, to, few)).align = 1
            with cgutils.for_range(builder, left) as loop:
                index = builder.add(first, loop.index)
                value = load(builder, x_at, builder.mul(index, constant(4)), FLOAT, 4)
                to = builder.add(index, constant(ROW_HEADER))
                one = to_byte(builder, value, factor, INT, _BYTE)
                builder.store(one, address(builder, header_at, to, _BYTE)).align = 1
            return context.get_dummy_value()

        return types.void(*[types.int64] * 3), emit

    return quantise


ISA_NAME = int8_isa()
ISA = ISAS[ISA_NAME]
"""Of this processor, or the one that `RTMTASS_INT8` forces."""

quantise = quantiser(ISA)


def int8_microkernel(rows: int, outputs: int) -> Emit:
    """Make the microkernel of this processor; see `microkernel`."""
    return microkernel(ISA, rows, outputs)
