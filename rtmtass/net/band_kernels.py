"""Gathers the bins of bands of one width into rows for a matmul, and the way back."""

from __future__ import annotations

from rtmtass.jit.compiler import kernel
from rtmtass.types import Floats


@kernel
def gather_bands(planes: Floats, start: int, rows: Floats) -> None:
    """Copy each band's bins of all planes to a row.

    Args:
        planes: (R, P, F).
        start: first bin.
        rows: (n, R, P * width), of n neighbouring bands; receives them.
    """
    count, _, size = rows.shape
    n_planes = planes.shape[1]
    width = size // n_planes
    for r in range(len(planes)):
        for plane in range(n_planes):
            at = plane * width
            for band in range(count):
                first = start + band * width
                for i in range(width):
                    rows[band, r, at + i] = planes[r, plane, first + i]


@kernel
def scatter_bands(rows: Floats, bias: Floats, start: int, planes: Floats) -> None:
    """Inverse of `gather_bands`; adds a bias, (n, P * width)."""
    count, _, size = rows.shape
    n_planes = planes.shape[1]
    width = size // n_planes
    for r in range(len(planes)):
        for plane in range(n_planes):
            at = plane * width
            for band in range(count):
                first = start + band * width
                for i in range(width):
                    planes[r, plane, first + i] = rows[band, r, at + i] + bias[band, at + i]
