"""Checks a `.rtm` file before anything in it is used; compiled into the native library too.

A file that passes can't make the kernels read or write outside its sections and a stream's
arenas, divide an integer by zero, or run for long.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rtmtass.config import NET_BOUNDS, PRECISIONS, STFT_BOUNDS
from rtmtass.dsp.fft import work_size
from rtmtass.jit.addresses import bytes_, longs
from rtmtass.jit.compiler import kernel
from rtmtass.jit.simd import LANES
from rtmtass.native.arena_check import MOST_WORD, are_finite
from rtmtass.native.model_words import (
    ALIGNMENT,
    HEADER_BYTES,
    HIGHEST_RATE_HZ,
    LOWEST_RATE_HZ,
    MAGIC,
    MOST_STEMS,
    N_WORDS,
    RESULT,
    SECTIONS,
    VERSION,
    WORD,
)
from rtmtass.native.program_check import MOST_INSTRUCTIONS, is_program_safe
from rtmtass.runtime.compiled.program import WORDS
from rtmtass.types import Longs

MOST_FLOATS = 1 << 26
"""Most floats of a stream's state, and of its work arena."""

_N_PRECISIONS = len(PRECISIONS)
_N_SECTIONS = len(SECTIONS)
_LEAST_FFT, _MOST_FFT = (int(bound) for bound in STFT_BOUNDS["n_fft"])
_MOST_LOOKAHEAD = int(NET_BOUNDS["lookahead"][1])
_FFT_PADDING = work_size(0)
_POLYNOMIAL = 0xEDB88320


def _crc_tables() -> NDArray[np.uint32]:
    """Return the CRC-32 of every byte followed by 0, 1 ... 7 zero bytes, (8 * 256,)."""
    tables = np.zeros((8, 256), np.uint32)
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ _POLYNOMIAL * (value & 1)
        tables[0, byte] = value
    for k in range(1, 8):
        tables[k] = tables[k - 1] >> 8 ^ tables[0, tables[k - 1] & 255]
    return tables.ravel()


_CRC = _crc_tables()


@kernel
def _crc_step(crc: int, low: int, high: int) -> int:
    """Return a CRC-32 after eight more bytes, the first in the lowest bits of `low`.

    Source: M. Kounavis, F. Berry, "A Systematic Approach to Building High Performance
    Software-Based CRC Generators", ISCC 2005 (slicing by 8).
    """
    low ^= crc
    near = _CRC[1792 + (low & 255)] ^ _CRC[1536 + (low >> 8 & 255)]
    near ^= _CRC[1280 + (low >> 16 & 255)] ^ _CRC[1024 + (low >> 24)]
    far = _CRC[768 + (high & 255)] ^ _CRC[512 + (high >> 8 & 255)]
    far ^= _CRC[256 + (high >> 16 & 255)] ^ _CRC[high >> 24]
    result: int = (near ^ far) & 0xFFFFFFFF  # numba makes uint64 of uint32; this is int64 again
    return result


@kernel
def _crc32(address: int, size: int) -> int:
    """Return the CRC-32 of a file whose word for it is taken as 0."""
    words = longs(address, size // 8)
    crc = 0xFFFFFFFF
    for i in range(words.size):
        word = 0 if i == WORD.crc else words[i]
        crc = _crc_step(crc, word & 0xFFFFFFFF, word >> 32 & 0xFFFFFFFF)
    return crc ^ 0xFFFFFFFF


@kernel
def _is_intact(address: int, size: int, header: Longs) -> bool:
    """Return whether a file has its length and its CRC, and small words in its header."""
    if header[WORD.header_bytes] != HEADER_BYTES or header[WORD.file_bytes] != size:
        return False
    if size % ALIGNMENT or size > MOST_WORD or header[WORD.crc] != _crc32(address, size):
        return False
    for i in range(N_WORDS):
        is_larger = i == WORD.magic or i == WORD.crc
        if not is_larger and (header[i] < 0 or header[i] > MOST_WORD):
            return False
    return True


@kernel
def _is_stft_valid(header: Longs) -> bool:
    """Return whether the STFT's sizes are a `StftConfig`'s, and the rest follows from them."""
    n_fft, hop, synthesis = header[WORD.n_fft], header[WORD.hop], header[WORD.synthesis]
    bins, lookahead = header[WORD.bins], header[WORD.lookahead]
    if n_fft < _LEAST_FFT or n_fft > _MOST_FFT or n_fft & (n_fft - 1):
        return False
    if hop < 1 or synthesis < 2 * hop or synthesis > n_fft or n_fft % hop or synthesis % hop:
        return False
    if bins != n_fft // 2 + 1 or header[WORD.imag_offset] != (bins + LANES - 1) // LANES * LANES:
        return False
    if lookahead > _MOST_LOOKAHEAD or header[WORD.ring] != lookahead + 1:
        return False
    if header[WORD.top] > header[WORD.top_end] or header[WORD.top_end] > bins:
        return False
    if header[WORD.delay] != synthesis - hop + lookahead * hop:
        return False
    rate = header[WORD.sample_rate]
    # A hop is a sample or more at every rate of a stream, so no block of a stream is empty.
    if rate < LOWEST_RATE_HZ or rate > HIGHEST_RATE_HZ or hop * LOWEST_RATE_HZ < rate:
        return False
    return bool(header[WORD.work] == 2 * n_fft + _FFT_PADDING)


@kernel
def _is_register(header: Longs, at: int, stride: int, width: int) -> bool:
    """Return whether one row of at least `width` floats lies in the work arena."""
    return stride >= width and header[at] + stride <= header[WORD.work_size]


@kernel
def _are_arenas_valid(header: Longs) -> bool:
    """Return whether numbers, arenas and the registers of the spectra fit each other."""
    if header[WORD.n_stems] < 1 or header[WORD.n_stems] > MOST_STEMS:
        return False
    if header[WORD.precision] >= _N_PRECISIONS or header[WORD.padding] != 0:
        return False
    if header[WORD.state_size] > MOST_FLOATS or header[WORD.work_size] > MOST_FLOATS:
        return False
    spectrum = 2 * header[WORD.imag_offset]
    stems = spectrum * header[WORD.n_stems]
    return (
        _is_register(header, WORD.mixture_at, header[WORD.mixture_stride], spectrum)
        and _is_register(header, WORD.aligned_at, header[WORD.aligned_stride], spectrum)
        and _is_register(header, WORD.stems_at, header[WORD.stems_stride], stems)
    )


@kernel
def _tables_size(n_fft: int) -> int:
    """Return the floats of `dsp.fft.fft_tables`."""
    size = n_fft // 2
    n = n_fft // 2
    while n > 4:
        size += 6 * (n // 4)
        n //= 4
    return size


@kernel
def _are_sections_valid(header: Longs) -> bool:
    """Return whether the sections follow each other to the file's end, each of its length."""
    end = header[WORD.header_bytes]
    for i in range(_N_SECTIONS):
        n_bytes = header[WORD.instructions_at + 2 * i + 1]
        if header[WORD.instructions_at + 2 * i] != end or n_bytes < 1:
            return False
        end += (n_bytes + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
    n, n_fft, synthesis = header[WORD.n_instructions], header[WORD.n_fft], header[WORD.synthesis]
    if n < 1 or n > MOST_INSTRUCTIONS or header[WORD.words] != WORDS:
        return False
    return bool(
        end == header[WORD.file_bytes]
        and header[WORD.instructions_bytes] == 8 * WORDS * n
        and header[WORD.weights_bytes] % ALIGNMENT == 0
        and header[WORD.analysis_bytes] == 4 * n_fft
        and header[WORD.synthesis_bytes] == 4 * synthesis
        and header[WORD.product_bytes] == 4 * synthesis
        and header[WORD.tables_bytes] == 4 * _tables_size(n_fft)
        and header[WORD.silence_bytes] == 4 * synthesis * header[WORD.n_stems]
    )


@kernel
def _are_tables_finite(address: int, header: Longs) -> bool:
    """Return whether windows, tables and the first state hold neither NaN nor Inf."""
    for at in (
        WORD.analysis_at,
        WORD.synthesis_at,
        WORD.product_at,
        WORD.tables_at,
        WORD.silence_at,
    ):
        if not are_finite(address + header[at], header[at + 1] // 4):
            return False
    return True


@kernel
def _are_names_valid(address: int, header: Longs) -> bool:
    """Return whether there is a name for the model and each stem, in UTF-8, on one line.

    Source: The Unicode Standard 15.0, table 3-7, well-formed UTF-8 byte sequences.
    """
    n = header[WORD.names_bytes]
    names = bytes_(address + header[WORD.names_at], n)
    n_names = length = left = 0
    low, high = 0x80, 0xBF
    for i in range(n):
        byte = names[i]
        if left:
            if byte < low or byte > high:
                return False
            left -= 1
            low, high = 0x80, 0xBF
        elif byte == 0:
            if length == 0:
                return False
            n_names += 1
            length = -1
        elif byte < 0x20 or byte == 0x7F or 0x80 <= byte < 0xC2 or byte > 0xF4:
            return False
        elif byte >= 0xC2:
            left = 1 + (byte >= 0xE0) + (byte >= 0xF0)
            low = 0xA0 if byte == 0xE0 else 0x90 if byte == 0xF0 else 0x80
            high = 0x9F if byte == 0xED else 0x8F if byte == 0xF4 else 0xBF
        length += 1
    return length == 0 and left == 0 and n_names == 1 + header[WORD.n_stems]


@kernel
def check(address: int, size: int) -> int:
    """Check a `.rtm` file; its bytes must not change afterwards.

    Args:
        address: of the file in memory, a multiple of 8.
        size: its bytes.

    Returns:
        `RESULT.ok`, `not_a_model`, `version` (made by a newer version) or `damaged`.
    """
    header = longs(address, N_WORDS)
    if size < 8 or header[WORD.magic] != MAGIC:
        return RESULT.not_a_model
    if size < HEADER_BYTES:
        return RESULT.damaged
    if header[WORD.version] > VERSION:
        return RESULT.version
    if header[WORD.version] < 1 or not _is_intact(address, size, header):
        return RESULT.damaged
    if not _is_stft_valid(header) or not _are_arenas_valid(header):
        return RESULT.damaged
    if not _are_sections_valid(header) or not _are_tables_finite(address, header):
        return RESULT.damaged
    if not _are_names_valid(address, header) or not is_program_safe(address, header):
        return RESULT.damaged
    return RESULT.ok


def check_bytes(data: bytes) -> int:
    """As `check`, for the bytes of a file."""
    memory = np.zeros(len(data) // 8 + N_WORDS, np.int64)
    memory.view(np.uint8)[: len(data)] = np.frombuffer(data, np.uint8)
    return int(check(memory.ctypes.data, len(data)))
