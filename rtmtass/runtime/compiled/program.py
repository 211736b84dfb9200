"""A compiled program: instructions with named fields, and the arenas they address.

An instruction is built by field name, so a missing or unknown field is a TypeError where
it is emitted (and an error for mypy). In `Program.instructions` it is a row of int64,
[opcode, *fields, 0 ...]. The interpreter reads the fields through the column tables below,
as `op[AFFINE.weights]`: global constants, which numba folds, so naming costs no time.

Addresses count floats in the arena that holds the register, and strides count floats from
one frame to the next, unless a field says otherwise.
"""

from __future__ import annotations

import dataclasses
from collections import namedtuple
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np

from rtmtass.config import ModelConfig
from rtmtass.types import Floats, Longs


class Register(NamedTuple):
    """A buffer in the work arena: `width` floats for each row, one or more rows a frame."""

    at: int
    stride: int
    width: int
    rows: int = 1

    def columns(self, start: int, width: int) -> Register:
        """Return a slice of every row."""
        return Register(self.at + start, self.stride, width, self.rows)

    def row(self, k: int) -> Register:
        """Return the k-th row of every frame."""
        return Register(self.at + k * self.stride, self.rows * self.stride, self.width)


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """Base of all instructions; its fields are the columns after the opcode, in order."""


@dataclass(frozen=True, kw_only=True)
class Matmul(Instruction):
    """Fields that every instruction with a matmul begins with.

    Attributes:
        weights: address of the packed weights.
        precision: index in `config.PRECISIONS`.
        rows: rows a frame.
        quantised, quantised_stride: scratch for quantised inputs; set by `Builder.finish`.
    """

    weights: int
    precision: int
    rows: int
    quantised: int = 0
    quantised_stride: int = 0


@dataclass(frozen=True, kw_only=True)
class Affine(Matmul):
    """Affine layer, y = prelu(W x + b).

    `bias` addresses n biases, then n slopes. With `scratch` >= 0 the result is added to y.
    """

    x: int
    x_stride: int
    m: int
    y: int
    y_stride: int
    n: int
    bias: int
    scratch: int


@dataclass(frozen=True, kw_only=True)
class Gru(Matmul):
    """Step a GRU whose input matmul is done; see `interpreter._gru`.

    `padded` is the width of the recurrent matmul's output, `state_stride` the distance
    from one row's state to the next.
    """

    x: int
    x_stride: int
    width: int
    y: int
    y_stride: int
    bias: int
    state: int
    scratch: int
    padded: int
    state_stride: int


@dataclass(frozen=True, kw_only=True)
class Taps(Instruction):
    """Write the last `size` frames, `dilation` apart, side by side; `ring` is in the state."""

    x: int
    x_stride: int
    width: int
    y: int
    y_stride: int
    size: int
    dilation: int
    ring: int
    mask: int


@dataclass(frozen=True, kw_only=True)
class Gate(Instruction):
    """Gate, y = value * sigmoid(gate); x holds `width` values, then `width` gates."""

    x: int
    x_stride: int
    width: int
    y: int
    y_stride: int


@dataclass(frozen=True, kw_only=True)
class Copy(Instruction):
    """Copy, y = x, or y += x where `adds` is 1."""

    x: int
    x_stride: int
    width: int
    y: int
    y_stride: int
    adds: int


@dataclass(frozen=True, kw_only=True)
class Subtract(Instruction):
    """Subtract, y = a - b."""

    a: int
    a_stride: int
    b: int
    b_stride: int
    y: int
    y_stride: int
    width: int


@dataclass(frozen=True, kw_only=True)
class Cut(Instruction):
    """Cut x into `rows` overlapping pieces of `y_width`, `step` apart, the first at `first`."""

    x: int
    x_stride: int
    x_width: int
    y: int
    y_stride: int
    y_width: int
    rows: int
    step: int
    first: int


@dataclass(frozen=True, kw_only=True)
class Join(Instruction):
    """Add the `rows` rows of x, end to end, to the first `y_width` floats of y."""

    x: int
    x_stride: int
    x_width: int
    y: int
    y_stride: int
    y_width: int
    rows: int


@dataclass(frozen=True, kw_only=True)
class Level(Instruction):
    """Running level of a spectrum; `constants` addresses decay and fall in the weights."""

    x: int
    x_stride: int
    bins: int
    imag_offset: int
    level: int
    state: int
    constants: int
    by_power: int
    window: int
    rank: int


@dataclass(frozen=True, kw_only=True)
class Compress(Instruction):
    """Compressed spectrum: `parts` of magnitude (1), re and im (2), or all three (3)."""

    x: int
    x_stride: int
    bins: int
    imag_offset: int
    level: int
    y: int
    y_stride: int
    parts: int


@dataclass(frozen=True, kw_only=True)
class Estimate(Instruction):
    """Turn a head's output into a spectrum, written to y or, where `adds` is 1, added to it.

    `target` is the index in `config.TARGETS`; `limit` addresses the mask limit in the weights.
    """

    head: int
    head_stride: int
    bins: int
    x: int
    x_stride: int
    imag_offset: int
    level: int
    y: int
    y_stride: int
    target: int
    adds: int
    limit: int


@dataclass(frozen=True, kw_only=True)
class OnStems(Instruction):
    """Fields that every instruction on the stems' spectra begins with; `x` is the mixture's."""

    x: int
    x_stride: int
    bins: int
    imag_offset: int
    stems: int
    stems_stride: int
    n_stems: int


@dataclass(frozen=True, kw_only=True)
class MixtureConsistency(OnStems):
    """Make the stems' spectra sum to the mixture's."""


@dataclass(frozen=True, kw_only=True)
class Expander(OnStems):
    """Lower stems with a small share of the power; see `net.expander.StemExpander`.

    `constants` addresses both decays and the threshold in the weights; `gains` is scratch
    for a gain and a weight per stem. `steeper` is by how much the ratio exceeds 2: files of
    before it had a choice hold 0 there.
    """

    state: int
    constants: int
    gains: int
    steeper: int


@dataclass(frozen=True, kw_only=True)
class Flatten(Join):
    """As `Join`, but written to y."""


@dataclass(frozen=True, kw_only=True)
class RmsNorm(Instruction):
    """Divide each row by its root mean square; the norm's weights are folded into what reads y."""

    x: int
    x_stride: int
    width: int
    y: int
    y_stride: int
    rows: int


KINDS: tuple[type[Instruction], ...] = (
    Affine,
    Taps,
    Gate,
    Gru,
    Copy,
    Level,
    Compress,
    Estimate,
    Subtract,
    MixtureConsistency,
    Cut,
    Join,
    Expander,
    Flatten,
    RmsNorm,
)
"""All instructions; the index is the opcode."""

OP_AFFINE = KINDS.index(Affine)
OP_TAPS = KINDS.index(Taps)
OP_GATE = KINDS.index(Gate)
OP_GRU = KINDS.index(Gru)
OP_COPY = KINDS.index(Copy)
OP_LEVEL = KINDS.index(Level)
OP_COMPRESS = KINDS.index(Compress)
OP_ESTIMATE = KINDS.index(Estimate)
OP_SUBTRACT = KINDS.index(Subtract)
OP_MIXTURE_CONSISTENCY = KINDS.index(MixtureConsistency)
OP_CUT = KINDS.index(Cut)
OP_JOIN = KINDS.index(Join)
OP_EXPANDER = KINDS.index(Expander)
OP_FLATTEN = KINDS.index(Flatten)
OP_RMS_NORM = KINDS.index(RmsNorm)

I = TypeVar("I", bound=Instruction)  # noqa: E741


def columns(kind: type[I]) -> I:
    """Return the column of every field of `kind`, by name.

    A named tuple, which numba takes as a constant, with the attributes of `kind`.
    """
    names = [field.name for field in dataclasses.fields(kind)]
    table: Any = namedtuple(f"{kind.__name__}Columns", names)  # type: ignore[misc]
    return cast(I, table._make(range(1, 1 + len(names))))


MATMUL = columns(Matmul)
ON_STEMS = columns(OnStems)
AFFINE = columns(Affine)
TAPS = columns(Taps)
GATE = columns(Gate)
GRU = columns(Gru)
COPY = columns(Copy)
LEVEL = columns(Level)
COMPRESS = columns(Compress)
ESTIMATE = columns(Estimate)
SUBTRACT = columns(Subtract)
MIXTURE_CONSISTENCY = columns(MixtureConsistency)
CUT = columns(Cut)
JOIN = columns(Join)
EXPANDER = columns(Expander)
RMS_NORM = columns(RmsNorm)

WORDS = 1 + max(len(dataclasses.fields(kind)) for kind in KINDS)
"""Integers in an encoded instruction: the opcode and the fields of the longest."""


def encode(instructions: list[Instruction]) -> Longs:
    """Return instructions as the interpreter reads them, (n, WORDS) int64."""
    code = np.zeros((len(instructions), WORDS), np.int64)
    for row, instruction in zip(code, instructions, strict=True):
        fields = dataclasses.astuple(instruction)
        row[: 1 + len(fields)] = [KINDS.index(type(instruction)), *fields]
    return code


@dataclass(frozen=True)
class Program:
    """A network ready to run; shared, read-only, by any number of streams.

    Attributes:
        instructions: (n, WORDS) int64 for `interpreter.execute`.
        weights: arena of packed weights.
        state_size, work_size: floats that each stream needs, zero before its first frame.
        mixture: register of the input spectrum, [re | im], `imag_offset` apart.
        aligned: register of the mixture's spectrum that belongs to the stems (older by the
            look-ahead).
        stems: register of the stems' spectra, S times [re | im].
        imag_offset: floats from the real to the imaginary part.
        chunk: most frames of one stream that run together.
    """

    config: ModelConfig
    instructions: Longs
    weights: Floats
    state_size: int
    work_size: int
    mixture: Register
    aligned: Register
    stems: Register
    imag_offset: int
    chunk: int
