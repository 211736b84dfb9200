"""A stream of the native library: hops, resampling, mixing and the queue, over memory of C.

A stream is one block of memory: int64 words, named in `stream_words`, then the arrays whose
addresses are among them. At the model's rate it does what a `Separator` for blocks of any
length does, at any other what a live stream does, by the same kernels.
"""

from __future__ import annotations

import numpy as np

from rtmtass.amplitude import LARGEST
from rtmtass.dsp.hop_schedule import (
    UNIT_STEP,
    delay_at,
    end_of_hop,
    kept_stems,
    longest_block,
    scale,
    start_in_history,
)
from rtmtass.dsp.live_resample import convert
from rtmtass.dsp.resample_filter import (
    FRACTION,
    TABLE_ROWS,
    fill_filter_table,
    fixed_step,
    history_rows,
    wait_of,
)
from rtmtass.jit.compiler import kernel
from rtmtass.live.full_band import upsample
from rtmtass.live.mixer import mix
from rtmtass.native.arrays import (
    doubles,
    doubles2,
    doubles3,
    floats,
    floats2,
    floats3,
    floats4,
    longs,
    longs2,
)
from rtmtass.native.model_words import N_WORDS, WORD
from rtmtass.native.stream_words import N_STREAM_WORDS, STREAM
from rtmtass.runtime.compiled.runtime import run_hops
from rtmtass.runtime.stft_kernels import scratch_size, state_size
from rtmtass.types import Longs

_LARGEST = np.float32(LARGEST)
_ZERO = np.float32(0.0)
_LINE = 64
_N_SIZES, _N_REGISTERS = 12, 7


@kernel
def lay_out(model: int, memory: int, rate: int, channels: int, mixes: int) -> int:
    """Write the words of a stream; addresses count from the start of its memory.

    Args:
        model: address of a model that passed `model_check.check`.
        memory: address of the words, (N_STREAM_WORDS,).
        rate: in Hz.
        channels: of the input.
        mixes: 1 for the mix, 0 for the stems.

    Returns:
        Bytes of memory that the stream needs, the words included.
    """
    header, words = longs(model, N_WORDS), longs(memory, N_STREAM_WORDS)
    stems, hop, model_rate = header[WORD.n_stems], header[WORD.hop], header[WORD.sample_rate]
    words[STREAM.channels], words[STREAM.mixes], words[STREAM.rate] = channels, mixes, rate
    words[STREAM.outputs] = channels if mixes else channels * stems
    _schedule(words, rate, model_rate, hop, header[WORD.delay])
    longest, resamples = words[STREAM.longest], words[STREAM.resamples]
    words[STREAM.bytes] = -(-8 * N_STREAM_WORDS // _LINE) * _LINE
    _reserve(words, STREAM.sizes, 8 * _N_SIZES)
    _reserve(words, STREAM.registers, 8 * _N_REGISTERS)
    _reserve(words, STREAM.down_table, 4 * resamples * TABLE_ROWS * 2 * words[STREAM.wait])
    _reserve(words, STREAM.up_table, 4 * resamples * TABLE_ROWS * 2 * words[STREAM.up_wait])
    _reserve(words, STREAM.targets, 8 * (stems + N_EXTRA))
    _reserve(words, STREAM.lengths, 8 * N_LENGTHS)
