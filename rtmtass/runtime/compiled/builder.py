"""Builds a program: allocates registers, state and weights, and collects the instructions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from rtmtass.config import PRECISIONS
from rtmtass.errors import ModelError
from rtmtass.jit.simd import LANES, in_vectors
from rtmtass.matmul.int8 import ROW_HEADER
from rtmtass.matmul.products import REGISTRY
from rtmtass.runtime.compiled.memory import LINE, allocate
from rtmtass.runtime.compiled.program import (
    KINDS,
    Affine,
    Copy,
    Cut,
    Flatten,
    Gate,
    Instruction,
    Join,
    Matmul,
    Register,
    RmsNorm,
    Subtract,
    Taps,
)
from rtmtass.runtime.folding import Layer
from rtmtass.types import Bytes, Floats


@dataclass
class Builder:
    """Allocates addresses in the arenas and collects instructions."""

    chunk: int
    """Frames of every register: of one stream, or one each of as many streams."""
    precision: str = "f32"
    frames: int = 1
    """Frames of one stream that run together."""
    instructions: list[Instruction] = field(default_factory=list)
    constants: list[Bytes] = field(default_factory=list)
    constants_size: int = 0
    """Bytes of `constants`, each padded to a cache line."""
    state: int = 0
    work: int = 0
    peak: int = 0
    """Work space of the largest moment, see `reused`."""
    max_inputs: int = 0
    """Inputs of the widest matmul that quantises them."""
    max_rows: int = 1
    """Rows a frame of the register that has most."""

    def store(self, values: Floats | Bytes) -> int:
        """Add constants to the weights' arena, on a cache line; return their address."""
        at = self.constants_size
        self.constants.append(np.ascontiguousarray(values).reshape(-1).view(np.uint8))
        self.constants_size += -(-values.nbytes // LINE) * LINE
        return at // 4

    def store_weight(self, weight: Floats) -> int:
        """Pack a matmul's weights, (n, m), into the arena; return their address."""
        return self.store(REGISTRY[self.precision].pack(weight))

    def weights(self) -> Floats:
        """Return the weights' arena; bfloat16 and int8 weights are stored in its floats."""
        arena = allocate(self.constants_size)
        at = 0
        for constant in self.constants:
            arena[at : at + constant.size] = constant
            at += -(-constant.size // LINE) * LINE
        return arena.view(np.float32)

    def precision_number(self, m: int) -> int:
        """Return the number of the precision for a matmul with `m` inputs."""
        if REGISTRY[self.precision].quantises:
            self.max_inputs = max(self.max_inputs, m)
        return PRECISIONS.index(self.precision)

    def finish(self) -> None:
        """Allocate one scratch buffer for quantised inputs, wide enough for every matmul."""
        self.work = max(self.work, self.peak)
        stride = (ROW_HEADER + -(-self.max_inputs // LINE) * LINE) // 4
        at = self.work
        if REGISTRY[self.precision].quantises:
            self.work += stride * self.chunk * self.max_rows
        self.instructions = [
            dataclasses.replace(one, quantised=at, quantised_stride=stride)
            if isinstance(one, Matmul)
            else one
            for one in self.instructions
        ]

    @contextmanager
    def reused(self) -> Iterator[None]:
        """The work space of registers made within this context is free for others after it.

        So a network's arena stays in the cache, however many layers it has.
        """
        before = self.work
        yield
        self.peak = max(self.peak, self.work)
        self.work = before

    def allocate_state(self, size: int) -> int:
        """Reserve state; return its address."""
        at = self.state
        self.state += in_vectors(size)
        return at

    def register(self, width: int, slack: int = LANES, rows: int = 1) -> Register:
        """Reserve work space for `width` floats a row, and for a matmul's padding."""
        stride = in_vectors(width + slack - 1)
        at = self.work
        self.work += stride * self.chunk * rows
        self.max_rows = max(self.max_rows, rows)
        return Register(at, stride, width, rows)

    def emit(self, instruction: Instruction) -> None:
        """Append an instruction; its own type checks that every field is there, by name."""
        if type(instruction) not in KINDS:
            raise TypeError(
                f"emit takes an instruction of program.KINDS, not {type(instruction).__name__}"
            )
        self.instructions.append(instruction)

    def affine(
        self, x: Register, layer: Layer, out: Register | None = None, add: bool = False
    ) -> Register:
        """Emit y = layer(x) into a new register or into `out`, or add it to `out`."""
        n, m = layer.weight.shape
        if m != x.width:
            raise ModelError(
                f"a layer of the weights reads {m} channels where the config gives {x.width}:"
                " config and weights belong to different networks"
            )
        n_padded = in_vectors(n)
        if out is None:
            out = self.register(n, rows=x.rows)
        weights = self.store_weight(layer.weight)
        both = np.zeros(2 * n_padded, np.float32)
        both[:n], both[n_padded : n_padded + n] = layer.bias, layer.slope
        bias = self.store(both)
        self.emit(
            Affine(
                x=x.at,
                x_stride=x.stride,
                m=m,
                y=out.at,
                y_stride=out.stride,
                n=n_padded,
                weights=weights,
                bias=bias,
                scratch=self.register(n_padded, 1, x.rows).at if add else -1,
                precision=self.precision_number(m),
                rows=x.rows,
            )
        )
        return out

    def taps(self, x: Register, size: int, dilation: int) -> Register:
        """Emit the current and `size` - 1 earlier frames, `dilation` apart, oldest first."""
        capacity = 1 << ((size - 1) * dilation + self.frames - 1).bit_length()
        out = self.register(size * x.width)
        self.emit(
            Taps(
                x=x.at,
                x_stride=x.stride,
                width=x.width,
                y=out.at,
                y_stride=out.stride,
                size=size,
                dilation=dilation,
                ring=self.allocate_state(capacity * x.width),
                mask=capacity - 1,
            )
        )
        return out

    def copy(self, x: Register, out: Register, add: bool = False) -> None:
        """Copy x to out, or add it."""
        self.emit(
            Copy(
                x=x.at,
                x_stride=x.stride,
                width=x.width,
                y=out.at,
                y_stride=out.stride,
                adds=int(add),
            )
        )

    def subtract(self, a: Register, b: Register) -> Register:
        """Emit a - b; both are whole registers without slack, as spectra are."""
        out = self.register(a.width, 1)
        self.emit(
            Subtract(
                a=a.at,
                a_stride=a.stride,
                b=b.at,
                b_stride=b.stride,
                y=out.at,
                y_stride=out.stride,
                width=a.width,
            )
        )
        return out

    def cut(self, x: Register, out: Register, step: int, first: int = 0) -> None:
        """Cut x into the rows of a frame of out: pieces `step` apart, the first at `first`.

        Pieces that reach beyond x are padded with zeros.
        """
        self.emit(
            Cut(
                x=x.at,
                x_stride=x.stride,
                x_width=x.width,
                y=out.at,
                y_stride=out.stride,
                y_width=out.width,
                rows=out.rows,
                step=step,
                first=first,
            )
        )

    def join(self, x: Register, out: Register, add: bool = True) -> None:
        """Add or write the rows of a frame of x, end to end, to out; what exceeds it is dropped."""
        self.emit(
            (Join if add else Flatten)(
                x=x.at,
                x_stride=x.stride,
                x_width=x.width,
                y=out.at,
                y_stride=out.stride,
                y_width=out.width,
                rows=x.rows,
            )
        )

    def rms_norm(self, x: Register) -> Register:
        """Emit the rows of x over their root mean squares."""
        out = self.register(x.width, rows=x.rows)
        self.emit(
            RmsNorm(
                x=x.at, x_stride=x.stride, width=x.width, y=out.at, y_stride=out.stride, rows=x.rows
            )
        )
        return out

    def gate(self, x: Register) -> Register:
        """Emit the first half of x times the sigmoid of the second."""
        out = self.register(x.width // 2)
        self.emit(
            Gate(x=x.at, x_stride=x.stride, width=x.width // 2, y=out.at, y_stride=out.stride)
        )
        return out
