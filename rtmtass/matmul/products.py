"""Matrix products y = W x in every precision, made from one registry of precisions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numba import types
from numba.extending import intrinsic

from rtmtass.config import PRECISIONS
from rtmtass.jit.compiler import kernel
from rtmtass.jit.simd import LANES
from rtmtass.matmul import packing
from rtmtass.matmul.int8 import GROUP, ISA, int8_microkernel, quantise
from rtmtass.matmul.microkernels import (
    PANEL,
    TILE,
    Emit,
    bf16_microkernel,
    f32_microkernel,
)
from rtmtass.types import Bytes, Floats


@dataclass(frozen=True)
class Precision:
    """How one precision packs its weights and multiplies by them.

    Attributes:
        pack_panel: packs a panel, (outputs, m) float32, into bytes.
        microkernel: (rows, outputs) -> what emits the product of that many rows and a panel.
        rows: input rows that share one pass over a panel's weights.
        step_inputs: inputs that the microkernel multiplies in one step.
        step_bytes: bytes of weights per output and step.
        footer_bytes: bytes per output after a panel's weights, such as scales.
        quantises: whether the inputs are quantised first, by `quantise_rows`.
    """

    pack_panel: Callable[[Floats], Bytes]
    microkernel: Callable[[int, int], Emit]
    rows: int
    step_inputs: int
    step_bytes: int
    footer_bytes: int = 0
    quantises: bool = False

    def pack(self, weight: Floats) -> Bytes:
        """Pack a weight matrix, (n, m), panel by panel; see `packing.pack`."""
        return packing.pack(weight, self.pack_panel)


REGISTRY = {
    "f32": Precision(packing.pack_f32, f32_microkernel, TILE.rows, 1, 4),
    "bf16": Precision(packing.pack_bf16, bf16_microkernel, TILE.rows, 1, 2),
    "int8": Precision(
        packing.pack_int8, int8_microkernel, ISA.rows, GROUP, GROUP, 8, quantises=True
    ),
}
"""Every precision by name, in the order of `config.PRECISIONS`, whose index is its number."""
assert tuple(REGISTRY) == PRECISIONS

F32, BF16, INT8 = (PRECISIONS.index(name) for name in ("f32", "bf16", "int8"))

_Matmul = Callable[[int, int, int, int, int, int, int, int], None]


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def _microkernel(
    typing_context: Any,
    precision: Any,
    rows: Any,
    outputs: Any,
    weights: Any,
    x: Any,
    x_stride: Any,
    steps: Any,
    y: Any,
    y_stride: Any,
) -> Any:
    """Call a precision's microkernel; `precision`, `rows` and `outputs` are constants."""
    constants = (precision, rows, outputs)
    if not all(isinstance(one, types.IntegerLiteral) for one in constants):
        return None
    number, n_rows, n_outputs = (one.literal_value for one in constants)
    emit_body = REGISTRY[PRECISIONS[number]].microkernel(n_rows, n_outputs)

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        emit_body(builder, args[len(constants) :])
        return context.get_dummy_value()

    return types.void(*constants, *[types.int64] * 6), emit


def _make_matmul(number: int) -> _Matmul:
    """Compile the loop over panels and rows for one precision.

    Numba caches a closure's machine code by a digest of what it closes over. Plain
    integers digest alike in every process; an intrinsic or another kernel carries a random
    id and would never be found again. So the closure holds numbers only, and
    `_microkernel` looks up the rest at compile time.
    """
    name = PRECISIONS[number]
    precision = REGISTRY[name]
    shared, step_inputs = precision.rows, precision.step_inputs
    step_bytes, footer_bytes = precision.step_bytes, precision.footer_bytes

    def matmul(
        weights: int, m: int, n: int, x: int, x_stride: int, y: int, y_stride: int, rows: int
    ) -> None:
        """y[t] = W x[t] for packed weights; addresses, strides in bytes, and counts."""
        steps = (m + step_inputs - 1) // step_inputs
        start = 0
        while start < n:
            wide = n - start >= PANEL
            t = 0
            while t < rows:
                together = shared if rows - t >= shared else 1
                x_at = x + t * x_stride
                y_at = y + t * y_stride + 4 * start
                if wide and together > 1:
                    _microkernel(
                        number, shared, PANEL, weights, x_at, x_stride, steps, y_at, y_stride
                    )
                elif wide:
                    _microkernel(number, 1, PANEL, weights, x_at, x_stride, steps, y_at, y_stride)
                elif together > 1:
                    _microkernel(
                        number, shared, LANES, weights, x_at, x_stride, steps, y_at, y_stride
                    )
                else:
                    _microkernel(number, 1, LANES, weights, x_at, x_stride, steps, y_at, y_stride)
                t += together
            outputs = PANEL if wide else LANES
            weights += (step_bytes * steps + footer_bytes) * outputs
            start += outputs

    # Numba names machine code and cache files by this; closures of one name could be confused.
    matmul.__name__ = matmul.__qualname__ = f"matmul_{name}"
    return kernel(matmul)


matmul_f32, matmul_bf16, matmul_int8 = map(_make_matmul, range(len(REGISTRY)))


@kernel
def quantise_rows(
    x: int, x_stride: int, m: int, quantised: int, quantised_stride: int, rows: int
) -> None:
    """Quantise rows of `m` floats, each with its header; addresses, and strides in bytes."""
    for t in range(rows):
        quantise(x + t * x_stride, m, quantised + t * quantised_stride)


@kernel
def multiply(
    precision: int,
    weights: int,
    m: int,
    n: int,
    x: int,
    x_stride: int,
    y: int,
    y_stride: int,
    rows: int,
    quantised: int,
    quantised_stride: int,
) -> None:
    """y[t] = W x[t] in the precision of that number; `quantised` is scratch for the inputs.

    Numba can't call a kernel it finds in a table, so each has its line here; a test runs
    every entry of the registry.
    """
    if precision == INT8:
        quantise_rows(x, x_stride, m, quantised, quantised_stride, rows)
        matmul_int8(weights, m, n, quantised, quantised_stride, y, y_stride, rows)
    elif precision == BF16:
        matmul_bf16(weights, m, n, x, x_stride, y, y_stride, rows)
    elif precision == F32:
        matmul_f32(weights, m, n, x, x_stride, y, y_stride, rows)
