"""The words of a `.rtm` file's header and the results of the C interface, each named once.

Python writes and checks the header by these names, kernels read it by them, and the C
sources get them from `c_header`.
"""

from __future__ import annotations

from typing import NamedTuple


class Words(NamedTuple):
    """Places of the header's int64 words.

    Registers are addresses and strides in the work arena, in floats; `state_size` and
    `work_size` are floats too. From `n_fft` to `work` they are `stft_kernels.Frames.sizes`
    without stems and channels. Sections lie at `_at` bytes from the start of the file.

    Attributes:
        crc: CRC-32 of the whole file, with this word as 0.
        words: int64 words of an instruction.
        precision: index in `config.PRECISIONS`; of the header and of every matmul.
        delay: of the stream where blocks are whole hops, in samples.
        work: floats of scratch space of the FFT.
        silence: the first stems * synthesis floats of a stream's STFT state before its first
            sample; all others are 0.
        names: UTF-8, each ended by a zero byte: the model's, then the stems'.
        about: JSON; no reader depends on it.
        padding: 0.
    """

    magic: int
    version: int
    header_bytes: int
    file_bytes: int
    crc: int
    n_instructions: int
    words: int
    precision: int
    state_size: int
    work_size: int
    n_stems: int
    sample_rate: int
    delay: int
    mixture_at: int
    mixture_stride: int
    aligned_at: int
    aligned_stride: int
    stems_at: int
    stems_stride: int
    n_fft: int
    hop: int
    synthesis: int
    bins: int
    imag_offset: int
    ring: int
    top: int
    top_end: int
    lookahead: int
    work: int
    instructions_at: int
    instructions_bytes: int
    weights_at: int
    weights_bytes: int
    analysis_at: int
    analysis_bytes: int
    synthesis_at: int
    synthesis_bytes: int
    product_at: int
    product_bytes: int
    tables_at: int
    tables_bytes: int
    silence_at: int
    silence_bytes: int
    names_at: int
    names_bytes: int
    about_at: int
    about_bytes: int
    padding: int


N_WORDS = len(Words._fields)
WORD = Words(*range(N_WORDS))
"""The place of every word: `header[WORD.hop]`. A constant for numba."""

SECTIONS = tuple(
    name.removesuffix("_at")
    for name in Words._fields
    if name.endswith("_at") and f"{name.removesuffix('_at')}_bytes" in Words._fields
)
"""The sections in the order of the file."""

MAGIC = int.from_bytes(b"RTMTASS\0", "little")
VERSION = 4
"""Newest version of the file: 2 knows the expander, 3 networks in bands, 4 an expander's ratio."""
ALIGNMENT = 64
"""Sections, and the end of the file, lie at multiples of this many bytes."""
HEADER_BYTES = 8 * N_WORDS
assert HEADER_BYTES % ALIGNMENT == 0

MOST_STEMS = 8
"""`RTMTASS_MAX_STEMS` of rtmtass.h."""
LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 8000, 192_000
"""Rates of models. Streams take those of `live.limits`, more on both sides."""


class Results(NamedTuple):
    """Numbers of `rtmtass_result` in rtmtass.h, in its order."""

    ok: int
    argument: int
    memory: int
    not_a_model: int
    version: int
    damaged: int
    sample_rate: int
    channels: int
    output: int
    variant: int
    stem: int
    value: int


RESULT = Results(*range(len(Results._fields)))


class Outputs(NamedTuple):
    """Numbers of `rtmtass_output` in rtmtass.h, in its order."""

    stems: int
    mix: int
    mix_and_stems: int


OUTPUT = Outputs(*range(len(Outputs._fields)))


def c_header() -> str:
    """Return the lines of `rtmtass_words.h` about model files: every constant that C needs."""
    constants = {f"WORD_{name.upper()}": str(at) for at, name in enumerate(Words._fields)}
    constants |= {
        "MODEL_MAGIC": f"INT64_C({MAGIC:#x})",
        "MODEL_VERSION": str(VERSION),
        "MODEL_HEADER_BYTES": str(HEADER_BYTES),
        "MODEL_ALIGNMENT": str(ALIGNMENT),
    }
    return "".join(f"#define RTMTASS_{name} {value}\n" for name, value in constants.items())
