"""Reads and writes float32 safetensors files, trusting nothing in them.

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


def as_safetensors(weights: Mapping[str, Floats]) -> bytes:
    """Return float32 arrays as the bytes of a safetensors file."""
    header: dict[str, Any] = {}
    chunks: list[bytes] = []
    end = 0
    for name in sorted(weights):
        chunks.append(np.ascontiguousarray(weights[name], dtype="<f4").tobytes())
        start, end = end, end + len(chunks[-1])
        shape = list(np.shape(weights[name]))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # aligns the data
    return struct.pack("<Q", len(text)) + text + b"".join(chunks)


def from_safetensors(data: bytes) -> dict[str, Floats]:
    """Return the arrays of a float32 safetensors file, as writable copies.

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
        first, last, shape = _extent(name, entry)
        if start + last > len(data):
            raise ValueError(f"the data of {shown(name)} is outside the file")
        total += last - first
        if total > len(data):
            raise ValueError("the arrays overlap")
        values = np.frombuffer(data, "<f4", (last - first) // 4, start + first)
        weights[name] = values.reshape(shape).astype(np.float32)
    return weights


def _extent(name: str, entry: Any) -> tuple[int, int, tuple[int, ...]]:
    """Return where an array begins and ends in the data, in bytes, and its shape."""
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= set(entry):
        raise ValueError(f"{shown(name)} lacks its dtype, shape or data_offsets")
    if entry["dtype"] != "F32":
        kind = shown(entry["dtype"]).strip("'")
        raise ValueError(f"{shown(name)} has type {kind}, not F32")
    offsets, shape = _sizes(name, entry["data_offsets"]), _sizes(name, entry["shape"])
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"{shown(name)} has the data_offsets {shown(entry['data_offsets'])}")
    n_bytes = offsets[1] - offsets[0]
    if len(shape) > 8 or 4 * prod(shape) != n_bytes:
        raise ValueError(
            f"{shown(name)} has {n_bytes} bytes, which can't be reshaped to {shown(shape)}"
        )
    return offsets[0], offsets[1], shape


def _sizes(name: str, values: Any) -> tuple[int, ...]:
    if not isinstance(values, list) or len(values) > 64:
        raise ValueError(f"{shown(name)} has {shown(values)} for a list of sizes")
    if any(type(n) is not int or not 0 <= n < 2**48 for n in values):
        raise ValueError(f"{shown(name)} has {shown(values)} for a list of sizes")
    return tuple(values)
