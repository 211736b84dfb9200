"""Reads and writes safetensors files of float32 and float16, trusting nothing in them.

The format is simple enough to need no package: the length of a JSON header, the header,
and the data. The bytes are identical to those of the package.

Source: https://github.com/huggingface/safetensors, Format.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from rtmtass.limits import shown
from rtmtass.types import Floats

MOST_HEADER = 16_000_000
"""Longest header, in bytes."""

_TYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2")}


def as_safetensors(weights: Mapping[str, np.ndarray[Any, Any]]) -> bytes:
    """Return arrays as the bytes of a safetensors file; float16 stays, all else is float32."""
    header: dict[str, Any] = {}
    chunks: list[bytes] = []
    end = 0
    is_half = {name: np.asarray(weights[name]).dtype == np.float16 for name in weights}
    for name in sorted(weights, key=lambda name: (is_half[name], name)):  # as the package orders
        kind = "F16" if is_half[name] else "F32"
        chunks.append(np.ascontiguousarray(weights[name], dtype=_TYPES[kind]).tobytes())
        start, end = end, end + len(chunks[-1])
        shape = list(np.shape(weights[name]))
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # aligns the data
    return struct.pack("<Q", len(text)) + text + b"".join(chunks)


def from_safetensors(data: bytes) -> dict[str, Floats]:
    """Return the arrays of a file of float32 and float16, as writable float32 copies.

    Raises:
        ValueError: `data` is malformed, or has arrays of another type; the message is one line.
    """
    if len(data) < 8:
        raise ValueError("the header is missing")
    length = struct.unpack_from("<Q", data)[0]
    start = 8 + length
    if start > len(data):
        raise ValueError("the header is longer than the file")
    if length > MOST_HEADER:
        raise ValueError(f"the header has {length} bytes, at most {MOST_HEADER} are allowed")
    try:
        header = json.loads(data[8:start])
    except RecursionError:
        raise ValueError("the header is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"the header isn't JSON: {error}") from None
    if not isinstance(header, dict):
        raise ValueError(f"the header is {shown(header)}, not a table of items")
    weights: dict[str, Floats] = {}
    total = 0
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        kind, first, last, shape = _extent(name, entry)
        if start + last > len(data):
            raise ValueError(f"the data of {shown(name)} is outside the file")
        total += last - first
        if total > len(data):
            raise ValueError("the arrays overlap")
        values = np.frombuffer(data, kind, (last - first) // kind.itemsize, start + first)
        weights[name] = values.reshape(shape).astype(np.float32)
    return weights


def _extent(name: str, entry: Any) -> tuple[np.dtype[Any], int, int, tuple[int, ...]]:
    """Return an array's type, where it begins and ends in the data, in bytes, and its shape."""
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= set(entry):
        raise ValueError(f"{shown(name)} lacks its dtype, shape or data_offsets")
    kind = _TYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if kind is None:
        given = shown(entry["dtype"]).strip("'")
        raise ValueError(f"{shown(name)} has type {given}, not F32 or F16")
    offsets, shape = _sizes(name, entry["data_offsets"]), _sizes(name, entry["shape"])
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"{shown(name)} has the data_offsets {shown(entry['data_offsets'])}")
    n_bytes = offsets[1] - offsets[0]
    if len(shape) > 8 or kind.itemsize * prod(shape) != n_bytes:
        raise ValueError(
            f"{shown(name)} has {n_bytes} bytes, which can't be reshaped to {shown(shape)}"
        )
    return kind, offsets[0], offsets[1], shape


def _sizes(name: str, values: Any) -> tuple[int, ...]:
    if not isinstance(values, list) or len(values) > 64:
        raise ValueError(f"{shown(name)} has {shown(values)} for a list of sizes")
    if any(type(n) is not int or not 0 <= n < 2**48 for n in values):
        raise ValueError(f"{shown(name)} has {shown(values)} for a list of sizes")
    return tuple(values)
