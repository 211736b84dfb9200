"""Samples as bytes and back: PCM16 or float32, little-endian, channels interleaved."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rtmtass.amplitude import LARGEST, first_damaged
from rtmtass.serve.protocol import ClosingError, Code, Hello
from rtmtass.types import Floats, Samples

_FULL_SCALE = 32768


def decode(data: bytes, hello: Hello) -> Samples:
    """Return a binary message as samples, (n, C).

    Raises:
        ClosingError: the message ends within a sample, or holds NaN, Inf or samples beyond 1e9.
    """
    if len(data) % hello.frame_bytes:
        raise ClosingError(
            Code.BAD_DATA, "half_sample", f"a message of {len(data)} bytes ends within a sample;"
            f" {hello.channels} channels of {hello.format} are {hello.frame_bytes} bytes",
        )  # fmt: skip
    if hello.format == "pcm16":
        steps = np.frombuffer(data, "<i2")
        samples: Samples = np.multiply(steps, np.float32(1 / _FULL_SCALE), dtype=np.float32)
        return samples.reshape(-1, hello.channels)
    samples = np.frombuffer(data, "<f4").astype(np.float32, copy=False)
    block = samples.reshape(-1, hello.channels)
    if (index := first_damaged(block)) is not None:
        raise ClosingError(
            Code.BAD_DATA, "damaged", f"sample {index} of the message is NaN, Inf or beyond"
            f" {LARGEST:g}; full scale is 1.0",
        )  # fmt: skip
    return block


def encode(block: Samples, kind: str) -> bytes:
    """Return samples as bytes.

    Args:
        block: (R, n, C): stems, or a mix (R = 1).
        kind: one of `FORMATS`. PCM16 is clipped at full scale.

    Returns:
        n frames, each with the R * C samples of one moment, channels within stems.
    """
    frames = block.transpose(1, 0, 2)
    if kind == "f32":
        floats: bytes = frames.astype("<f4").tobytes()
        return floats
    steps = np.empty(frames.shape, "<i2")
    quantise(frames, np.empty(frames.shape, np.float32), steps)
    return steps.tobytes()


def quantise(samples: Floats, scaled: Floats, steps: NDArray[np.int16]) -> None:
    """Convert samples to PCM16, clipped at full scale.

    Args:
        samples: of any shape.
        scaled: of the same shape; overwritten.
        steps: of the same shape; receives the result.
    """
    np.multiply(samples, np.float32(_FULL_SCALE), out=scaled)
    np.rint(scaled, out=scaled)
    np.maximum(scaled, np.float32(-_FULL_SCALE), out=scaled)
    np.minimum(scaled, np.float32(_FULL_SCALE - 1), out=scaled)
    np.copyto(steps, scaled, casting="unsafe")
