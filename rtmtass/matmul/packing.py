"""Packs weights the way the microkernels read them, in four, two or one byte each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from rtmtass.jit.simd import LANES, in_vectors
from rtmtass.matmul.int8 import GROUP
from rtmtass.matmul.microkernels import PANEL
from rtmtass.types import Bytes, Floats


def pack(weight: Floats, pack_panel: Callable[[Floats], Bytes]) -> Bytes:
    """Pack a weight matrix in panels of PANEL outputs, then of LANES.

    Args:
        weight: (n, m); n is padded with zeros to a multiple of LANES.
        pack_panel: packs a panel of (outputs, m).

    Returns:
        1-D bytes, panel after panel.
    """
    n, m = weight.shape
    padded = np.zeros((in_vectors(n), m), np.float32)
    padded[:n] = weight
    panels, start = [], 0
    while start < len(padded):
        size = PANEL if len(padded) - start >= PANEL else LANES
        panels.append(pack_panel(padded[start : start + size]))
        start += size
    return np.concatenate(panels)


def to_bf16(values: Floats) -> NDArray[np.uint16]:
    """Round to the nearest bfloat16, halves to even; return the upper halves of the floats."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def to_int8(weight: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Quantise each row of (n, m) by its own scale, its largest magnitude over 127.

    Returns:
        (n, m) int8 in -127..127, and (n,) scales; `values * scales[:, None]` approximates
        `weight`.
    """
    scales = (np.abs(weight).max(axis=1, initial=0.0) / 127).astype(np.float32)
    steps = np.where(scales > 0, scales, 1)[:, None]
    return np.clip(np.rint(weight / steps), -127, 127).astype(np.int8), scales


def pack_f32(panel: Floats) -> Bytes:
    """Pack (outputs, m) as [m][outputs] of float32."""
    return np.ascontiguousarray(panel.T).view(np.uint8).ravel()


def pack_bf16(panel: Floats) -> Bytes:
    """Pack (outputs, m) as [m][outputs] of bfloat16."""
    return to_bf16(panel.T).view(np.uint8).ravel()


def pack_int8(panel: Floats) -> Bytes:
    """Pack (outputs, m) as `int8.int8_microkernel` describes, one scale per output."""
    outputs, m = panel.shape
    values, scales = to_int8(panel)
    groups = -(-m // GROUP)
    padded = np.zeros((outputs, groups * GROUP), np.int8)
    padded[:, :m] = values
    bytes_ = padded.reshape(outputs, groups, GROUP).transpose(1, 0, 2)
    shifts = 128 * values.astype(np.int32).sum(axis=1, dtype=np.int32)
    parts = (np.ascontiguousarray(bytes_), scales, shifts)
    return np.concatenate([part.reshape(-1).view(np.uint8) for part in parts])
