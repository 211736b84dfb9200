"""Lays out a native stream's memory, and brings it to its first state."""

from __future__ import annotations

import numpy as np

from rtmtass.dsp.hop_schedule import (
    UNIT_STEP,
    delay_at,
    end_of_hop,
    kept_stems,
    longest_block,
)
from rtmtass.dsp.resample_filter import (
    FRACTION,
    TABLE_ROWS,
    fill_filter_table,
    fixed_step,
    history_rows,
    wait_of,
)
from rtmtass.jit.addresses import (
    bytes_,
    doubles,
    doubles2,
    doubles3,
    floats,
    floats2,
    floats3,
    longs,
)
from rtmtass.jit.compiler import kernel
from rtmtass.live.controls import LOWEST_GAIN_DB
from rtmtass.live.mix_kernels import (
    IS_BYPASS_MATCHED,
    IS_DRY_WHEN_LATE,
    MAX_GAIN_DB,
    N_COLUMNS,
    N_EXTRA,
    N_LAST,
    N_LENGTHS,
    N_LEVELS,
    N_OTHER_METERS,
    N_STATE,
    fill_lengths,
    fill_targets,
    start_mix,
)
from rtmtass.native.model_words import N_WORDS, OUTPUT, WORD
from rtmtass.native.stream_words import (
    N_REGISTERS,
    N_SIZES,
    N_STREAM_WORDS,
    REGISTERS_AT,
    SIZES_AT,
    STREAM,
)
from rtmtass.runtime.stft_kernels import (
    CHANNELS,
    RING,
    STEMS,
    stft_scratch_size,
    stft_state_size,
)
from rtmtass.types import Doubles, Floats, Longs

_LINE = 64


@kernel
def lay_out(model: int, memory: int, rate: int, channels: int, output: int) -> int:
    """Write a stream's words; the addresses count from the start of its memory.

    Args:
        model: address of a model that passed `model_check.check`.
        memory: address of `N_STREAM_WORDS` words.
        rate: in Hz.
        channels: of the input.
        output: one of `OUTPUT`.

    Returns:
        Bytes of memory that the stream needs, its words included.
    """
    header, words = longs(model, N_WORDS), longs(memory, N_STREAM_WORDS)
    words[STREAM.channels], words[STREAM.rate] = channels, rate
    mixes, splits = 1 if output != OUTPUT.stems else 0, 1 if output != OUTPUT.mix else 0
    words[STREAM.mixes], words[STREAM.splits] = mixes, splits
    words[STREAM.outputs] = channels * (mixes + splits * header[WORD.n_stems])
    _schedule(header, words)
    _copy_sizes(header, words)
    words[STREAM.bytes] = -(-8 * N_STREAM_WORDS // _LINE) * _LINE
    table = words[STREAM.resamples] * 4 * TABLE_ROWS * 2
    _reserve(words, STREAM.down_table, table * words[STREAM.wait])
    _reserve(words, STREAM.up_table, table * words[STREAM.up_wait])
    _reserve(words, STREAM.targets, 8 * (header[WORD.n_stems] + N_EXTRA))
    _reserve(words, STREAM.lengths, 8 * N_LENGTHS)
    _reserve(words, STREAM.audible, header[WORD.n_stems])
    _reserve_state(header, words)
    total: int = words[STREAM.bytes]
    return total


@kernel
def _schedule(header: Longs, words: Longs) -> None:
    """Write the words of rates, delays and sizes."""
    rate, model_rate, hop = words[STREAM.rate], header[WORD.sample_rate], header[WORD.hop]
    resamples = rate != model_rate
    words[STREAM.resamples] = 1 if resamples else 0
    words[STREAM.step] = fixed_step(rate, model_rate, 1.0) if resamples else UNIT_STEP
    words[STREAM.wait] = wait_of(rate, model_rate) if resamples else 0
    words[STREAM.up_step] = fixed_step(model_rate, rate, 1.0) if resamples else UNIT_STEP
    words[STREAM.up_wait] = wait_of(model_rate, rate) if resamples else 0
    words[STREAM.kept] = kept_stems(rate, model_rate)
    words[STREAM.delay] = delay_at(rate, model_rate, header[WORD.delay])
    words[STREAM.longest] = longest_block(hop, words[STREAM.step], words[STREAM.wait])
    # Samples leave as they arrive, so those of a whole hop but one wait in the queue.
    waiting = (hop * words[STREAM.step] - 1) >> FRACTION
    words[STREAM.latency] = words[STREAM.delay] + waiting
    words[STREAM.queue_size] = waiting + words[STREAM.longest]


@kernel
def _copy_sizes(header: Longs, words: Longs) -> None:
    """Write the sizes of the frames and the registers, from the model's header."""
    sizes, places = frame_sizes(words), registers(words)
    for i in range(STEMS):
        sizes[i] = header[WORD.n_fft + i]
    sizes[STEMS], sizes[CHANNELS] = header[WORD.n_stems], words[STREAM.channels]
    for i in range(RING, N_SIZES):
        sizes[i] = header[WORD.ring + i - RING]
    for i in range(N_REGISTERS - 1):
        places[i] = header[WORD.mixture_at + i]
    places[N_REGISTERS - 1] = 1  # frames together


@kernel
def _reserve_state(header: Longs, words: Longs) -> None:
    """Write the addresses of all that a reset clears."""
    stems, hop, channels = header[WORD.n_stems], header[WORD.hop], words[STREAM.channels]
    longest, resamples, mixes = words[STREAM.longest], words[STREAM.resamples], words[STREAM.mixes]
    kept, rows = words[STREAM.kept] + hop, words[STREAM.delay] + longest
    _reserve(words, STREAM.clock, 8)
    _reserve(words, STREAM.position, 8)
    _reserve(words, STREAM.state, 4 * header[WORD.state_size])
    _reserve(words, STREAM.work, 4 * header[WORD.work_size])
    _reserve(words, STREAM.stft_state, 4 * stft_state_size(frame_sizes(words)))
    _reserve(words, STREAM.scratch, 4 * stft_scratch_size(frame_sizes(words)))
    _reserve(words, STREAM.dry, 4 * rows * channels)
    _reserve(words, STREAM.hop_input, 4 * hop * channels)
    _reserve(words, STREAM.stems, 4 * stems * hop * channels)
    _reserve(words, STREAM.weights, 4 * stems * hop)
    _reserve(words, STREAM.down_history, 4 * resamples * _n_down(header, words) * channels)
    _reserve(words, STREAM.up_history, 4 * resamples * stems * channels * kept)
    _reserve(words, STREAM.up_weights, 4 * resamples * stems * kept)
    _reserve(words, STREAM.up_taps, 4 * 2 * words[STREAM.up_wait])
    _reserve(words, STREAM.full_band, 4 * resamples * stems * longest * channels)
    _reserve(words, STREAM.mix, 4 * mixes * longest * channels)
    _reserve(words, STREAM.ramps, 8 * (stems + N_EXTRA) * N_COLUMNS)
    _reserve(words, STREAM.mix_state, 8 * N_STATE)
    _reserve(words, STREAM.mix_last, 8 * N_LAST * channels)
    _reserve(words, STREAM.meters, 8 * (stems + N_OTHER_METERS) * N_LEVELS)
    _reserve(words, STREAM.queue, 4 * words[STREAM.outputs] * words[STREAM.queue_size])


@kernel
def _reserve(words: Longs, word: int, n_bytes: int) -> None:
    """Give an array the next bytes, on a cache line of its own."""
    words[word] = words[STREAM.bytes]
    words[STREAM.bytes] += -(-n_bytes // _LINE) * _LINE


@kernel
def start(model: int, memory: int) -> int:
    """Turn the addresses of `lay_out` into those of a stream at `memory`, and fill the tables.

    The settings are those of a stream that nothing was set for; `reset` comes next.
    """
    header, words = longs(model, N_WORDS), longs(memory, N_STREAM_WORDS)
    for word in range(STREAM.down_table, SIZES_AT):
        words[word] += memory
    if words[STREAM.resamples]:
        rate, model_rate = words[STREAM.rate], header[WORD.sample_rate]
        down = floats2(words[STREAM.down_table], TABLE_ROWS, 2 * words[STREAM.wait])
        up = floats2(words[STREAM.up_table], TABLE_ROWS, 2 * words[STREAM.up_wait])
        fill_filter_table(rate, model_rate, down)
        fill_filter_table(model_rate, rate, up)
    targets, lengths, _, _, _, _ = mixer(header, words)
    targets[:] = 1.0
    lengths[IS_DRY_WHEN_LATE], lengths[IS_BYPASS_MATCHED] = 1.0, 0.0
    fill_lengths(words[STREAM.rate], lengths)
    return 0


@kernel
def reset(model: int, memory: int) -> int:
    """Return to silence before the first sample; the settings apply without a ramp."""
    header, words = longs(model, N_WORDS), longs(memory, N_STREAM_WORDS)
    first = words[STREAM.clock]
    cleared = longs(first, (memory + words[STREAM.bytes] - first) // 8)
    for i in range(cleared.size):
        cleared[i] = 0
    silence = floats(model + header[WORD.silence_at], header[WORD.silence_bytes] // 4)
    stft_state = floats(words[STREAM.stft_state], silence.size)
    for i in range(silence.size):
        stft_state[i] = silence[i]
    if words[STREAM.resamples]:
        weights = up_weights(header, words)
        weights[:, :] = np.float32(1.0) / np.float32(header[WORD.n_stems])
        longs(words[STREAM.position], 1)[0] = words[STREAM.wait] << FRACTION
    words[STREAM.converted] = words[STREAM.wait]
    words[STREAM.number], words[STREAM.filled] = 0, words[STREAM.wait]
    step, wait = words[STREAM.step], words[STREAM.wait]
    words[STREAM.block_size] = end_of_hop(1, header[WORD.hop], step, wait)
    words[STREAM.read] = 0
    words[STREAM.queued] = words[STREAM.latency] - words[STREAM.delay]
    targets, lengths, ramps, state, last, meters = mixer(header, words)
    start_mix(targets, ramps, state, last, meters, lengths)
    return 0


@kernel
def apply(model: int, memory: int, settings: int) -> int:
    """Set what the mix ramps to.

    Args:
        model, memory: of a stream that was started.
        settings: address of float64: for each stem its gain in dB, then for each 1 if it is
            muted, then for each 1 if it is soloed, the strength in dB, then 1 for bypass.
    """
    header, words = longs(model, N_WORDS), longs(memory, N_STREAM_WORDS)
    stems = header[WORD.n_stems]
    values = doubles(settings, 3 * stems + 2)
    gains, muted, soloed = values[:stems], values[stems : 2 * stems], values[2 * stems : 3 * stems]
    is_any_soloed = False
    for s in range(stems):
        is_any_soloed = is_any_soloed or soloed[s] != 0.0
    audible = bytes_(words[STREAM.audible], stems)
    for s in range(stems):
        # A stem whose gain is off stays audible: with a strength of 0 dB the input is unchanged.
        audible[s] = 1 if muted[s] == 0.0 and (soloed[s] != 0.0 or not is_any_soloed) else 0
        gains[s] = min(gains[s], MAX_GAIN_DB) if gains[s] > LOWEST_GAIN_DB else -np.inf
    targets, _, _, _, _, _ = mixer(header, words)
    strength_db, is_bypassed = values[3 * stems], values[3 * stems + 1] != 0.0
    fill_targets(gains, audible, strength_db, is_bypassed, targets)
    return 0


@kernel
def frame_sizes(words: Longs) -> Longs:
    """Return the stream's `stft_kernels.Frames.sizes`."""
    return words[SIZES_AT:REGISTERS_AT]


@kernel
def registers(words: Longs) -> Longs:
    """Return the registers of `runtime.run_hops`."""
    return words[REGISTERS_AT:N_STREAM_WORDS]


@kernel
def block_at(words: Longs) -> int:
    """Return the address of the next hop's block, (longest, C), in the dry input."""
    at: int = words[STREAM.dry] + 4 * words[STREAM.delay] * words[STREAM.channels]
    return at


@kernel
def _n_down(header: Longs, words: Longs) -> int:
    return history_rows(words[STREAM.rate], header[WORD.sample_rate], words[STREAM.longest])


@kernel
def down_history(header: Longs, words: Longs) -> Floats:
    """Return the input that the downsampler keeps, (n, C)."""
    return floats2(words[STREAM.down_history], _n_down(header, words), words[STREAM.channels])


@kernel
def up_history(header: Longs, words: Longs) -> Floats:
    """Return the stems that the upsampler keeps, (S, C, kept + hop)."""
    length = words[STREAM.kept] + header[WORD.hop]
    return floats3(words[STREAM.up_history], header[WORD.n_stems], words[STREAM.channels], length)


@kernel
def up_weights(header: Longs, words: Longs) -> Floats:
    """Return the highband weights that the upsampler keeps, (S, kept + hop)."""
    length = words[STREAM.kept] + header[WORD.hop]
    return floats2(words[STREAM.up_weights], header[WORD.n_stems], length)


@kernel
def mixer(
    header: Longs, words: Longs
) -> tuple[Doubles, Doubles, Doubles, Doubles, Doubles, Doubles]:
    """Return the mixer's arrays: targets, lengths, ramps, state, last output and meters."""
    stems = header[WORD.n_stems]
    return (
        doubles(words[STREAM.targets], stems + N_EXTRA),
        doubles(words[STREAM.lengths], N_LENGTHS),
        doubles2(words[STREAM.ramps], stems + N_EXTRA, N_COLUMNS),
        doubles(words[STREAM.mix_state], N_STATE),
        doubles3(words[STREAM.mix_last], N_LAST, 1, words[STREAM.channels]),
        doubles2(words[STREAM.meters], stems + N_OTHER_METERS, N_LEVELS),
    )
