"""Hands out addresses in the arenas and collects the operations of a plan."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rtmtass.config import PRECISIONS
from rtmtass.errors import ModelError
from rtmtass.runtime.compiled import interpreter as op
from rtmtass.runtime.compiled.int8 import ROW_HEADER
from rtmtass.runtime.compiled.memory import LINE, allocate
from rtmtass.runtime.compiled.packing import pack
from rtmtass.runtime.compiled.simd import LANES
from rtmtass.runtime.folding import Layer

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


class Register(NamedTuple):
    """A place in the work arena: `width` floats for each row, one or more rows a frame."""

    at: int
    stride: int
    width: int
    rows: int = 1

    def columns(self, start: int, width: int) -> Register:
        """Return a slice of every row."""
        return Register(self.at + start, self.stride, width, self.rows)


@dataclass
class Builder:
    """Hands out addresses and collects operations."""

    chunk: int
    """Frames of every register: of one stream, or one each of as many streams."""
    precision: str = "f32"
    frames: int = 1
    """Frames of one stream that run together."""
    rows: list[list[int]] = field(default_factory=list)
    arena: list[Bytes] = field(default_factory=list)
    used: int = 0
    state: int = 0
    work: int = 0
    widest: int = 0
    """Inputs of the widest product that quantises them."""
    most_rows: int = 1
    """Rows a frame of the register that has most."""

    def store(self, values: Floats | Bytes) -> int:
        """Put constants into the weights' arena, on a cache line; return their address."""
        at = self.used
        self.arena.append(np.ascontiguousarray(values).reshape(-1).view(np.uint8))
        self.used += -(-values.nbytes // LINE) * LINE
        return at // 4

    def weights(self) -> Floats:
        """Return the weights' arena: floats, some of which hold halves or bytes."""
        arena = allocate(self.used)
        at = 0
        for imag_offset in self.arena:
            arena[at : at + imag_offset.size] = imag_offset
            at += -(-imag_offset.size // LINE) * LINE
        return arena.view(np.float32)

    def kind(self, m: int) -> int:
        """Return the number of the precision of a product with `m` inputs."""
        if self.precision == "int8":
            self.widest = max(self.widest, m)
        return PRECISIONS.index(self.precision)

    def finish(self) -> None:
        """Give all quantised inputs one place, as wide as the widest of them."""
        stride = (ROW_HEADER + -(-self.widest // LINE) * LINE) // 4
        at = self.work
        if self.precision == "int8":
            self.work += stride * self.chunk * self.most_rows
        for row in self.rows:
            if row[0] in (op.AFFINE, op.GRU):
                row[op.QUANTISED : op.QUANTISED + 2] = [at, stride]

    def remember(self, size: int) -> int:
        """Reserve state; return its address."""
        at = self.state
        self.state += -(-size // LANES) * LANES
        return at

    def register(self, width: int, slack: int = LANES, rows: int = 1) -> Register:
        """Reserve work space for `width` floats a row, and for a product's padding."""
        stride = -(-(width + slack - 1) // LANES) * LANES
        at = self.work
        self.work += stride * self.chunk * rows
        self.most_rows = max(self.most_rows, rows)
        return Register(at, stride, width, rows)

    def emit(self, code: int, *fields: int) -> None:
        """Append an operation."""
        self.rows.append([code, *fields] + [0] * (op.FIELDS - 1 - len(fields)))

    def affine(
        self, x: Register, layer: Layer, out: Register | None = None, add: bool = False
    ) -> Register:
        """Y = layer(x), into a new register, into `out`, or added to `out`."""
        n, m = layer.weight.shape
        if m != x.width:
            raise ModelError(
                f"a layer of the weights reads {m} channels where the config gives {x.width}:"
                " config and weights belong to different networks"
            )
        n_padded = -(-n // LANES) * LANES
        if out is None:
            out = self.register(n, rows=x.rows)
        at = self.store(pack(layer.weight, self.precision))
        both = np.zeros(2 * n_padded, np.float32)
        both[:n], both[n_padded : n_padded + n] = layer.bias, layer.slope
        bias = self.store(both)
        scratch = self.register(n_padded, 1, x.rows).at if add else -1
        self.emit(
            op.AFFINE, x.at, x.stride, m, out.at, out.stride, n_padded, at, bias, scratch,
            self.kind(m), x.rows,
        )  # fmt: skip
        return out

    def taps(self, x: Register, size: int, dilation: int) -> Register:
        """Lay the frames `dilation` apart side by side, oldest first."""
        capacity = 1 << ((size - 1) * dilation + self.frames - 1).bit_length()
        ring = self.remember(capacity * x.width)
        out = self.register(size * x.width)
        self.emit(
            op.TAPS, x.at, x.stride, x.width, out.at, out.stride, size, dilation, ring, capacity - 1
        )  # fmt: skip
        return out

    def copy(self, x: Register, out: Register, add: bool = False) -> None:
        """Copy x to out, or add it."""
        self.emit(op.ADD if add else op.COPY, x.at, x.stride, x.width, out.at, out.stride)

    def cut(self, x: Register, out: Register, step: int, first: int = 0) -> None:
        """Lay pieces of x, `step` apart and the first at `first`, into the rows of a frame of out.

        What lies before or beyond x is silence.
        """
        self.emit(
            op.CUT, x.at, x.stride, x.width, out.at, out.stride, out.width, out.rows, step, first
        )  # fmt: skip

    def join(self, x: Register, out: Register) -> None:
        """Add the rows of a frame of x, side by side, to out, as far as out reaches."""
        self.emit(op.JOIN, x.at, x.stride, x.width, out.at, out.stride, out.width, x.rows)

    def gate(self, x: Register) -> Register:
        """Let the second half pass the first."""
        out = self.register(x.width // 2)
        self.emit(op.GATE, x.at, x.stride, x.width // 2, out.at, out.stride)
        return out
