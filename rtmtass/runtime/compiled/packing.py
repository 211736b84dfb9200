"""Weights laid out as the products read them, in four, two or one byte each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from rtmtass.config import PRECISIONS
from rtmtass.runtime.compiled.int8 import GROUP
from rtmtass.runtime.compiled.microkernels import PANEL
from rtmtass.runtime.compiled.simd import LANES

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


def pack(weight: Floats, precision: str = "f32") -> Bytes:
    """Lay weights out in panels of PANEL outputs, then of LANES.

    Args:
        weight: (n, m).
        precision: one of `config.PRECISIONS`. "int8" gives every output its own scale.

    Returns:
        bytes: a panel lies as [m][outputs] of float32 or bfloat16, or as
        `int8.panel` describes.
    """
    n, m = weight.shape
    padded = np.zeros((-(-n // LANES) * LANES, m), np.float32)
    padded[:n] = weight
    lay = _LAYOUTS[precision]
    parts, start = [], 0
    while start < len(padded):
        size = PANEL if len(padded) - start >= PANEL else LANES
        parts.append(lay(padded[start : start + size]))
        start += size
    return np.concatenate(parts)


def to_bf16(values: Floats) -> NDArray[np.uint16]:
    """Round to the nearest bfloat16, halves to even; the upper halves of floats."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def to_int8(weight: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Quantise each row of (n, m) by its own scale, its largest magnitude over 127.

    Returns:
        (n, m) int8 in -127..127, and (n,) scales; `values * scales[:, None]` is near `weight`.
    """
    scales = (np.abs(weight).max(axis=1, initial=0.0) / 127).astype(np.float32)
    steps = np.where(scales > 0, scales, 1)[:, None]
    return np.clip(np.rint(weight / steps), -127, 127).astype(np.int8), scales


def _lay_f32(microkernel: Floats) -> Bytes:
    return np.ascontiguousarray(microkernel.T).view(np.uint8).ravel()


def _lay_bf16(microkernel: Floats) -> Bytes:
    return to_bf16(microkernel.T).view(np.uint8).ravel()


def _lay_int8(microkernel: Floats) -> Bytes:
    outputs, m = microkernel.shape
    values, scales = to_int8(microkernel)
    groups = -(-m // GROUP)
    filled = np.zeros((outputs, groups * GROUP), np.int8)
    filled[:, :m] = values
    bytes_ = filled.reshape(outputs, groups, GROUP).transpose(1, 0, 2)
    shifts = 128 * values.astype(np.int32).sum(axis=1, dtype=np.int32)
    parts = (np.ascontiguousarray(bytes_), scales, shifts)
    return np.concatenate([imag_offset.reshape(-1).view(np.uint8) for imag_offset in parts])


_LAYOUTS: dict[str, Callable[[Floats], Bytes]] = dict(
    zip(PRECISIONS, (_lay_f32, _lay_bf16, _lay_int8), strict=True)
)
