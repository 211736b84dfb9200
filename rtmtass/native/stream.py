"""A stream of the native library: hops, resampling, mixing and the queue, over memory of C.

A stream is one block of memory: int64 words, named in `stream_words`, then the arrays whose
addresses are among them. At the model's rate it does what a `Separator` for blocks of any
length does, at any other what a live stream does, by the same kernels.
"""

from __future__ import annotations

import numpy as np

from rtmtass.amplitude import LARGEST
from rtmtass.dsp.hop_schedule import end_of_hop, start_in_history
from rtmtass.dsp.live_resample import convert
from rtmtass.dsp.resample_filter import TABLE_ROWS
from rtmtass.jit.addresses import floats, floats2, floats3, floats4, longs, longs2
from rtmtass.jit.compiler import kernel
from rtmtass.live.full_band import push_hop, upsample
from rtmtass.live.mix_kernels import mix
from rtmtass.native.layout import (
    block_at,
    down_history,
    frame_sizes,
    mixer,
    registers,
    up_history,
    up_weights,
)
from rtmtass.native.model_words import N_WORDS, WORD
from rtmtass.native.stream_words import N_STREAM_WORDS, STREAM
from rtmtass.runtime.compiled.runtime import run_hops
from rtmtass.runtime.stft_kernels import stft_scratch_size, stft_state_size
from rtmtass.types import Floats, Longs

_LARGEST = np.float32(LARGEST)
_ZERO = np.float32(0.0)


@kernel
def process(model: int, memory: int, ins: int, outs: int, n: int) -> int:
    """Process n samples of every channel; see rtmtass_process in rtmtass.h.

    Args:
        model: address of a model that passed `model_check.check`.
        memory: of a stream that was started.
        ins, outs: addresses of int64 addresses, one for each channel and output.
        n: samples, any number.
    """
    words = longs(memory, N_STREAM_WORDS)
    sources = longs(ins, words[STREAM.channels])
    targets = longs(outs, words[STREAM.outputs])
    done = 0
    while done < n:
        take = min(n - done, words[STREAM.block_size] - words[STREAM.filled])
        _receive(words, sources, done, take)
        if words[STREAM.filled] == words[STREAM.block_size]:
            _run_hop(longs(model, N_WORDS), model, words)
        _return(words, targets, done, take)
        done += take
    return 0


@kernel
def _receive(words: Longs, sources: Longs, first: int, n: int) -> None:
    """Append n samples of every channel to the block; NaN and Inf become silence."""
    channels, filled = words[STREAM.channels], words[STREAM.filled]
    block = floats2(block_at(words), words[STREAM.longest], channels)
    for c in range(channels):
        source = floats(sources[c], first + n)
        for i in range(n):
            x = source[first + i]
            if not np.isfinite(x):
                x = _ZERO
            block[filled + i, c] = max(-_LARGEST, min(x, _LARGEST))
    words[STREAM.filled] = filled + n


@kernel
def _return(words: Longs, targets: Longs, first: int, n: int) -> None:
    """Write the n samples that have waited longest to the outputs."""
    queue = floats2(words[STREAM.queue], words[STREAM.outputs], words[STREAM.queue_size])
    read = words[STREAM.read]
    for k in range(words[STREAM.outputs]):
        target = floats(targets[k], first + n)
        for i in range(n):
            target[first + i] = queue[k, read + i]
    words[STREAM.read] = read + n


@kernel
def _run_hop(header: Longs, model: int, words: Longs) -> None:
    """Separate the block and append what it gives to the queue."""
    stems, hop, channels = header[WORD.n_stems], header[WORD.hop], words[STREAM.channels]
    n, delay = words[STREAM.block_size], words[STREAM.delay]
    number, resamples = words[STREAM.number], words[STREAM.resamples]
    dry = floats2(words[STREAM.dry], delay + words[STREAM.longest], channels)
    mixture = floats2(words[STREAM.dry], n, channels)
    at = block_at(words)
    if resamples:
        block = floats2(at, n, channels)
        at = words[STREAM.hop_input]
        _downsample(header, words, block, floats2(at, hop, channels))
    _separate(header, model, words, at)
    separated = floats3(words[STREAM.stems], stems, hop, channels)
    if resamples:
        full_band = floats3(words[STREAM.full_band], stems, n, channels)
        _upsample(header, words, separated, mixture, full_band)
        separated = full_band
    # What the resampler had to wait for before the first sample was silence.
    skipped = words[STREAM.wait] if number == 0 else 0
    waiting = _close_up(words)
    if words[STREAM.mixes]:
        mixed = floats3(words[STREAM.mix], 1, n, channels)
        targets, lengths, ramps, state, last, meters = mixer(header, words)
        mix(separated, mixture, mixed, True, targets, ramps, state, last, meters, lengths)
        _enqueue(words, mixed, 0, waiting, skipped)
    if words[STREAM.splits]:
        _enqueue(words, separated, words[STREAM.mixes] * channels, waiting, skipped)
    words[STREAM.queued] = waiting + n - skipped
    for i in range(delay):
        for c in range(channels):
            dry[i, c] = dry[i + n, c]
    words[STREAM.number], words[STREAM.filled] = number + 1, 0
    before = end_of_hop(number + 1, hop, words[STREAM.step], words[STREAM.wait])
    after = end_of_hop(number + 2, hop, words[STREAM.step], words[STREAM.wait])
    words[STREAM.block_size] = after - before


@kernel
def _separate(header: Longs, model: int, words: Longs, at: int) -> None:
    """Run a hop of samples, (hop, C) at address `at`, through the network."""
    stems, hop, channels = header[WORD.n_stems], header[WORD.hop], words[STREAM.channels]
    length, sizes = header[WORD.synthesis], frame_sizes(words)
    windows = (
        floats(model + header[WORD.analysis_at], header[WORD.n_fft]),
        floats(model + header[WORD.synthesis_at], length),
        floats(model + header[WORD.product_at], length),
        floats(model + header[WORD.tables_at], header[WORD.tables_bytes] // 4),
    )
    arenas = (
        floats(words[STREAM.state], header[WORD.state_size]),
        floats(words[STREAM.work], header[WORD.work_size]),
        floats(words[STREAM.stft_state], stft_state_size(sizes)),
        floats(words[STREAM.scratch], stft_scratch_size(sizes)),
    )
    run_hops(
        floats3(at, 1, hop, channels),
        floats4(words[STREAM.stems], 1, stems, hop, channels),
        floats2(words[STREAM.weights], stems, hop),
        1,
        longs2(
            model + header[WORD.instructions_at], header[WORD.n_instructions], header[WORD.words]
        ),
        floats(model + header[WORD.weights_at], header[WORD.weights_bytes] // 4),
        registers(words),
        sizes,
        windows,
        arenas,
        longs(words[STREAM.clock], 1),
    )


@kernel
def _downsample(header: Longs, words: Longs, block: Floats, hop_input: Floats) -> None:
    """Resample a block to a hop at the model's rate, which is then complete."""
    n, channels = block.shape
    history = down_history(header, words)
    filled, wait = words[STREAM.converted], words[STREAM.wait]
    for i in range(n):
        for c in range(channels):
            history[filled + i, c] = block[i, c]
    filled += n
    table = floats2(words[STREAM.down_table], TABLE_ROWS, 2 * wait)
    position = longs(words[STREAM.position], 1)
    _, used = convert(history, filled, position, words[STREAM.step], wait, table, hop_input)
    for i in range(filled - used):
        for c in range(channels):
            history[i, c] = history[used + i, c]
    words[STREAM.converted] = filled - used


@kernel
def _upsample(
    header: Longs, words: Longs, separated: Floats, mixture: Floats, full_band: Floats
) -> None:
    """Resample a hop's stems to the stream's rate, and add their part of the rest."""
    stems, hop, kept = header[WORD.n_stems], header[WORD.hop], words[STREAM.kept]
    wait, number = words[STREAM.up_wait], words[STREAM.number]
    history, weights = up_history(header, words), up_weights(header, words)
    push_hop(separated, floats2(words[STREAM.weights], stems, hop), True, history, weights)
    end = end_of_hop(number, hop, words[STREAM.step], words[STREAM.wait])
    start = start_in_history(
        number, hop, end, words[STREAM.delay], header[WORD.delay], kept, words[STREAM.up_step]
    )
    table = floats2(words[STREAM.up_table], TABLE_ROWS, 2 * wait)
    taps = floats(words[STREAM.up_taps], 2 * wait)
    upsample(history, weights, start, words[STREAM.up_step], wait, table, taps, mixture, full_band)


@kernel
def _close_up(words: Longs) -> int:
    """Move the samples that wait in the queue to its start; return how many they are."""
    queue = floats2(words[STREAM.queue], words[STREAM.outputs], words[STREAM.queue_size])
    read = words[STREAM.read]
    waiting: int = words[STREAM.queued] - read
    for k in range(words[STREAM.outputs]):
        for i in range(waiting):
            queue[k, i] = queue[k, read + i]
    words[STREAM.read], words[STREAM.queued] = 0, waiting
    return waiting


@kernel
def _enqueue(words: Longs, rows: Floats, output: int, waiting: int, skipped: int) -> None:
    """Append a hop's samples, (R, n, C), less the first `skipped`, for outputs from `output` on."""
    n_rows, n, channels = rows.shape
    queue = floats2(words[STREAM.queue], words[STREAM.outputs], words[STREAM.queue_size])
    for r in range(n_rows):
        for c in range(channels):
            row = queue[output + r * channels + c]
            for i in range(skipped, n):
                row[waiting + i - skipped] = rows[r, i, c]
