"""Proves, before its first hop, that a program stays inside its arenas and ends soon.

A `.rtm` file may come from anywhere and its instructions are addresses, so each is checked
against what its kernel in `runtime.compiled` reads and writes, for one frame of one stream.
Those kernels compute addresses and loop counts from instructions and the frame's number
alone, never from samples or weights, so this proof holds for any sound.

Weights must be finite, as no trained network has others. That isn't needed for the proof:
finite ones can still overflow to NaN at run time, and then the int8 quantiser's conversion
gives bytes that depend on the processor; they reach samples, never an address.
"""

from __future__ import annotations

import dataclasses

from rtmtass.config import TARGETS
from rtmtass.jit.addresses import longs
from rtmtass.jit.compiler import kernel
from rtmtass.native.arena_check import (
    MOST_COUNT,
    MOST_WORD,
    REFUSED,
    has_floats,
    holds,
    holds_spectrum,
    matmul_operations,
)
from rtmtass.native.model_words import WORD
from rtmtass.runtime.compiled.program import (
    AFFINE,
    COMPRESS,
    COPY,
    CUT,
    ESTIMATE,
    EXPANDER,
    GATE,
    GRU,
    JOIN,
    KINDS,
    LEVEL,
    ON_STEMS,
    OP_AFFINE,
    OP_COMPRESS,
    OP_COPY,
    OP_CUT,
    OP_ESTIMATE,
    OP_EXPANDER,
    OP_FLATTEN,
    OP_GATE,
    OP_GRU,
    OP_JOIN,
    OP_LEVEL,
    OP_MIXTURE_CONSISTENCY,
    OP_RMS_NORM,
    OP_SUBTRACT,
    OP_TAPS,
    RMS_NORM,
    SUBTRACT,
    TAPS,
    WORDS,
)
from rtmtass.runtime.compiled.spectral_ops import MAGNITUDE
from rtmtass.types import Longs

MOST_INSTRUCTIONS = 1 << 16
MOST_OPERATIONS = 1 << 30
"""Most multiplications per hop; the preset `large` has 44 million."""

_N_KINDS = len(KINDS)
_N_TARGETS = len(TARGETS)
_FIELDS = tuple(len(dataclasses.fields(kind)) for kind in KINDS)
_RANK_STEPS = 32
"""Passes over a level's window per frame; see `spectral_ops.largest`."""


@kernel
def _is_sane(op: Longs) -> bool:
    """Return whether an instruction is known, its fields small, and the rest of it zero."""
    code = op[0]
    if code < 0 or code >= _N_KINDS:
        return False
    for i in range(1, WORDS):
        low = 0
        if code == OP_AFFINE and i == AFFINE.scratch:
            low = -1
        elif code == OP_CUT and i == CUT.first:
            low = -MOST_WORD
        high = MOST_WORD if i <= _FIELDS[code] else 0
        if op[i] < low or op[i] > high:
            return False
    return True


@kernel
def _affine(address: int, header: Longs, op: Longs) -> int:
    work = header[WORD.work_size]
    m, n, rows = op[AFFINE.m], op[AFFINE.n], op[AFFINE.rows]
    operations = matmul_operations(address, header, op, m, n)
    if operations < 0:
        return REFUSED
    if not holds(work, op[AFFINE.x], op[AFFINE.x_stride], rows, m):
        return REFUSED
    # n is whole vectors, so the matmul writes no further than the result.
    if not holds(work, op[AFFINE.y], op[AFFINE.y_stride], rows, n):
        return REFUSED
    if op[AFFINE.scratch] >= 0 and not holds(work, op[AFFINE.scratch], n, rows, n):
        return REFUSED
    return operations if has_floats(address, header, op[AFFINE.bias], 2 * n) else REFUSED


@kernel
def _gru(address: int, header: Longs, op: Longs) -> int:
    work, state = header[WORD.work_size], header[WORD.state_size]
    width, padded, rows = op[GRU.width], op[GRU.padded], op[GRU.rows]
    operations = matmul_operations(address, header, op, width, padded)
    if operations < 0 or padded < 3 * width:
        return REFUSED
    if not holds(work, op[GRU.x], op[GRU.x_stride], rows, 3 * width):
        return REFUSED
    if not holds(work, op[GRU.y], op[GRU.y_stride], rows, width):
        return REFUSED
    if not holds(work, op[GRU.scratch], padded, rows, padded):
        return REFUSED
    if not holds(state, op[GRU.state], op[GRU.state_stride], rows, width):
        return REFUSED
    return operations if has_floats(address, header, op[GRU.bias], 3 * width) else REFUSED


@kernel
def _taps(header: Longs, op: Longs) -> int:
    work, state = header[WORD.work_size], header[WORD.state_size]
    width, size, mask = op[TAPS.width], op[TAPS.size], op[TAPS.mask]
    if width < 1 or width > MOST_COUNT or size < 1 or size > MOST_COUNT:
        return REFUSED
    # The ring has a power of two of slots; a frame beyond it would be a later one.
    if mask & (mask + 1) or (size - 1) * op[TAPS.dilation] > mask:
        return REFUSED
    if not holds(state, op[TAPS.ring], 0, 1, (mask + 1) * width):
        return REFUSED
    if not holds(work, op[TAPS.x], 0, 1, width) or not holds(work, op[TAPS.y], 0, 1, size * width):
        return REFUSED
    return int(size * width)


@kernel
def _gate(header: Longs, op: Longs) -> int:
    work, width = header[WORD.work_size], op[GATE.width]
    if not holds(work, op[GATE.x], 0, 1, 2 * width) or not holds(work, op[GATE.y], 0, 1, width):
        return REFUSED
    return int(2 * width)


@kernel
def _copy(header: Longs, op: Longs) -> int:
    work, width = header[WORD.work_size], op[COPY.width]
    if op[COPY.adds] > 1 or not holds(work, op[COPY.x], 0, 1, width):
        return REFUSED
    return width if holds(work, op[COPY.y], 0, 1, width) else REFUSED


@kernel
def _subtract(header: Longs, op: Longs) -> int:
    work, width = header[WORD.work_size], op[SUBTRACT.width]
    for at in (op[SUBTRACT.a], op[SUBTRACT.b], op[SUBTRACT.y]):
        if not holds(work, at, 0, 1, width):
            return REFUSED
    return int(width)


@kernel
def _cut(header: Longs, op: Longs) -> int:
    # The kernel clips each piece to x, so `first` and `step` can't lead outside.
    work, rows, width = header[WORD.work_size], op[CUT.rows], op[CUT.y_width]
    if not holds(work, op[CUT.x], 0, 1, op[CUT.x_width]):
        return REFUSED
    if not holds(work, op[CUT.y], op[CUT.y_stride], rows, width):
        return REFUSED
    return int(rows * width)


@kernel
def _join(header: Longs, op: Longs) -> int:
    # The kernel clips each row to y.
    work, rows, width = header[WORD.work_size], op[JOIN.rows], op[JOIN.x_width]
    if not holds(work, op[JOIN.x], op[JOIN.x_stride], rows, width):
        return REFUSED
    return rows * width if holds(work, op[JOIN.y], 0, 1, op[JOIN.y_width]) else REFUSED


@kernel
def _rms_norm(header: Longs, op: Longs) -> int:
    work, rows, width = header[WORD.work_size], op[RMS_NORM.rows], op[RMS_NORM.width]
    if not holds(work, op[RMS_NORM.x], op[RMS_NORM.x_stride], rows, width):
        return REFUSED
    if not holds(work, op[RMS_NORM.y], op[RMS_NORM.y_stride], rows, width):
        return REFUSED
    return int(rows * width)


@kernel
def _level(address: int, header: Longs, op: Longs) -> int:
    bins, window = op[LEVEL.bins], op[LEVEL.window]
    size = 3 + window if window else 2
    if not holds_spectrum(header, op[LEVEL.x], bins, op[LEVEL.imag_offset]):
        return REFUSED
    if not holds(header[WORD.work_size], op[LEVEL.level], 0, 1, 1):
        return REFUSED
    if not holds(header[WORD.state_size], op[LEVEL.state], 0, 1, size):
        return REFUSED
    if op[LEVEL.by_power] > 1 or op[LEVEL.rank] < 1 or op[LEVEL.rank] > max(window, 1):
        return REFUSED
    if not has_floats(address, header, op[LEVEL.constants], 2):
        return REFUSED
    return int(bins + _RANK_STEPS * window)


@kernel
def _compress(header: Longs, op: Longs) -> int:
    work, bins, parts = header[WORD.work_size], op[COMPRESS.bins], op[COMPRESS.parts]
    if not holds_spectrum(header, op[COMPRESS.x], bins, op[COMPRESS.imag_offset]):
        return REFUSED
    if not holds(work, op[COMPRESS.level], 0, 1, 1) or parts < 1 or parts > 3:
        return REFUSED
    return bins if holds(work, op[COMPRESS.y], 0, 1, parts * bins) else REFUSED


@kernel
def _estimate(address: int, header: Longs, op: Longs) -> int:
    work, bins, imag_offset = header[WORD.work_size], op[ESTIMATE.bins], op[ESTIMATE.imag_offset]
    target = op[ESTIMATE.target]
    parts = 1 if target == MAGNITUDE else 2
    if not holds_spectrum(header, op[ESTIMATE.x], bins, imag_offset):
        return REFUSED
    if not holds_spectrum(header, op[ESTIMATE.y], bins, imag_offset):
        return REFUSED
    if target >= _N_TARGETS or op[ESTIMATE.adds] > 1:
        return REFUSED
    if not holds(work, op[ESTIMATE.head], 0, 1, parts * bins):
        return REFUSED
    if not holds(work, op[ESTIMATE.level], 0, 1, 1):
        return REFUSED
    return bins if has_floats(address, header, op[ESTIMATE.limit], 1) else REFUSED


@kernel
def _on_stems(header: Longs, op: Longs) -> int:
    bins, imag_offset = op[ON_STEMS.bins], op[ON_STEMS.imag_offset]
    n_stems, stems = op[ON_STEMS.n_stems], op[ON_STEMS.stems]
    if n_stems != header[WORD.n_stems]:
        return REFUSED
    if not holds_spectrum(header, op[ON_STEMS.x], bins, imag_offset):
        return REFUSED
    if not holds(header[WORD.work_size], stems, 2 * imag_offset, n_stems, imag_offset + bins):
        return REFUSED
    return int(n_stems * bins)


@kernel
def _expander(address: int, header: Longs, op: Longs) -> int:
    n_stems, operations = op[EXPANDER.n_stems], _on_stems(header, op)
    if op[EXPANDER.steeper] > MOST_COUNT or operations < 0:
        return REFUSED
    operations += n_stems * op[EXPANDER.steeper]
    if not holds(header[WORD.work_size], op[EXPANDER.gains], 0, 1, 2 * n_stems):
        return REFUSED
    if not holds(header[WORD.state_size], op[EXPANDER.state], 0, 1, 2 * (n_stems + 1)):
        return REFUSED
    return operations if has_floats(address, header, op[EXPANDER.constants], 3) else REFUSED


@kernel
def _instruction(address: int, header: Longs, op: Longs) -> int:
    """Check one instruction; return about how many operations it takes, or REFUSED."""
    code = op[0]
    operations = REFUSED
    if not _is_sane(op):
        return REFUSED
    if code == OP_AFFINE:
        operations = _affine(address, header, op)
    elif code == OP_TAPS:
        operations = _taps(header, op)
    elif code == OP_GATE:
        operations = _gate(header, op)
    elif code == OP_GRU:
        operations = _gru(address, header, op)
    elif code == OP_COPY:
        operations = _copy(header, op)
    elif code == OP_LEVEL:
        operations = _level(address, header, op)
    elif code == OP_COMPRESS:
        operations = _compress(header, op)
    elif code == OP_ESTIMATE:
        operations = _estimate(address, header, op)
    elif code == OP_SUBTRACT:
        operations = _subtract(header, op)
    elif code == OP_MIXTURE_CONSISTENCY:
        operations = _on_stems(header, op)
    elif code == OP_CUT:
        operations = _cut(header, op)
    elif code in (OP_JOIN, OP_FLATTEN):
        operations = _join(header, op)
    elif code == OP_RMS_NORM:
        operations = _rms_norm(header, op)
    elif code == OP_EXPANDER:
        operations = _expander(address, header, op)
    return operations


@kernel
def is_program_safe(address: int, header: Longs) -> bool:
    """Return whether every instruction stays inside the arenas, and all together end soon.

    Args:
        address: of the file.
        header: of the file, checked before, as are its sections.
    """
    first = address + header[WORD.instructions_at]
    total = 0
    for i in range(header[WORD.n_instructions]):
        operations = _instruction(address, header, longs(first + 8 * WORDS * i, WORDS))
        total += operations
        if operations < 0 or total > MOST_OPERATIONS:
            return False
    return True
