"""What lies inside a `.rtm` file's weights and a stream's arenas: ranges, spectra, matmuls.

No sum or product here can overflow: every word is below 2**31 and every factor of a
product of three at most `MOST_COUNT`.
"""

from __future__ import annotations

from rtmtass.jit.addresses import words_
from rtmtass.jit.compiler import kernel
from rtmtass.jit.simd import LANES
from rtmtass.matmul.int8 import ROW_HEADER
from rtmtass.matmul.microkernels import PANEL
from rtmtass.matmul.products import INT8, REGISTRY
from rtmtass.native.model_words import WORD
from rtmtass.runtime.compiled.program import MATMUL
from rtmtass.types import Longs

MOST_WORD = (1 << 31) - 1
"""Largest word of a header or instruction; all bytes and floats of a file can be counted."""
MOST_COUNT = 1 << 20
"""Most rows, and inputs or outputs of a matmul."""
REFUSED = -1
"""Instead of a number of operations: the instruction isn't safe."""

_STEP_INPUTS = tuple(one.step_inputs for one in REGISTRY.values())
_STEP_BYTES = tuple(one.step_bytes for one in REGISTRY.values())
_FOOTER_BYTES = tuple(one.footer_bytes for one in REGISTRY.values())
_ROW_HEADER = ROW_HEADER // 4
_EXPONENT = 0x7F800000


@kernel
def are_finite(address: int, n: int) -> bool:
    """Return whether `n` float32 at an address are neither NaN nor Inf."""
    words = words_(address, n)
    worst = 0
    for i in range(n):
        worst = max(worst, words[i] & _EXPONENT)
    return worst < _EXPONENT


@kernel
def _are_finite_halves(address: int, n: int) -> bool:
    """As `are_finite`, for `n` pairs of bfloat16."""
    words = words_(address, n)
    worst = 0
    for i in range(n):
        worst = max(worst, words[i] & _EXPONENT, (words[i] << 16) & _EXPONENT)
    return worst < _EXPONENT


@kernel
def _are_weights_finite(precision: int, at: int, steps: int, n: int) -> bool:
    """Return whether a matmul's weights, or their scales in int8, are finite."""
    if precision != INT8:
        n_words = _STEP_BYTES[precision] * steps * n // 4
        if _STEP_BYTES[precision] == 4:
            return are_finite(at, n_words)
        return _are_finite_halves(at, n_words)
    start = 0
    while start < n:
        outputs = PANEL if n - start >= PANEL else LANES
        at += _STEP_BYTES[precision] * steps * outputs
        if not are_finite(at, outputs):
            return False
        at += _FOOTER_BYTES[precision] * outputs
        start += outputs
    return True


@kernel
def holds(size: int, at: int, stride: int, rows: int, width: int) -> bool:
    """Return whether rows of `width` floats, `stride` apart, lie in an arena of `size`."""
    if width < 1 or rows < 1 or rows > MOST_COUNT:
        return False
    return at + (rows - 1) * stride + width <= size


@kernel
def holds_spectrum(header: Longs, at: int, bins: int, imag_offset: int) -> bool:
    """Return whether a spectrum has the size of the STFT's and lies in the work arena."""
    if bins != header[WORD.bins] or imag_offset != header[WORD.imag_offset]:
        return False
    return holds(header[WORD.work_size], at, 0, 1, imag_offset + bins)


@kernel
def has_floats(address: int, header: Longs, at: int, n: int) -> bool:
    """Return whether the weights hold `n` finite floats at `at`."""
    if not holds(header[WORD.weights_bytes] // 4, at, 0, 1, n):
        return False
    return are_finite(address + header[WORD.weights_at] + 4 * at, n)


@kernel
def matmul_operations(address: int, header: Longs, op: Longs, m: int, n: int) -> int:
    """Check weights and quantised inputs of a matmul; return its operations."""
    precision, rows, weights = op[MATMUL.precision], op[MATMUL.rows], op[MATMUL.weights]
    if precision != header[WORD.precision] or rows < 1 or rows > MOST_COUNT:
        return REFUSED
    if m < 1 or m > MOST_COUNT or n < LANES or n > MOST_COUNT or n % LANES:
        return REFUSED
    steps = (m + _STEP_INPUTS[precision] - 1) // _STEP_INPUTS[precision]
    n_bytes = (_STEP_BYTES[precision] * steps + _FOOTER_BYTES[precision]) * n
    if 4 * weights + n_bytes > header[WORD.weights_bytes]:
        return REFUSED
    if precision == INT8:  # a row's bytes are read in fours, each a float of the arena
        at, stride = op[MATMUL.quantised], op[MATMUL.quantised_stride]
        if not holds(header[WORD.work_size], at, stride, rows, _ROW_HEADER + steps):
            return REFUSED
    if not _are_weights_finite(
        precision, address + header[WORD.weights_at] + 4 * weights, steps, n
    ):
        return REFUSED
    return int(rows * m * n)
