"""The words of a native stream's memory: sizes, counters and the addresses of its arrays."""

from __future__ import annotations

from typing import NamedTuple


class StreamWords(NamedTuple):
    """Places of a stream's int64 words; samples are those of the stream unless said.

    From `down_table` on they are addresses: first of what is computed once, then, from
    `clock` on, of what a reset clears. After the named words come `N_SIZES` of
    `stft_kernels.Frames.sizes` and the registers of `runtime.run_hops`.

    Attributes:
        outputs: pointers that `process` writes to.
        latency: offset of the output against the input.
        bytes: of the words and all arrays.
        mixes, splits: 1 if the output has the mix, and the stems after it; else 0.
        number: of the next hop.
        filled: samples of the next hop's block that have been received.
        block_size: samples of that block.
        longest: samples of the longest block.
        delay: of a hop's output against its input.
        read, queued: where the samples that wait in `queue` begin and end.
        queue_size: samples of each of its rows.
        converted: samples in `down_history`.
        kept: samples of the model's rate in front of the newest hop in `up_history`.
        dry: (delay + longest, C), the input that the stems haven't reached yet; the block of
            the next hop comes last.
        hop_input: (hop, C), the block at the model's rate.
        full_band: (S, longest, C), stems at the stream's rate.
    """

    channels: int
    outputs: int
    latency: int
    bytes: int
    mixes: int
    splits: int
    rate: int
    resamples: int
    number: int
    filled: int
    block_size: int
    longest: int
    delay: int
    read: int
    queued: int
    queue_size: int
    converted: int
    step: int
    wait: int
    up_step: int
    up_wait: int
    kept: int
    down_table: int
    up_table: int
    targets: int
    lengths: int
    audible: int
    clock: int
    position: int
    state: int
    work: int
    stft_state: int
    scratch: int
    dry: int
    hop_input: int
    stems: int
    weights: int
    down_history: int
    up_history: int
    up_weights: int
    up_taps: int
    full_band: int
    mix: int
    ramps: int
    mix_state: int
    mix_last: int
    meters: int
    queue: int


STREAM = StreamWords(*range(len(StreamWords._fields)))
"""The place of every word: `words[STREAM.channels]`. A constant for numba."""
N_SIZES, N_REGISTERS = 12, 7
SIZES_AT = len(StreamWords._fields)
REGISTERS_AT = SIZES_AT + N_SIZES
N_STREAM_WORDS = REGISTERS_AT + N_REGISTERS
_READ_BY_C = ("channels", "outputs", "latency", "number", "targets", "stems", "meters")


def c_header() -> str:
    """Return the lines of `rtmtass_words.h` about streams: what C reads and allocates."""
    named = {f"STREAM_{name.upper()}": getattr(STREAM, name) for name in _READ_BY_C}
    constants = {"STREAM_WORDS": N_STREAM_WORDS, **named}
    return "".join(f"#define RTMTASS_{name} {value}\n" for name, value in constants.items())
