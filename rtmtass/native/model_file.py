"""Writes and reads `.rtm` files: a model lowered for one precision, ready to run.

Little-endian. A header of int64 words, see `model_words.Words`, then its sections, each at
a multiple of 64 bytes. The same model and precision give the same bytes, whatever the
processor: weights and quantised inputs have one layout for all int8 instruction sets.
"""

from __future__ import annotations

import hashlib
import json
import zlib

import numpy as np

from rtmtass.config import PRECISIONS, ModelConfig
from rtmtass.errors import ModelError, UsageError
from rtmtass.limits import shown
from rtmtass.native.model_check import MOST_FLOATS, check_bytes
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
    Words,
    c_header,
)
from rtmtass.native.program_check import MOST_OPERATIONS
from rtmtass.runtime.compiled.lowering import build
from rtmtass.runtime.compiled.program import WORDS, Program
from rtmtass.runtime.stft_kernels import (
    BINS,
    HOP,
    IMAG_OFFSET,
    LOOKAHEAD,
    N_FFT,
    RING,
    SYNTHESIS,
    TOP,
    TOP_END,
    WORK,
    Frames,
)
from rtmtass.types import Floats, Longs
from rtmtass.weights import Model

__all__ = ["WORD", "c_header", "read_header", "sealed", "section", "write_model"]

_SIZES = {
    WORD.n_fft: N_FFT,
    WORD.hop: HOP,
    WORD.synthesis: SYNTHESIS,
    WORD.bins: BINS,
    WORD.imag_offset: IMAG_OFFSET,
    WORD.ring: RING,
    WORD.top: TOP,
    WORD.top_end: TOP_END,
    WORD.lookahead: LOOKAHEAD,
    WORD.work: WORK,
}
"""Words that are members of `Frames.sizes`."""


def write_model(model: Model, precision: str) -> bytes:
    """Return the `.rtm` file of a model in one of `config.PRECISIONS`.

    Raises:
        UsageError: the precision is unknown.
        ModelError: the weights don't fit the config, or the network is beyond the limits of
            the native library.
    """
    config = model.config
    if precision not in PRECISIONS:
        raise UsageError(
            f"unknown precision {shown(precision)}; choose one of {', '.join(PRECISIONS)}"
        )
    _check_limits(config)
    program = build(config, model.weights, chunk=1, precision=precision)
    frames = Frames.of(config, program.imag_offset, chunk=1, channels=1)
    sections = {
        "instructions": program.instructions.astype("<i8").tobytes(),
        "weights": _bytes(program.weights),
        "analysis": _bytes(frames.analysis),
        "synthesis": _bytes(frames.synthesis),
        "product": _bytes(frames.product),
        "tables": _bytes(frames.tables),
        "silence": _bytes(frames.silence()[: len(config.stems) * config.stft.synthesis]),
        "names": b"".join(name.encode() + b"\0" for name in (config.name, *config.stems)),
        "about": _about(model, precision),
    }
    header = _header(config, program, frames, precision)
    body, at = [], HEADER_BYTES
    for name in SECTIONS:
        content = sections[name]
        header[getattr(WORD, f"{name}_at")] = at
        header[getattr(WORD, f"{name}_bytes")] = len(content)
        body.append(content + bytes(-len(content) % ALIGNMENT))
        at += len(body[-1])
    header[WORD.file_bytes] = at
    data = sealed(header.astype("<i8").tobytes() + b"".join(body))
    if check_bytes(data) != RESULT.ok:
        raise _unfit(
            config,
            "is too large",
            f"2 GiB of weights, {MOST_FLOATS // 2**20} Mi floats of state and"
            f" {MOST_OPERATIONS // 10**6} million multiplications a hop",
        )
    return data


def _check_limits(config: ModelConfig) -> None:
    """Check what a stream of the native library depends on."""
    n_stems, rate, hop = len(config.stems), config.stft.sample_rate, config.stft.hop
    if n_stems > MOST_STEMS:
        raise _unfit(config, f"has {n_stems} stems", f"{MOST_STEMS}")
    if not LOWEST_RATE_HZ <= rate <= HIGHEST_RATE_HZ:
        raise _unfit(
            config, f"works at {rate} Hz", f"{HIGHEST_RATE_HZ} Hz, and {LOWEST_RATE_HZ} Hz or more"
        )
    if hop * LOWEST_RATE_HZ < rate:
        raise _unfit(config, f"has a hop of {hop} at {rate} Hz", f"{LOWEST_RATE_HZ} hops a second")


def _unfit(config: ModelConfig, found: str, most: str) -> ModelError:
    return ModelError(
        f"{config.name} {found}, and the native library takes up to {most}; run it from Python:"
        f" rtmtass separate --model {config.name}"
    )


def sealed(data: bytes) -> bytes:
    """Return a file with the CRC of its content."""
    start = 8 * WORD.crc
    blank = data[:start] + bytes(8) + data[start + 8 :]
    return blank[:start] + zlib.crc32(blank).to_bytes(8, "little") + blank[start + 8 :]


def read_header(data: bytes) -> Words:
    """Return the words of a file's header; `model_check.check` says whether they are valid."""
    return Words(*np.frombuffer(data, "<i8", N_WORDS).tolist())


def section(data: bytes, name: str) -> bytes:
    """Return one of `SECTIONS` of a valid file."""
    header = read_header(data)
    at = getattr(header, f"{name}_at")
    return data[at : at + getattr(header, f"{name}_bytes")]


def _bytes(values: Floats) -> bytes:
    return values.astype("<f4").tobytes()


def _oldest_version(config: ModelConfig) -> int:
    """Return the version whose readers know all that a network consists of."""
    net = config.net
    if net.expander_db and net.expander_ratio > 2:
        return VERSION
    if net.backbone == "bands":
        return 3
    return 2 if net.expander_db else 1


def _header(config: ModelConfig, program: Program, frames: Frames, precision: str) -> Longs:
    """Return the header without what depends on the sections' lengths."""
    header = np.zeros(N_WORDS, np.int64)
    header[WORD.magic] = MAGIC
    header[WORD.version] = _oldest_version(config)
    header[WORD.header_bytes] = HEADER_BYTES
    header[WORD.n_instructions], header[WORD.words] = len(program.instructions), WORDS
    header[WORD.precision] = PRECISIONS.index(precision)
    header[WORD.state_size], header[WORD.work_size] = program.state_size, program.work_size
    header[WORD.n_stems] = len(config.stems)
    header[WORD.sample_rate], header[WORD.delay] = config.stft.sample_rate, config.delay
    header[WORD.mixture_at], header[WORD.mixture_stride] = program.mixture[:2]
    header[WORD.aligned_at], header[WORD.aligned_stride] = program.aligned[:2]
    header[WORD.stems_at], header[WORD.stems_stride] = program.stems[:2]
    for word, size in _SIZES.items():
        header[word] = frames.sizes[size]
    return header


def _about(model: Model, precision: str) -> bytes:
    """Return what a person may want to know about a file, as JSON."""
    config = json.dumps(model.config.to_dict(), sort_keys=True)
    values = {
        "model": model.config.name,
        "release": model.about.get("version", ""),
        "licence": model.about.get("licence", ""),
        "precision": precision,
        "weights_sha256": model.about.get("sha256", ""),
        "config_sha256": hashlib.sha256(config.encode()).hexdigest(),
    }
    return json.dumps(values, sort_keys=True).encode()
